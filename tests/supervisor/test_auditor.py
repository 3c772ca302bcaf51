"""A pass in a process of its own: whatever becomes of it, the service hears of it in time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from loguru import logger

import cocoon_net.supervisor.auditor
from cocoon_net.audit.finding import Finding, Kind, Pass, Sighting
from cocoon_net.supervisor.auditor import AREA, Auditor, report
from cocoon_net.supervisor.priority import SLICE, priority
from cocoon_net.supervisor.timetable import timetable

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOTHING = Pass(NOW, 1.0, frozenset({"links"})).as_json()
WELL = f"print({json.dumps(json.dumps(NOTHING))})"


def auditor(code: str, seen: list[Pass], deadline: float = 10.0) -> Auditor:
    return Auditor([sys.executable, "-c", code], dict(os.environ), seen.append, deadline=deadline)


def test_what_the_process_saw_is_delivered() -> None:
    seen: list[Pass] = []
    auditor(WELL, seen).audit()
    assert seen[0].looked == {"links", AREA} and not seen[0].unknown


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise SystemExit(75)", "ended with 75"),
        ("import sys; sys.exit('error: another command acts')", "another command acts"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ("print('no pass')", "Expecting value"),
        ("print('{}')", "at"),
        ("import time; time.sleep(60)", "did not end within 0.5 s"),
    ],
)
def test_a_pass_that_fails_is_unknown_and_nothing_else(code: str, why: str) -> None:
    seen: list[Pass] = []
    auditor(code, seen, deadline=0.5 if "sleep" in code else 10.0).audit()
    (only,) = seen
    assert why in (only.unknown or {})[AREA] and not only.looked


def test_a_program_that_is_not_there_is_unknown() -> None:
    seen: list[Pass] = []
    Auditor(["/nowhere/python"], {}, seen.append).audit()
    assert "nowhere" in (seen[0].unknown or {})[AREA]


def test_stopping_ends_the_pass_under_way_at_once() -> None:
    seen: list[Pass] = []
    one = auditor("import time; time.sleep(60)", seen)
    thread = threading.Thread(target=one.audit)
    thread.start()
    time.sleep(0.3)
    began = time.monotonic()
    one.stop()
    thread.join(5)
    assert time.monotonic() - began < 1 and not thread.is_alive() and not seen


GIVING_WAY = """
import os, sys, time
from pathlib import Path
from cocoon_net.supervisor.priority import priority
share, end = Path("/proc/self/autogroup"), time.monotonic() + 10

def after(policy):
    while os.sched_getscheduler(0) == policy and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.1)
    return *priority(0), *(share.read_text().split()[-1:] if share.exists() else ())

sys.exit(f"{after(os.SCHED_OTHER)} {after(os.SCHED_IDLE)}")
"""


def test_it_gives_way_to_everybody_and_insists_only_when_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cocoon_net.supervisor.auditor, "MODEST_FOR", 1.0)
    seen: list[Pass] = []
    auditor(GIVING_WAY, seen).audit()
    (told,) = seen
    # A session that begins now has a share of its own, where the kernel gives any; the one of this test may have none.
    asked = subprocess.run(["cat", "/proc/self/autogroup"], start_new_session=True, capture_output=True, check=False)
    shared = bool(asked.stdout.split())
    length = SLICE if priority(0).slice else 0.0  # Linux before 6.12 has no slices
    first = (os.SCHED_IDLE, 0, length, *(["19"] if shared else []))
    then = (os.SCHED_OTHER, 10, length, *(["10"] if shared else []))
    assert told.unknown == {AREA: f"{first} {then}"}


def test_fifty_routes_that_go_with_their_bridge_are_six_lines_and_six_when_they_are_back() -> None:
    def found(number: int, resolved: datetime | None) -> Finding:
        said = f"172.20.100.{number} is leased and has no route to cni0"
        return Finding(Sighting(Kind.ROUTE_MISSING, str(number), said, (), "do this"), NOW, 1, NOW, resolved)

    seen = Pass(NOW, 1.0, frozenset({"routes"}), (), {}, ("update cni0",))
    bridge = Finding(Sighting(Kind.BRIDGE, "cni0", "cni0: it is down", (), "wait"), NOW, 1, NOW)
    lines: list[str] = []
    handler = logger.add(lambda message: lines.append(message.record["message"]), level="INFO")
    report([*(found(number, None) for number in range(2, 52)), bridge], seen)
    report([found(number, NOW) for number in range(2, 52)], replace(seen, repaired=()))
    logger.remove(handler)
    assert lines == [
        *(f"found: route-missing: 172.20.100.{n} is leased and has no route to cni0; do this" for n in range(2, 7)),
        "found: 45 more like these",
        "found: bridge: cni0: it is down; wait",
        "put right: update cni0",
        *(f"no longer: route-missing: 172.20.100.{n} is leased and has no route to cni0" for n in range(2, 7)),
        "no longer: 45 more like these",
    ]


def test_never_two_at_once() -> None:
    running: list[int] = []
    most: list[int] = []
    done = threading.Event()

    def deliver(seen: Pass) -> None:
        running.append(1)
        most.append(len(running))
        time.sleep(0.2)
        running.pop()
        if len(most) >= 3:
            done.set()

    one = Auditor([sys.executable, "-c", WELL], dict(os.environ), deliver)
    times = timetable()
    one.enter(times, 0.1)
    times.start()
    assert done.wait(20)
    one.stop()
    times.shutdown(wait=False)
    assert set(most) == {1}
