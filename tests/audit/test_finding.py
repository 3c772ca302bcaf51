"""When a sighting counts: what is confirmed, what is unknown, what is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import pytest

from cocoon_net.audit.finding import AREAS, ENOUGH, Evidence, Kind, Pass, Sighting, Source, withdrawn
from cocoon_net.audit.register import Register
from cocoon_net.engine.journal import Journal
from cocoon_net.store import open_memory

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
A = "172.20.100.17"
CLOUD, METADATA = Evidence(Source.CLOUD, "not on eni-1"), Evidence(Source.METADATA, "not on eni-1")
STILL = Evidence(Source.METADATA, "on eni-1", agrees=False)
EVERYWHERE = frozenset(AREAS.values())


def down() -> Sighting:
    return Sighting(Kind.LINK_DOWN, "eni-1", "eth1 is down", (Evidence(Source.KERNEL, "down"),), "ip link set eth1 up")


def gone(*evidence: Evidence) -> Sighting:
    return Sighting(Kind.ADDRESS_GONE, A, "the cloud took it away", evidence)


@pytest.fixture
def register() -> Register:
    return Register(open_memory())


class Passes:
    """Passes a minute apart."""

    def __init__(self, register: Register) -> None:
        self.register = register
        self.at = NOON

    def __call__(self, *sightings: Sighting, blind: str = "") -> None:
        self.at += timedelta(minutes=1)
        unknown = {blind: "the cloud does not answer"} if blind else {}
        self.register.record(Pass(self.at, 0.5, EVERYWHERE - {blind}, sightings, unknown))


@pytest.fixture
def audit(register: Register) -> Passes:
    return Passes(register)


def test_what_is_wrong_on_the_node_counts_at_once_and_is_over_when_it_is_not_seen(
    register: Register, audit: Passes
) -> None:
    audit(down())
    audit(down())
    (finding,) = register.open_findings()
    assert finding.counts and finding.confirmed == 2
    assert (finding.first_seen, finding.last_seen) == (NOON + timedelta(minutes=1), NOON + timedelta(minutes=2))
    assert finding.sighting == down()
    audit()
    assert register.open_findings() == []
    (over,) = register.resolved()
    assert over.resolved == NOON + timedelta(minutes=3) and not over.counts
    audit(down())
    (again,) = register.open_findings()
    assert again.first_seen == NOON + timedelta(minutes=4) and again.confirmed == 1
    assert register.counts() == {"link-down": 1}
    assert register.last() == (NOON + timedelta(minutes=4), 0.5)


def test_an_address_is_gone_when_two_sources_agree_often_enough_in_a_row(register: Register, audit: Passes) -> None:
    for _ in range(ENOUGH - 1):
        audit(gone(CLOUD, METADATA))
    assert not register.withdrawn()
    audit(gone(CLOUD, METADATA))
    assert register.withdrawn() == {IPv4Address(A)}
    audit()
    assert not register.withdrawn()


def test_one_source_alone_never_takes_an_address_away(register: Register, audit: Passes) -> None:
    for _ in range(5 * ENOUGH):
        audit(gone(CLOUD))
    (finding,) = register.open_findings()
    assert not finding.counts and finding.confirmed == 0


def test_a_source_that_contradicts_begins_the_count_anew(register: Register, audit: Passes) -> None:
    for _ in range(ENOUGH - 1):
        audit(gone(CLOUD, METADATA))
    audit(gone(CLOUD, STILL))
    for _ in range(ENOUGH - 1):
        audit(gone(CLOUD, METADATA))
    assert not register.withdrawn()


def test_unknown_neither_confirms_nor_resolves_and_says_since_when(register: Register, audit: Passes) -> None:
    for _ in range(ENOUGH):
        audit(gone(CLOUD, METADATA))
    for _ in range(10):
        audit(blind="addresses")
    unknown, *_ = [one for one in register.open_findings() if one.kind is Kind.UNKNOWN]
    assert unknown.key == "addresses" and unknown.first_seen == NOON + timedelta(minutes=ENOUGH + 1)
    assert register.withdrawn() == {IPv4Address(A)}
    audit()
    assert register.open_findings() == []


def test_an_interface_that_is_gone_takes_its_addresses_along(register: Register, audit: Passes) -> None:
    detached = Sighting(Kind.INTERFACE_DETACHED, "eni-1", "detached", (CLOUD, METADATA))
    for _ in range(ENOUGH):
        audit(detached)
    addresses = {"eni-1": (IPv4Address(A),), "eni-2": (IPv4Address("172.20.100.18"),)}
    assert withdrawn(register.open_findings(), addresses) == {IPv4Address(A)}


CALLS = {("DescribeSubnets", ""): 2, ("DescribeSubnets", "FlowLimitExceeded"): 1}


def test_the_calls_of_a_pass_are_counted(register: Register) -> None:
    for _ in range(2):
        register.record(Pass(NOON, 0.25, frozenset({"links"}), calls=CALLS))
    assert Journal(register._database).answers.read() == {place: 2 * count for place, count in CALLS.items()}


def test_every_kind_has_an_area_and_a_pass_reads_back() -> None:
    assert set(AREAS) == set(Kind) - {Kind.UNKNOWN}
    seen = Pass(
        NOON, 0.25, frozenset({"links"}), (down(), gone(CLOUD, STILL)), {"enis": "why"}, ("update cni0",), CALLS
    )
    assert Pass.from_json(seen.as_json()) == seen
