"""An answer that shows nothing is no proof that all is gone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.audit.audit import Audit, Wishes
from cocoon_net.clock import SystemClock
from cocoon_net.cloud.platform import Witness
from cocoon_net.engine.journal import Journal
from cocoon_net.engine.model import Busy, Context, Origin, Row
from cocoon_net.engine.workflow import load
from cocoon_net.records import AddressSet, Attachment, IngressRule, Instance, Interface, Record, Subnet
from cocoon_net.site import Site
from cocoon_net.spec import parse
from cocoon_net.steps import STEPS
from cocoon_net.store import open_database

NET, A, MAC = IPv4Network("172.20.100.0/24"), IPv4Address("172.20.100.9"), "02:00:00:00:00:01"
HERE = Instance(
    "volcengine", "i-1", "t", "r", "r-a", "vpc", IPv4Network("172.20.0.0/16"), "m", A, "eni-p", ("sg-1",), 8, 21
)  # fmt: skip
WORLD: dict[str, dict[str, Record]] = {
    "subnet": {"subnet": Subnet(NET, "r-a", "subnet-1")},
    "enis": {"eni-1": Interface(NET, ("sg-1",), "eni-a", MAC, IPv4Address("172.20.100.2"), "i-1")},
    "ingress": {"sg-1/172.20.0.0/16": IngressRule("sg-1", HERE.vpc_cidr)},
    "attach": {"eni-1": Attachment("i-1", "eni-a")},
    "addresses": {"eni-1": AddressSet(1, (A,), "eni-a")},
}


class Shown:
    """An inventory that shows what a test says."""

    def __init__(self, seen: Mapping[str, Record | Busy]) -> None:
        self.seen = seen

    def observe(self, cx: Context) -> Mapping[str, Record | Busy]:
        return self.seen

    def calls(self, change: Any, cx: Context) -> tuple[Any, ...]:
        return ()


class Cloud:
    """A platform that shows what a test says."""

    def __init__(self, shown: Mapping[str, Mapping[str, Record | Busy]], attached: dict[str, frozenset[IPv4Address]]):
        self.shown, self.attached = shown, attached

    def witness(self) -> Witness:
        return Witness("i-1", self.attached, datetime.now(UTC))

    def inventories(self) -> dict[str, Shown]:
        return {step: Shown(seen) for step, seen in self.shown.items()}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path, tmp_path, tmp_path)
    journal, now = Journal(open_database(site.database)), datetime.now(UTC)
    spec = parse(platform="volcengine", node_name="n", subnet=str(NET), pool_size=1)
    with journal.transaction():
        run = journal.start(load("init", STEPS), spec, HERE, version="0", by="test", now=now)
        for step, records in WORLD.items():
            journal.enter(run.id, step, now)
            rows = [Row(step, key, Origin.CREATED, record) for key, record in records.items()]
            journal.settle(run.id, step, rows, {}, 0.0, now)
        journal.moved(run.id, "done", now)
    return site


def look(site: Site, attached: dict[str, frozenset[IPv4Address]] | None = None, **shown: Any) -> tuple[set[str], Any]:
    """Return the kinds of what the cloud's areas told, and what is unknown."""
    audit = Audit(site, open_database(site.database), SystemClock(), Wishes())
    attached = {MAC: frozenset({A})} if attached is None else attached
    audit._world.__dict__["platform"] = Cloud({**WORLD, **shown}, attached)
    audit._look_at_cloud(audit._ask_witness("i-1"))
    return {str(one.kind) for one in audit._notes.sightings}, audit._notes.unknown


def test_all_as_it_should_be(site: Site) -> None:
    assert look(site) == (set(), {})


def test_a_listing_that_is_empty_is_unknown_and_so_is_what_hangs_on_it(site: Site) -> None:
    kinds, unknown = look(site, enis={}, attach={}, addresses={})
    assert kinds == set() and set(unknown) == {"enis", "attach", "addresses"}
    assert "no proof" in unknown["enis"]


def test_what_is_between_two_states_is_unknown(site: Site) -> None:
    kinds, unknown = look(site, attach={"eni-1": Busy("eni-1 to attach")})
    assert kinds == set() and unknown == {"attach": "waiting for eni-1 to attach"}


def test_an_address_that_the_listing_shows_no_more_is_gone(site: Site) -> None:
    other = {"eni-1": AddressSet(1, (IPv4Address("172.20.100.10"),), "eni-a")}
    assert look(site, addresses=other)[0] == {"address-gone", "address-added"}


def test_metadata_of_another_instance_is_no_witness(site: Site) -> None:
    audit = Audit(site, open_database(site.database), SystemClock(), Wishes())
    audit._world.__dict__["platform"] = Cloud(WORLD, {})
    assert audit._ask_witness("i-2") is None
    assert "this is i-1" in audit._notes.unknown["metadata"]
