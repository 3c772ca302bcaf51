"""The view: addresses by state in blocks, and interfaces with what is wrong with their links."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network

from cocoon_net.dhcp.lease import Lease, State
from cocoon_net.engine.journal import Journal
from cocoon_net.engine.model import Origin, Row
from cocoon_net.records import AddressSet, Interface, Link, Pool, encode
from cocoon_net.store import open_memory
from cocoon_net.supervisor import view

SUBNET = IPv4Network("10.0.0.0/16")
FIRST = int(IPv4Address("10.0.0.254"))


def lease(address: int, state: State) -> Lease:
    return Lease(address, state, 0, b"123456", 0, b"", "", "")


def test_each_address_is_a_letter_and_a_block_ends_with_its_256() -> None:
    pool = Pool(SUBNET, SUBNET[1], (), tuple(IPv4Address(FIRST + i) for i in (0, 1, 2, 3, 9)), mtu=1500)
    seen = view.assemble(
        Journal(open_memory()),
        pool,
        # What is on offer lies over what its last client left.
        [
            lease(FIRST, State.FREE),
            lease(FIRST + 1, State.FREE),
            lease(FIRST + 1, State.OFFERED),
            lease(FIRST + 2, State.BOUND),
        ],
        daemon=view.Daemon("serving"),
        findings=[],
        withdrawn=[IPv4Address(FIRST + 3)],
        wrong_links={},
        events=[],
        now=datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert seen["blocks"] == [
        {"first": "10.0.0.254", "states": "fo"},
        {"first": "10.0.1.0", "states": "bs"},
        {"first": "10.0.1.7", "states": "f"},
    ]
    states = seen["pool"]["states"]
    assert (states["free"], states["offered"], states["bound"], states["stranded"]) == (2, 1, 1, 1)
    assert seen["at"] == "2026-01-01T00:00:00Z" and seen["workflow"] == {}


def test_a_link_is_shown_as_the_audit_found_it() -> None:
    database = open_memory()
    with database.conn:
        database.execute(
            "INSERT INTO ledger (step, key, origin, record, updated_at) VALUES ('links', 'eni-1', 'created', ?, '')",
            [json.dumps(encode(Link(True, name="eth1")))],
        )
    seen = view.assemble(
        Journal(database),
        None,
        [],
        daemon=view.Daemon("stopped"),
        findings=[{"kind": "link-down", "key": "eni-1"}, {"kind": "bridge", "key": "cni0"}],
        withdrawn=[],
        wrong_links={},
        events=[],
        now=datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert [(one["link"], one["state"]) for one in seen["enis"]] == [("eth1", "down")]


def test_an_interface_is_shown_with_its_link_and_what_is_wrong_with_it() -> None:
    records = {
        ("enis", "eni-1"): Interface(SUBNET, (), id="eni-a", mac="02:00:00:00:00:01"),
        ("enis", "eni-10"): Interface(SUBNET, (), id="eni-j", mac="02:00:00:00:00:0a"),
        ("enis", "eni-2"): Interface(SUBNET, (), id="eni-b", mac="02:00:00:00:00:02"),
        ("links", "eni-1"): Link(True, name="eth1", mac="02:00:00:00:00:01"),
        ("links", "eni-10"): Link(True, name="eth10", mac="02:00:00:00:00:0a"),
        ("addresses", "eni-1"): AddressSet(20),
    }
    ledger = {place: Row(*place, Origin.CREATED, record) for place, record in records.items()}
    shown = view.interfaces(ledger, {"eni-10": "missing"})
    assert [(one["key"], one["id"], one["link"], one["state"], one["addresses"]) for one in shown] == [
        ("eni-1", "eni-a", "eth1", "up", 20),
        ("eni-2", "eni-b", "", "no link yet", 0),
        ("eni-10", "eni-j", "eth10", "missing", 0),
    ]
