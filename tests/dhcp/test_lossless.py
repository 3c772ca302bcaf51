"""What cannot be written down or routed is not said: silence at the socket, and nothing half-done behind it."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address
from typing import Any

import pytest

from cocoon_net import records
from cocoon_net.clock import ManualClock
from cocoon_net.dhcp.book import Book, Note
from cocoon_net.dhcp.lease import Lease, State
from cocoon_net.dhcp.limits import Limits
from cocoon_net.dhcp.server import Server
from cocoon_net.errors import NodeTransient, StoreError
from cocoon_net.events import Bus, Event, LeaseBound, LeaseRenewed
from cocoon_net.lab.load import Clients
from cocoon_net.node.routewire import RouteWire

pytestmark = pytest.mark.root

SERVER = int(IPv4Address("172.20.100.1"))
FIRST = int(IPv4Address("172.20.100.10"))
FREE_FOR_ALL = Limits(addresses=0, rate=0)


def writable(book: Book, may: bool) -> None:
    """Have SQLite refuse to write, as it does on a file system that went read-only, or have it write again."""
    book._connection.execute(f"PRAGMA query_only = {int(not may)}")


class Grumpy(RouteWire):
    """The real kernel, which refuses some routes, or does not answer."""

    refused: frozenset[int] = frozenset()
    mute = False

    def change(self, present: Sequence[int], absent: Sequence[int]) -> dict[int, int]:
        if Grumpy.mute:
            raise NodeTransient("the kernel does not answer")
        mine = [address for address in present if address not in Grumpy.refused]
        failures = super().change(mine, absent)
        return failures | {address: errno.ENOBUFS for address in present if address in Grumpy.refused}


@pytest.fixture(autouse=True)
def content() -> Any:
    yield
    Grumpy.refused, Grumpy.mute = frozenset(), False


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def bus(told: list[Event]) -> Bus:
    bus = Bus()
    for kind in (LeaseBound, LeaseRenewed):
        bus.subscribe(kind, told.append)
    return bus


def ask(node: Any, guest: str, count: int, patience: float, first: int = 0) -> list[int]:
    """Have ``count`` clients ask; returns the address of each, 0 for one that heard no ACK."""

    def run() -> list[int]:
        clients = Clients(count, server=SERVER, first=first)
        try:
            clients.run(count, patience=patience, retry=0.2)
            return clients.addresses
        finally:
            clients.close()

    return list(node.of_guest(guest, run))


def test_a_commit_that_fails_is_silence_and_leaves_nothing_behind(
    node: Any, book: Book, pool: records.Pool, serving: Any, bus: Bus, told: list[Event]
) -> None:
    guest = node.add_guest("02:00:5e:10:00:01")
    with serving(node, Server(book, pool, bus=bus, limits=FREE_FOR_ALL)) as server:
        writable(book, False)
        assert ask(node, guest, 5, 1.0) == [0] * 5, "nobody was promised anything"
        snapshot = server.snapshot()
        assert snapshot.commit_failures > 0
        assert (snapshot.bound, told, book.leases(), node.routes()) == (0, [], [], set())
        writable(book, True)
        got = ask(node, guest, 5, 5.0)
        assert len(set(got)) == 5 and 0 not in got
        assert {lease.address for lease in book.leases()} == set(got)


def test_a_renewal_that_cannot_be_written_is_not_confirmed_and_the_lease_stays(
    node: Any, book: Book, pool: records.Pool, serving: Any, bus: Bus, told: list[Event]
) -> None:
    guest = node.add_guest("02:00:5e:10:00:01")
    with serving(node, Server(book, pool, bus=bus, limits=FREE_FOR_ALL)) as server:
        ask(node, guest, 1, 5.0)
        (before,) = book.leases()
        writable(book, False)
        with pytest.raises(StoreError):
            server.release("02:10:00:00:00:00")
        assert ask(node, guest, 1, 1.0) == [0]
        assert book.leases() == server.leases() == [before]
        assert node.routes() == {"172.20.100.10"}, "the guest stays reachable"
        assert len(told) == 1


def test_an_address_whose_route_the_kernel_refuses_is_promised_to_nobody(
    node: Any, book: Book, pool: records.Pool, serving: Any, bus: Bus, told: list[Event]
) -> None:
    """Its client hears nothing, asks again, and gets the next one."""
    guest = node.add_guest("02:00:5e:10:00:01")
    Grumpy.refused = frozenset({FIRST + 1, FIRST + 3})
    with serving(node, Server(book, pool, bus=bus, connect=Grumpy, limits=FREE_FOR_ALL)) as server:
        got = ask(node, guest, 5, 5.0)
        assert len(set(got)) == 5 and not Grumpy.refused & set(got)
        assert {lease.address for lease in book.leases()} == set(got)
        assert {event.address for event in told} == {IPv4Address(a) for a in got}  # type: ignore[attr-defined]
        assert server.snapshot().route_failures > 0
    assert node.routes() == {str(IPv4Address(address)) for address in got}


def test_a_kernel_that_does_not_answer_is_silence_until_it_was_asked_what_it_has(
    node: Any, book: Book, pool: records.Pool, serving: Any, eventually: Callable[..., Any]
) -> None:
    guest = node.add_guest("02:00:5e:10:00:01")
    with serving(node, Server(book, pool, connect=Grumpy, limits=FREE_FOR_ALL)):
        Grumpy.mute = True
        assert ask(node, guest, 3, 1.0) == [0, 0, 0]
        assert book.leases() == []
        Grumpy.mute = False
        assert 0 not in ask(node, guest, 3, 5.0)
        assert len(node.routes()) == 3


def test_a_bridge_that_is_down_or_gone_is_silence_and_a_new_one_has_all_routes(
    node: Any, book: Book, pool: records.Pool, serving: Any, eventually: Callable[..., Any]
) -> None:
    guest = node.add_guest("02:00:5e:10:00:01")
    with serving(node, Server(book, pool, limits=FREE_FOR_ALL)) as server:
        first = ask(node, guest, 3, 5.0)
        node.ip("link", "set", "cni0", "down")
        assert ask(node, guest, 3, 0.7, first=100) == [0, 0, 0]
        node.ip("link", "set", "cni0", "up")
        eventually(lambda: len(node.routes()) == 3)
        node.ip("link", "del", "cni0")
        assert ask(node, guest, 3, 0.7, first=100) == [0, 0, 0]
        assert {lease.address for lease in book.leases() if lease.state is State.BOUND} == set(first)
        node.make_bridge()
        node.plug(guest)
        eventually(lambda: len(node.routes()) == 3)
        assert 0 not in ask(node, guest, 3, 5.0, first=100)
        assert len(node.routes()) == server.snapshot().bound == 6


def test_a_lease_never_ends_before_its_client_thinks_so(
    node: Any, book: Book, pool: records.Pool, serving: Any, eventually: Callable[..., Any]
) -> None:
    """Asked for at a fraction of a second, promised in whole ones."""
    guest = node.add_guest("02:00:5e:10:00:01")
    clock = ManualClock(datetime(2026, 1, 1, 0, 0, 0, 900_000, tzinfo=UTC))
    asked = clock.now().timestamp()
    with serving(node, Server(book, pool, clock=clock, limits=FREE_FOR_ALL)) as server:
        ask(node, guest, 1, 5.0)
        ((_, _, ends, *_),) = server.leases()
        clock.advance(86_400 - 0.1)
        assert ends < clock.now().timestamp() < asked + 86_400
        time.sleep(0.6)  # some rounds of the loop
        assert len(server.leases()) == 1 and node.routes() == {"172.20.100.10"}
        clock.advance(1.2)
        eventually(lambda: not server.leases())


def test_a_release_that_was_written_takes_its_route_along_and_one_that_was_not_keeps_it(
    node: Any, book: Book, pool: records.Pool, serving: Any
) -> None:
    guest = node.add_guest("02:00:5e:10:00:01")
    kept = Lease(FIRST + 9, State.BOUND, 4_000_000_000, bytes.fromhex("525400000009"), 1)
    book.commit([kept], [Note(1, kept.address, "52:54:00:00:00:09", "bound", "bound")])
    with serving(node, Server(book, pool, limits=FREE_FOR_ALL)) as server:
        ask(node, guest, 1, 5.0)
        assert node.routes() == {"172.20.100.10", "172.20.100.19"}, "a start routes what the book holds"
        assert server.release("52:54:00:00:00:09")
        assert node.routes() == {"172.20.100.10"}
