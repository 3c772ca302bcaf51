"""What keeps the node right: what could not be put right is a reason for an operator, for as long as it is so."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import NoReturn

import pytest
from loguru import logger

from cocoon_net import world
from cocoon_net.audit.finding import Pass
from cocoon_net.clock import SystemClock
from cocoon_net.dhcp.book import Book
from cocoon_net.dhcp.lease import Lease, State
from cocoon_net.engine.model import Change, Verb
from cocoon_net.errors import NodeError, Refused, WorldError
from cocoon_net.node import netlink
from cocoon_net.node.netlink import KernelLink
from cocoon_net.node.notices import Stir
from cocoon_net.records import Bridge, Pool
from cocoon_net.site import Site
from cocoon_net.store import open_database
from cocoon_net.supervisor.keeper import Keeper

POOL = Pool(IPv4Network("172.20.100.0/24"), IPv4Address("172.20.100.1"), (), (IPv4Address("172.20.100.2"),), 1500)


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    site = Site(tmp_path / "state", tmp_path / "cni", tmp_path / "run")
    site.state_dir.mkdir()
    with closing(open_database(site.database)) as database:
        yield Keeper(site, database, SystemClock(), lambda: POOL, skip_firewall=False)


def test_a_node_that_nobody_provisioned_is_left_alone(keeper: Keeper) -> None:
    assert keeper.reassert() == [] and keeper.reasons == ()


def test_what_could_not_be_put_right_is_a_reason_until_it_is(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(**steps: WorldError | None) -> tuple[str, ...]:
        monkeypatch.setattr(world, "reassert", lambda *places, **how: steps)
        keeper.reassert()
        return keeper.reasons

    assert tried(bridge=None, sysctl=NodeError("no such setting")) == ("no such setting",)
    assert tried(bridge=None) == ("no such setting",), "nobody looked at it again"
    assert tried(bridge=NodeError("no bridge"), sysctl=NodeError("still none")) == ("still none", "no bridge")
    assert tried(bridge=None, sysctl=None) == ()


def test_what_could_not_be_put_right_is_logged_with_what_to_do_next(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = {"bridge": Refused("cannot make the bridge: Operation not permitted", hint="run as root")}
    monkeypatch.setattr(world, "reassert", lambda *places, **how: refused)
    lines: list[str] = []
    handler = logger.add(lambda message: lines.append(message.record["message"]), level="ERROR")
    keeper.reassert()
    keeper.reassert()
    logger.remove(handler)
    said = "the node could not be put right: cannot make the bridge: Operation not permitted; run as root"
    assert lines == [said], "once, with its hint"


def test_a_pool_that_is_withdrawn_as_a_whole_is_served_as_it_is(keeper: Keeper) -> None:
    keeper._withdrawn = frozenset(POOL.addresses)
    assert keeper.served() == POOL


def test_a_subnet_that_the_cloud_took_away_is_a_few_lines_of_the_log(keeper: Keeper) -> None:
    lines: list[str] = []
    handler = logger.add(lambda message: lines.append(message.record["message"]), level="INFO")
    gone = frozenset(IPv4Address("172.20.100.2") + number for number in range(140))
    keeper._withdraw(gone)
    keeper._withdraw(frozenset())
    logger.remove(handler)
    assert len(lines) == 2 * 6 and lines[5] == lines[11] == "135 more like these"
    assert lines[0] == "172.20.100.2 is not leased any more: the cloud took it away"
    assert lines[6] == "172.20.100.2 is leased again: the cloud has it"


def test_many_guests_that_are_plugged_in_again_are_a_few_lines_of_the_log(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cocoon_net.supervisor.keeper.plug", lambda unplugged: [f"tap{port}" for port, _ in unplugged])
    lines: list[str] = []
    handler = logger.add(lambda message: lines.append(message.record["message"]), level="INFO")
    keeper._plug(Stir(unplugged=frozenset((number, 7) for number in range(250))))
    logger.remove(handler)
    assert len(lines) == 6 and lines[5] == "245 more like these"


def test_what_the_database_says_is_logged_with_what_to_do_next(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Pass(datetime.now(UTC), 0.1, frozenset(), (), {})
    lines: list[str] = []
    handler = logger.add(lambda message: lines.append(message.record["message"]), level="ERROR")
    keeper._database.execute("PRAGMA busy_timeout = 10")
    with closing(sqlite3.connect(keeper._site.database)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not keeper.audited(seen)
    logger.remove(handler)
    said = "an audit could not be written down: the database: database is locked; another process keeps the database"
    assert len(lines) == 1 and lines[0].startswith(said)


LO, CNI0 = KernelLink(1, "lo", "", 65536, True), KernelLink(2, "cni0", "02:00:5e:00:00:01", 1500, True, "bridge")
BOUND_TAP, COOLING_TAP, OTHER = (KernelLink(3 + n, f"tap{n}", "", 1500, True) for n in range(3))
PORT = replace(OTHER, master=CNI0.index)


@pytest.mark.parametrize(
    ("links", "made", "plugged"),
    [
        ((LO, CNI0, BOUND_TAP, COOLING_TAP, OTHER), True, {(BOUND_TAP.index, 0)}),
        ((LO, CNI0, BOUND_TAP, COOLING_TAP, PORT), True, {(BOUND_TAP.index, 0)}),
        ((LO, CNI0, BOUND_TAP, COOLING_TAP, OTHER), False, {(BOUND_TAP.index, 0)}),
        ((LO, CNI0, BOUND_TAP, COOLING_TAP, PORT), False, None),
        ((LO, BOUND_TAP, COOLING_TAP, OTHER), False, {(BOUND_TAP.index, 0)}),
    ],
    ids=["made anew", "made anew, a guest came", "half made", "in use", "not there yet"],
)
def test_a_bridge_without_guests_has_those_that_leases_name(
    keeper: Keeper,
    monkeypatch: pytest.MonkeyPatch,
    links: tuple[KernelLink, ...],
    made: bool,
    plugged: set[tuple[int, int]] | None,
) -> None:
    want = Bridge("cni0", IPv4Interface("172.20.100.1/24"), CNI0.mac, 1500)
    create = Change("bridge", "cni0", Verb.CREATE, want, None)
    monkeypatch.setattr(keeper, "reassert", lambda: [create] if made else [])
    monkeypatch.setattr(netlink, "links", lambda: links)
    told: list[set[tuple[int, int]]] = []
    monkeypatch.setattr("cocoon_net.supervisor.keeper.plug", lambda unplugged: told.append(set(unplugged)) or [])
    bound, cooling = (
        Lease(int(IPv4Address("172.20.100.2")) + n, state, 0, bytes((2, 0, 0, 0, 0, n)), 0, b"", "", f"tap{n}")
        for n, state in enumerate((State.BOUND, State.COOLING))
    )
    Book(keeper._database).commit([bound, cooling], [])
    keeper.come_up()
    assert told == ([] if plugged is None else [plugged])


def test_guests_that_cannot_be_plugged_in_keep_nobody_from_being_served(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> NoReturn:
        raise Refused("cannot list links", hint="run as root")

    monkeypatch.setattr(netlink, "links", refuse)
    lines: list[str] = []
    handler = logger.add(lambda message: lines.append(message.record["message"]), level="ERROR")
    keeper.come_up()
    logger.remove(handler)
    assert lines == ["the guests could not be plugged in again: cannot list links; run as root"]
