"""The small look at the kernel: pure comparisons, and what counts once two looks agree."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import IPv4Address

import pytest
from loguru import logger

from cocoon_net.engine.model import Busy, Change, Context, Origin, Row
from cocoon_net.errors import NodeError
from cocoon_net.records import Link, Record, Route
from cocoon_net.spec import parse
from cocoon_net.supervisor.survey import Nics, Survey, compare_links, compare_routes, require_links

A, B = IPv4Address("10.0.0.2"), IPv4Address("10.0.0.3")


def link(number: int, *, up: bool = True) -> Link:
    return Link(up=up, name=f"eth{number}", mac=f"02:00:00:00:00:0{number}")


def row(number: int) -> Row:
    return Row("links", f"eni-{number}", Origin.CREATED, link(number))


def route(address: IPv4Address, name: str = "cni0") -> Route:
    return Route(address, name, ours=True)


class Kernel:
    """An inventory whose world a test sets by hand; it may fail."""

    def __init__(self) -> None:
        self.seen: dict[str, Record | Busy] = {}
        self.broken = False

    def observe(self, cx: Context) -> Mapping[str, Record | Busy]:
        if self.broken:
            raise NodeError("the kernel does not answer")
        return dict(self.seen)

    def apply(self, change: Change, token: str, cx: Context) -> Mapping[str, str]:
        raise AssertionError("a survey never changes anything")


def test_links_are_expected_present_down_or_missing() -> None:
    rows = {f"eni-{n}": row(n) for n in (1, 2, 10)}
    seen: dict[str, Record | Busy] = {"eni-1": link(1), "eni-10": link(1, up=False), "eni-9": link(9)}
    nics = compare_links(rows, seen)
    assert (nics.expected, nics.present, nics.wrong) == (3, 2, {"eni-2": "missing", "eni-10": "down"})
    assert nics.lines == ("eni-2 (eth2) is missing", "eni-10 (eth10) is down")
    assert compare_links({}, {}) == Nics()


def test_all_links_missing_is_refused_and_one_is_enough() -> None:
    with pytest.raises(NodeError, match="none of the 2 secondary links is there"):
        require_links(compare_links({"eni-1": row(1), "eni-2": row(2)}, {}))
    require_links(compare_links({"eni-1": row(1), "eni-2": row(2)}, {"eni-2": link(2)}))
    require_links(Nics())


def test_routes_are_missing_or_stray_and_others_are_not_ours_to_judge() -> None:
    seen = {"a": route(A), "x": route(IPv4Address("10.9.9.9"), "eth0")}
    assert compare_routes({A}, seen) == ()
    assert compare_routes({B}, seen) == ("10.0.0.3 is leased and has no route", "10.0.0.2 has a route and no lease")


@pytest.fixture
def kernel() -> dict[str, Kernel]:
    return {"links": Kernel(), "routes": Kernel()}


@pytest.fixture
def survey(kernel: dict[str, Kernel]) -> Survey:
    spec = parse(platform="volcengine", node_name="n", subnet="10.0.0.0/24")
    cx = Context(spec, None, {("links", "eni-1"): row(1)}, "l", datetime(2026, 1, 1, tzinfo=UTC))
    kernel["links"].seen = {"eni-1": link(1)}
    return Survey(kernel, cx, lambda: {A})


def test_a_difference_counts_when_two_looks_have_seen_it(survey: Survey, kernel: dict[str, Kernel]) -> None:
    assert survey.look() == ()  # the route may just be on its way
    assert survey.look() == ("10.0.0.2 is leased and has no route",)
    assert survey.confirmed == {"link": (), "route": ("10.0.0.2 is leased and has no route",)}
    kernel["routes"].seen = {"a": route(A)}
    assert survey.look() == ()


def test_a_passing_difference_never_counts(survey: Survey, kernel: dict[str, Kernel]) -> None:
    survey.look()
    kernel["routes"].seen = {"a": route(A), "b": route(B)}
    assert survey.look() == ()
    kernel["routes"].seen = {"a": route(A)}
    assert survey.look() == ()


def test_a_look_that_fails_is_unknown_not_gone(survey: Survey, kernel: dict[str, Kernel]) -> None:
    survey.look()
    confirmed = survey.look()
    kernel["routes"].broken = True
    assert survey.look() == confirmed
    kernel["routes"].broken = False
    assert survey.look() == confirmed
    assert survey.nics == Nics(1, 1, {}, {"eni-1": "eth1"})


def test_many_differences_are_a_few_lines(survey: Survey, kernel: dict[str, Kernel]) -> None:
    lines: list[str] = []
    handler = logger.add(lambda message: lines.append(message.record["message"]), level="INFO")
    kernel["routes"].seen = {str(number): route(A + number) for number in range(50)}
    survey.look()
    assert lines == [] and len(survey.look()) == 49
    assert len(lines) == 6 and lines[-1] == "difference: 44 more like these"
    kernel["routes"].seen = {"a": route(A)}
    survey.look()
    logger.remove(handler)
    assert len(lines) == 12 and lines[-1] == "no longer: 44 more like these"


def test_a_link_that_is_back_is_told_however_many_routes_are(survey: Survey, kernel: dict[str, Kernel]) -> None:
    lines: list[str] = []
    kernel["routes"].seen = {str(number): route(A + number) for number in range(50)}
    kernel["links"].seen = {}
    survey.look()
    survey.look()
    kernel["routes"].seen, kernel["links"].seen = {"a": route(A)}, {"eni-1": link(1)}
    handler = logger.add(lambda message: lines.append(message.record["message"]), level="INFO")
    survey.look()
    logger.remove(handler)
    assert "no longer: eni-1 (eth1) is missing" in lines and "no longer: 44 more like these" in lines
