"""Lease events as log lines: told, counted, and bounded under a storm."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Address

import pytest
from loguru import logger

from cocoon_net.events import Bus, LeaseBound, LeaseReleased, LeaseRenewed, PoolExhausted
from cocoon_net.supervisor import narrator
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


def test_an_exhausted_pool_is_complained_about_once_a_minute(lines: list[str]) -> None:
    bus = Bus()
    teller = Narrator(bus)
    teller.start()
    bus.publish([PoolExhausted(NOW, MAC)] * 50)
    teller.stop()
    assert lines == ["no address is free in the pool"]


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
    deadline = time.monotonic() + 5
    while not any("too fast" in line for line in lines) and time.monotonic() < deadline:
        time.sleep(0.02)
    teller.stop()
    told = [line for line in lines if line == "lease bound"]
    (summary,) = [line for line in lines if "too fast" in line]
    assert int(summary.split()[0]) + len(told) == 1000 and len(told) <= 7
