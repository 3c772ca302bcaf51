"""Before an address is first offered, somebody may be asked whether he uses it; nobody else waits meanwhile."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import pytest

from cocoon_net import records
from cocoon_net.dhcp import frame, wire
from cocoon_net.dhcp.book import Book
from cocoon_net.dhcp.conflict import WAIT, Conflicts
from cocoon_net.dhcp.decision import Decision, Reason
from cocoon_net.dhcp.lease import State
from cocoon_net.dhcp.options import MessageType
from cocoon_net.dhcp.server import Server
from cocoon_net.dhcp.settings import Settings, Terms
from cocoon_net.events import AddressInUse, Bus
from cocoon_net.lab.load import Clients, broadcast

pytestmark = pytest.mark.root

SERVER = int(IPv4Address("172.20.100.1"))
FIRST = int(IPv4Address("172.20.100.10"))
RETRY = 2.0


def lease(node: Any, guest: str, count: int = 1, first: int = 0) -> tuple[list[int], float]:
    """Have clients ask; returns their addresses and how long the slowest took."""

    def ask() -> tuple[list[int], float]:
        clients = Clients(count, server=SERVER, first=first)
        try:
            report = clients.run(count, patience=5.0, retry=RETRY)
            return clients.addresses, report.times[-1] if report.times else 0.0
        finally:
            clients.close()

    addresses, slowest = node.of_guest(guest, ask)
    return addresses, slowest


def test_an_address_that_somebody_uses_is_not_offered_but_quarantined(
    node: Any, book: Book, pool: records.Pool, serving: Any
) -> None:
    squatter, guest = (node.add_guest(f"02:00:5e:10:00:0{number}") for number in (1, 2))
    for address in ("172.20.100.10", "172.20.100.11"):
        node.execute(squatter, "ip", "addr", "add", f"{address}/24", "dev", "eth0")
    told: list[AddressInUse] = []
    bus = Bus()
    bus.subscribe(AddressInUse, told.append)
    with serving(node, Server(book, pool, bus=bus, check_conflicts=True)) as server:
        addresses, took = lease(node, guest)
        assert addresses == [FIRST + 2] and took < RETRY, "at its first question, though two were in use"
        assert [(str(event.address), event.mac) for event in told] == [
            ("172.20.100.10", "02:00:5e:10:00:01"),
            ("172.20.100.11", "02:00:5e:10:00:01"),
        ]
        assert {row.address: row.state for row in book.leases()} == {
            FIRST: State.QUARANTINED,
            FIRST + 1: State.QUARANTINED,
            FIRST + 2: State.BOUND,
        }
        decisions, _ = server.trace(bytes.fromhex("021000000000"))
        assert [one.reason for one in decisions] == [Reason.CONFLICT, Reason.CONFLICT, Reason.OFFERED, Reason.BOUND]
        assert len(lease(node, guest, 7, first=100)[0]) == 7, "what others use is not on this port's account"


def test_nobody_waits_for_anothers_probe_and_a_known_client_for_none(
    node: Any, book: Book, pool: records.Pool, serving: Any
) -> None:
    guest, other = (node.add_guest(f"02:00:5e:10:00:0{number}") for number in (1, 2))
    with serving(node, Server(book, pool, check_conflicts=True)):
        _, first = lease(node, guest)
        assert WAIT <= first < RETRY, "no packet has to come to wake the loop up"
        _, again = lease(node, guest)  # INIT: its own address is offered, no new one
        assert again < WAIT
        thread = node.start(other, lambda: Clients(1, server=SERVER, first=50).run(1, patience=5.0))
        time.sleep(0.05)
        assert lease(node, guest)[1] < WAIT, "while the other one's offer is held"
        thread.join()
        assert thread.result.leases == 1


def test_a_client_that_uses_its_address_already_is_no_conflict(
    node: Any, book: Book, pool: records.Pool, serving: Any, eventually: Callable[..., Any]
) -> None:
    """A guest that lost its lease and kept its address: it answers for itself."""
    guest = node.add_guest("02:10:00:00:00:00")
    node.execute(guest, "ip", "addr", "add", "172.20.100.10/24", "dev", "eth0")
    with serving(node, Server(book, pool, check_conflicts=True)):
        assert lease(node, guest)[0] == [FIRST]


@pytest.mark.parametrize("htype", [wire.ETHERNET, 6])
def test_two_messages_do_not_go_past_the_probe(
    node: Any, book: Book, pool: records.Pool, serving: Any, htype: int
) -> None:
    """RFC 4039's server MAY answer with an OFFER; an ACK could not wait for who uses the address."""
    guest = node.add_guest("02:00:5e:10:00:01")

    def ask() -> int:
        said = {53: bytes((MessageType.DISCOVER,)), 80: b""}
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as sock:
            sock.bind(("eth0", 0x0800))
            mac = bytes.fromhex("02005e100001")
            sock.send(broadcast(mac, wire.encode(wire.Packet(wire.REQUEST, 7, mac, said, htype=htype))))
            sock.settimeout(3)
            while True:
                reply = wire.decode(frame.unwrap(sock.recv(2048)) or b"")
                if isinstance(reply, wire.Packet) and reply.op == wire.REPLY:
                    return reply.type

    settings = Settings(Terms(rapid_commit=True))
    with serving(node, Server(book, pool, settings=settings, check_conflicts=True)) as server:
        assert node.of_guest(guest, ask) == MessageType.OFFER
        assert not server.leases()


def test_two_of_different_hardware_with_the_same_digits_are_two(node: Any) -> None:
    ethernet = wire.Packet(wire.REQUEST, 7, bytes.fromhex("02005e100001"), {53: bytes((MessageType.DISCOVER,))})
    other = ethernet._replace(htype=6)
    decision = Decision(Reason.OFFERED, MessageType.OFFER, FIRST)

    def held() -> list[wire.Packet]:
        index = socket.if_nametoindex("cni0")
        conflicts = Conflicts(index, bytes.fromhex("02005e000001"))
        conflicts.hold(decision, ethernet, 0.0)
        conflicts.hold(decision, ethernet._replace(xid=8), WAIT / 2)
        assert [one.packet.xid for one in conflicts.due(WAIT)] == [8], "it asked again and does not wait for longer"
        conflicts = Conflicts(index, bytes.fromhex("02005e000001"))
        conflicts.hold(decision, ethernet, 0.0)
        conflicts.hold(decision, other, WAIT / 2)
        assert conflicts.due(WAIT) == []
        return [one.packet for one in conflicts.due(2 * WAIT)]

    assert node.of_guest(node.name, held) == [other]


def test_without_the_option_nobody_is_asked(node: Any, book: Book, pool: records.Pool, serving: Any) -> None:
    guest = node.add_guest("02:00:5e:10:00:01")
    with serving(node, Server(book, pool)):
        addresses, slowest = lease(node, guest)
        assert addresses == [FIRST] and slowest < WAIT
