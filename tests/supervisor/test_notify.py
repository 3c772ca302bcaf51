"""What systemd hears, over a real datagram socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cocoon_net.supervisor.lifecycle import Lifecycle, announce
from cocoon_net.supervisor.notify import Pulse, notify


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@cocoon-net-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind("\0" + name[1:] if name.startswith("@") else name)
        channel.settimeout(2)
        yield channel, name


def test_nothing_is_sent_where_nobody_asked() -> None:
    assert notify("READY=1", environ={}) is False
    assert notify("READY=1", environ={"NOTIFY_SOCKET": "relative"}) is False


def test_a_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    assert notify("READY=1", environ={"NOTIFY_SOCKET": str(tmp_path / "gone")}) is False


def test_assignments_travel_in_one_datagram(manager: tuple[socket.socket, str]) -> None:
    channel, name = manager
    assert notify("READY=1", "STATUS=all\nwell", environ={"NOTIFY_SOCKET": name})
    assert channel.recv(4096) == b"READY=1\nSTATUS=all well"


def test_a_whole_life_is_told(manager: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch) -> None:
    channel, name = manager
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    life = Lifecycle(announce)
    life.reconcile()
    life.serve("140 addresses")
    life.degrade("eth3 is missing")
    life.drain("SIGTERM")
    life.stop()
    assert [channel.recv(4096).decode().split("\n") for _ in range(5)] == [
        ["STATUS=reconciling"],
        ["READY=1", "STATUS=serving: 140 addresses"],
        ["READY=1", "STATUS=degraded: eth3 is missing"],
        ["STOPPING=1", "STATUS=draining: SIGTERM"],
        ["STATUS=stopped"],
    ]


def test_a_reload_is_told_with_its_time_and_ends_with_ready(
    manager: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, name = manager
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    life = Lifecycle(announce)
    life.reconcile()
    life.serve()
    before = time.monotonic_ns() // 1000
    life.reload()
    life.recover()
    told = [channel.recv(4096).decode().split("\n") for _ in range(4)][2:]
    (reloading, at, _), ready = told
    assert reloading == "RELOADING=1" and ready == ["READY=1", "STATUS=serving"]
    assert before <= int(at.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_a_sign_of_life_is_given_twice_in_the_time_that_systemd_waits(manager: tuple[socket.socket, str]) -> None:
    channel, name = manager
    pulse = Pulse({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())})
    for now in range(100, 111):
        pulse(float(now))
    channel.setblocking(False)
    assert [channel.recv(4096) for _ in range(3)] == [b"WATCHDOG=1"] * 3, "at 100, 105 and 110"
    with pytest.raises(BlockingIOError):
        channel.recv(4096)


@pytest.mark.parametrize("asked", [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}])
def test_no_sign_of_life_is_given_where_nobody_waits_for_ours(
    manager: tuple[socket.socket, str], asked: dict[str, str]
) -> None:
    channel, name = manager
    Pulse({"NOTIFY_SOCKET": name, **asked})(1.0)
    channel.setblocking(False)
    with pytest.raises(BlockingIOError):
        channel.recv(4096)
