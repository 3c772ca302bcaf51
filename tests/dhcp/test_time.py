"""The wall clock jumps by years, both ways, while the server serves and while nobody does."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from cocoon_net.clock import ManualClock, SystemClock
from cocoon_net.dhcp import wire
from cocoon_net.dhcp.book import Book, Note
from cocoon_net.dhcp.lease import Lease, State
from cocoon_net.dhcp.options import MessageType
from cocoon_net.dhcp.projection import LeaseFile
from cocoon_net.dhcp.server import Server
from cocoon_net.lab.fuzz import Air, Kernel
from cocoon_net.lab.mutations import PORTS
from cocoon_net.recovery import recall
from cocoon_net.site import Site
from cocoon_net.store import open_database
from tests.dhcp.test_frame import framed

YEARS = 9 * 365 * 86_400
HOUR = 3_600
ADDRESS = int(IPv4Address("172.20.100.10"))


class Jumping(SystemClock):
    by = 0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.by)

    def seconds(self) -> int:
        return int(self.now().timestamp())


def of(number, ends, state=State.BOUND):
    return Lease(ADDRESS + number, state, ends, bytes([2, 0, 0, 0, 0, number]), ends - HOUR)


def left(leases, now):
    return {lease.address - ADDRESS: (lease.state.value, round((lease.ends - now) / 60)) for lease in leases}


def in_file(file, now):
    shown = [datetime.fromisoformat(row["expiry"]).timestamp() for row in json.loads(file.read_text())]
    return [round((when - now) / 60) for when in sorted(shown)]


@pytest.mark.root
def test_while_nobody_asks_the_loop_looks_once_a_second_and_ends_at_once(node, book, pool, serving):
    served = serving(node, Server(book, pool))
    with served:
        status = Path(f"/proc/self/task/{served.thread.native_id}/status")

        def slept() -> int:
            return int(status.read_text().partition("voluntary_ctxt_switches:")[2].split()[0])

        time.sleep(0.5)
        before = slept()
        time.sleep(3.0)
        assert slept() - before <= 5
        began = time.monotonic()
    assert time.monotonic() - began < 0.4


@pytest.mark.root
@pytest.mark.parametrize("by", [YEARS, -YEARS, 20 * HOUR, -20 * HOUR])
def test_a_lease_outlives_a_clock_that_jumps_while_it_is_served(node, book, pool, serving, eventually, tmp_path, by):
    clock = Jumping()
    now = clock.seconds()
    leases = [of(1, now + HOUR), of(2, now + 2 * HOUR), of(3, now + HOUR, State.QUARANTINED)]
    book.commit(leases, [])
    expected = {1: ("bound", 60), 2: ("bound", 120), 3: ("quarantined", 60)}
    file = tmp_path / "leases.json"
    beside = Book(open_database(tmp_path / "cocoon-net.db"))
    with serving(node, Server(book, pool, clock=clock, lease_file=LeaseFile(file))):
        eventually(lambda: len(node.routes()) == 2)
        clock.by = by
        eventually(lambda: abs(beside.newest() - clock.seconds()) < 10 if beside.newest() else False)
        eventually(lambda: left(beside.leases(), clock.seconds()) == expected)
        eventually(lambda: in_file(file, clock.seconds()) == [60, 120])
        clock.by = 0
        eventually(lambda: left(beside.leases(), clock.seconds()) == expected)
        assert len(node.routes()) == 2


@pytest.mark.root
def test_a_clock_that_jumps_while_the_loop_is_at_work_ends_no_lease(node, book, pool, serving, eventually, tmp_path):
    clock = Jumping()
    now = clock.seconds()
    book.commit([of(1, now + HOUR), of(2, now + 2 * HOUR)], [])
    beside = Book(open_database(tmp_path / "cocoon-net.db"))

    def jump(_: float) -> None:  # after the loop has looked at the clock, and before it ends what is over
        clock.by = YEARS

    with serving(node, Server(book, pool, clock=clock, beat=jump)):
        eventually(lambda: abs(beside.newest() - clock.seconds()) < 10 if beside.newest() else False)
        assert left(beside.leases(), clock.seconds()) == {1: ("bound", 60), 2: ("bound", 120)}


@pytest.mark.parametrize("by", [YEARS, -YEARS])
def test_a_clock_that_jumps_before_a_request_is_served_gives_the_lease_its_time_once(book, pool, by):
    clock, mac = ManualClock(), bytes([2, 0, 0, 0, 0, 1])
    server = Server(book, pool, clock=clock)
    server._routes.connect(Kernel(), [])

    class Jumpy(Air):
        def receive(self):  # after the loop has looked at the clock
            clock.jump(by)
            return super().receive()

    air = Jumpy()
    more = {50: ADDRESS.to_bytes(4), 53: bytes((MessageType.REQUEST,)), 54: int(pool.gateway).to_bytes(4)}
    air.frames = [(framed(wire.encode(wire.Packet(wire.REQUEST, 7, mac, more))), next(iter(PORTS)))]
    server._keep_time()
    server._exchange.hear(air, None)
    assert len(air.replies) == 1
    server._keep_time()
    assert left(book.leases(), clock.now().timestamp()) == {0: ("bound", 24 * 60)}


def test_a_lease_that_runs_out_after_a_jump_runs_out_when_it_should(book, pool):
    """The heap of what is due moves along, too."""
    from cocoon_net.dhcp.pool import Pool
    from cocoon_net.dhcp.table import Table

    table = Table(Pool.of(pool), [of(1, 1000), of(2, 2000)])
    table.shift(YEARS)
    assert table.due(YEARS + 999, 10) == []
    assert [lease.address - ADDRESS for lease in table.due(YEARS + 1000, 10)] == [1]
    table.shift(-YEARS)
    assert [lease.address - ADDRESS for lease in table.due(2000, 10)] == [2]


@pytest.mark.parametrize("gap", [YEARS, -YEARS, -HOUR])
def test_at_a_start_with_a_clock_that_cannot_be_right_no_lease_is_dropped_and_none_lasts_for_ever(
    book, pool, tmp_path, gap
):
    then = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    book.commit([of(1, then + HOUR), of(2, then + 2 * HOUR)], [Note(then, ADDRESS + 1, "", "bound", "granted")])
    database = open_database(tmp_path / "cocoon-net.db")
    (line,) = recall(Site(tmp_path), database, pool, then + gap)
    assert f"{gap} s after the newest entry of the book" in line and "keep the time they had left" in line
    assert left(book.leases(), then + gap) == {1: ("bound", 60), 2: ("bound", 120)}
    assert recall(Site(tmp_path), database, pool, then + gap + 5) == [], "and that is noticed once"
    database.close()


@pytest.mark.parametrize("gap", [0, 5, HOUR, 23 * HOUR])
def test_a_node_that_was_off_for_a_while_has_a_clock_that_is_right(book, pool, tmp_path, gap):
    then = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    book.commit([of(1, then + HOUR)], [Note(then, ADDRESS + 1, "", "bound", "granted")])
    database = open_database(tmp_path / "cocoon-net.db")
    assert recall(Site(tmp_path), database, pool, then + gap) == []
    assert book.leases() == [of(1, then + HOUR)]
    database.close()
