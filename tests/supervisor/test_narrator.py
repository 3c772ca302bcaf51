"""Lease events as log lines: told, counted, and bounded under a storm."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from loguru import logger

from cocoon_net.events import (
    Bus,
    Event,
    LeaseBound,
    LeaseReleased,
    LeaseRenewed,
    PoolExhausted,
    RouteFailed,
    RouteInstalled,
)
from cocoon_net.lab.patience import eventually
from cocoon_net.supervisor import narrator, refusals
from cocoon_net.supervisor.narrator import Narrator

NOW = datetime(2026, 1, 1, tzinfo=UTC)
A = IPv4Address("10.0.0.2")
MAC = "02:00:00:00:00:01"


@pytest.fixture
def lines() -> Iterator[list[str]]:
    out: list[str] = []
    logger.remove()
    handler = logger.add(lambda message: out.append(message.record["message"]), level="INFO")
    yield out
    logger.remove(handler)


def test_promises_are_counted_and_releases_told(lines: list[str]) -> None:
    bus = Bus()
    teller = Narrator(bus)
    teller.start()
    bus.publish([LeaseBound(NOW, A, MAC, NOW), LeaseRenewed(NOW, A, MAC, NOW), LeaseReleased(NOW, A, MAC, "control")])
    teller.stop()
    assert teller.acknowledged == 2
    assert lines == ["lease bound", "lease released"]


def test_what_is_only_for_debugging_costs_no_line_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrator, "PENDING", 2)
    out: list[str] = []
    logger.remove()
    handler = logger.add(lambda message: out.append(message.record["message"]), level="DEBUG")
    for verbose, told in (
        (False, ["lease bound"]),
        (True, ["route installed", "lease renewed", "too fast to be written one by one: 1 leases bound"]),
    ):
        bus = Bus()
        teller = Narrator(bus, verbose=verbose)
        bus.publish([RouteInstalled(NOW, A), LeaseRenewed(NOW, A, MAC, NOW), LeaseBound(NOW, A, MAC, NOW)])
        assert teller.acknowledged == 2
        teller.start()
        teller.stop()
        assert out == told
        out.clear()
    logger.remove(handler)


def test_promises_that_no_line_tells_are_counted_and_not_made(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narrator, "PENDING", 2)
    bus = Bus()
    teller = Narrator(bus)
    for number, more, wanted in ((0, 1, 1), (1, 3, 1), (2, 1, 0)):
        assert bus.wants(LeaseBound, more) == wanted
        bus.publish([LeaseBound(NOW, A + number, MAC, NOW)] * wanted)
    assert not bus.wants(LeaseRenewed, 1), "nobody follows them, and at this level they are no line"
    assert teller.acknowledged == 6
    teller.start()
    teller.stop()
    assert lines == ["lease bound", "lease bound", "too fast to be written one by one: 3 leases bound"]


def test_who_else_listens_hears_every_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrator, "PENDING", 0)
    for kind in (LeaseBound, Event):
        bus = Bus()
        Narrator(bus)
        assert not bus.wants(LeaseBound, 2)
        bus.subscribe(kind, lambda event: None)
        assert bus.wants(LeaseBound, 2) == 2
        bus = Bus()
        bus.subscribe(kind, lambda event: None)
        Narrator(bus)
        assert bus.wants(LeaseBound, 2) == 2


def test_while_nothing_happens_it_sleeps_and_the_first_event_wakes_it(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narrator, "EVERY", 0.01)
    bus = Bus()
    teller = Narrator(bus)
    teller.start()
    for number in range(1, 4):
        eventually(lambda: teller._asleep)
        before = switches(teller)
        time.sleep(0.3)
        assert switches(teller) == before
        bus.publish([LeaseRenewed(NOW, A, MAC, NOW)])  # makes no line
        assert teller._asleep
        bus.publish([LeaseBound(NOW, A, MAC, NOW)])
        eventually(lambda number=number: len(lines) == number)
    eventually(lambda: teller._asleep)
    began = time.monotonic()
    teller.stop()
    assert time.monotonic() - began < 0.3 and not teller._thread.is_alive()


def test_what_comes_with_the_event_that_wakes_it_is_written_with_it(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narrator, "EVERY", 0.2)
    bus = Bus()
    teller = Narrator(bus)
    write, written = teller._write, list[int]()

    def counted(most: int) -> int:
        written.append(len(teller._pending))
        return write(most)

    monkeypatch.setattr(teller, "_write", counted)
    teller.start()
    eventually(lambda: teller._asleep)
    bus.publish([LeaseBound(NOW, A, MAC, NOW)])
    eventually(lambda: not teller._asleep)
    time.sleep(0.05)
    bus.publish([LeaseBound(NOW, A + 1, MAC, NOW)])
    eventually(lambda: len(lines) == 2)
    teller.stop()
    assert written[0] == 2, "one look at both"


def switches(teller: Narrator) -> int:
    """How often its thread has gone to sleep (proc(5))."""
    status = Path(f"/proc/self/task/{teller._thread.native_id}/status").read_text()
    return int(status.partition("voluntary_ctxt_switches:")[2].split()[0])


def test_an_exhausted_pool_is_complained_about_once_a_minute(lines: list[str]) -> None:
    bus = Bus()
    teller = Narrator(bus)
    teller.start()
    bus.publish([PoolExhausted(NOW, MAC)] * 50)
    teller.stop()
    assert lines == ["no address is free in the pool"]


def test_a_bridge_that_is_made_anew_is_told_in_two_lines(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each lease's route is refused then, and tried again every second: a soak had 50 lines of it in one second."""
    monkeypatch.setattr(refusals, "OVER", 0.3)
    monkeypatch.setattr(narrator, "PENDING", 5)
    bus = Bus()
    teller = Narrator(bus)
    teller.start()
    for _ in range(3):
        bus.publish([RouteFailed(NOW, A + number, errno.ENODEV) for number in range(50)])
        time.sleep(0.15)
    assert len(lines) == 1
    assert lines[0].startswith("the kernel refused a route: No such device (ENODEV); cni0 is not there")
    eventually(lambda: len(lines) == 2)
    assert "refuses no route any more: it had refused the routes of 50 addresses, 150 refusals within 0." in lines[1]
    bus.publish([RouteFailed(NOW, A, errno.ENODEV)])
    eventually(lambda: len(lines) == 3)
    teller.stop()
    assert lines[2] == lines[0]


def test_each_reason_is_told_and_what_goes_on_is_told_once_a_minute() -> None:
    noted = refusals.Refusals()
    one, other = RouteFailed(NOW, A, errno.ENODEV), RouteFailed(NOW, A + 1, errno.EPERM)
    assert [noted.note(event, 1.0) for event in (one, one, other, other)] == [True, False, True, False]
    assert noted.tell(1.0) == ""
    for second in range(2, 125):
        assert not noted.note(one, float(second))
        due = second in (61, 121)
        assert noted.tell(float(second)).startswith("the kernel goes on refusing the routes of 2 addresses") is due
    assert noted.tell(124.0 + refusals.OVER - 0.1) == ""
    assert "no route any more" in noted.tell(124.0 + refusals.OVER)
    assert noted.tell(500.0) == "" and not noted.pending


def test_whatever_the_reason_there_is_something_to_do_next() -> None:
    for code in (errno.ENODEV, errno.ENETDOWN, errno.EIO, errno.EPERM, errno.ENOBUFS, errno.EEXIST, 9999):
        said, advice = refusals.meaning(code)
        assert errno.errorcode.get(code, "9999") in said and advice


def test_a_storm_is_counted_and_holds_nobody_up(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrator, "PENDING", 5)
    held = threading.Event()
    logger.add(lambda message: held.wait(5), level="INFO")
    bus = Bus()
    teller = Narrator(bus)
    teller.start()
    began = time.monotonic()
    bus.publish([LeaseBound(NOW, A, MAC, NOW)] * 1000)
    assert time.monotonic() - began < 1.0
    assert teller.acknowledged == 1000
    held.set()
    eventually(lambda: any("too fast" in line for line in lines))
    teller.stop()
    told = [line for line in lines if line == "lease bound"]
    assert len(told) <= 7
    assert lines[-1] == f"too fast to be written one by one: {1000 - len(told)} leases bound"


def test_a_storm_that_goes_on_gets_so_many_lines_a_second_and_no_more(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narrator, "PENDING", 10)
    monkeypatch.setattr(narrator, "EVERY", 0.01)
    bus = Bus()
    teller = Narrator(bus)
    teller.start()
    began = time.monotonic()
    while time.monotonic() - began < 0.5:
        bus.publish([LeaseBound(NOW, A, MAC, NOW)] * 20)
        time.sleep(0.002)
    written = lines.count("lease bound")
    most = narrator.PENDING + narrator.LINES * (time.monotonic() - began)
    teller.stop()
    assert narrator.PENDING <= written <= most + 1


def test_a_storm_is_told_a_few_lines_at_a_time() -> None:
    """A line takes 0.1 ms of the interpreter, which the DHCP loop waits for: 1,000 in a row once cost 100 ms."""
    at: list[float] = []
    logger.remove()
    handler = logger.add(lambda _: at.append(time.monotonic()), level="INFO")
    bus = Bus()
    teller = Narrator(bus)
    teller.start()
    bus.publish([LeaseBound(NOW, A, MAC, NOW)] * 60)
    eventually(lambda: len(at) == 60)
    teller.stop()
    logger.remove(handler)
    gaps = [after - before for before, after in zip(at, at[narrator.AT_ONCE :], strict=False)]
    assert min(gaps) >= narrator.APART
