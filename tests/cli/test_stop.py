"""The real process is asked to stop: in a call, in a wait, twice; then it goes on."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_while_a_call_hangs_it_ends_the_call_writes_its_outcome_and_begins_nothing_new(
    node: Any, spec: tuple[str, ...], eventually: Any
) -> None:
    node.fault(api_latency="1.5")
    process = node.start("init", *spec)
    eventually(lambda: node.query("SELECT 1 FROM operations WHERE step = 'enis' AND outcome = 'pending'"), 60)
    time.sleep(0.3)  # the intent stands before the call
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 75, said
    assert "stopped by SIGTERM in 'enis'" in said
    assert "cocoon-net run init --resume" in said
    outcomes = node.query("SELECT outcome FROM operations WHERE step = 'enis'")
    assert set(outcomes) <= {("done",), ("not begun",)}, "one that stood in line under load was never asked for"
    shown = node.asked("workflow", "show")
    assert shown["state"] == "enis"
    assert shown["error"]["message"].startswith("stopped by SIGTERM")
    node.fault(api_latency="")
    made = node.ours()
    assert len(made) == outcomes.count(("done",))
    node("run", "init", "--resume")
    assert len(node.ours()) == 2 and set(made) <= set(node.ours()), "nothing was asked for twice"


def test_a_second_signal_ends_it_in_the_call_and_the_journal_says_so(
    node: Any, spec: tuple[str, ...], eventually: Any
) -> None:
    node.fault(api_latency="1.2")
    process = node.start("init", *spec)
    eventually(lambda: node.query("SELECT 1 FROM operations WHERE step = 'subnet' AND outcome = 'pending'"), 60)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None, "it waits for the call"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - began < 2
    assert process.returncode == 75
    assert "stopped at once" in said
    assert node.query("SELECT step, outcome FROM operations") == [("subnet", "pending")]
    node.fault(api_latency="")
    node("run", "init", "--resume")
    assert node.query("SELECT count(*) FROM operations WHERE outcome = 'pending'") == [(0,)]


def test_before_the_run_begins_it_ends_as_shells_have_it_and_there_is_nothing_to_resume(
    node: Any, spec: tuple[str, ...], eventually: Any
) -> None:
    assert "130 stopped by a signal" in " ".join(node("--help").stdout.split())
    node.fault(api_latency="1.5")
    process = node.start("init", *spec)
    eventually(node.database.exists, 60)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert said.strip().endswith("stopped")
    assert node.query("SELECT id FROM runs") == []
    node.fault(api_latency="")
    assert "no unfinished init" in node("run", "init", "--resume", code=78).stderr


def test_while_it_may_not_ask_it_stops_at_once(node: Any, spec: tuple[str, ...], eventually: Any) -> None:
    before = len(node.admin.calls())
    process = node.start("init", *spec, COCOON_NET_API_RATE="0.05", COCOON_NET_API_BURST="14")
    # What it may ask at once is used up; the next call has its turn in twenty seconds.
    eventually(lambda: len(node.admin.calls()) - before >= 14, 60)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - began < 3
    assert process.returncode == 75, said
    assert "stopped by SIGTERM" in said


def test_while_it_waits_it_stops_at_once_and_says_for_what(node: Any, spec: tuple[str, ...], eventually: Any) -> None:
    node.fault(attach_stuck="1")
    node.stuck = True
    process = node.start("init", *spec)
    eventually(lambda: node.query("SELECT 1 FROM visits WHERE step = 'attach' AND looks > 3"), 60)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - began < 3
    assert process.returncode == 75, said
    assert "stopped by SIGINT in 'attach', which waits for eni-" in said
    assert "to attach" in said
    assert node.query("SELECT 1 FROM operations WHERE outcome = 'pending'") == []
