"""The operator's hand on real runs of a node: what is shown while they go, and what can be typed when they stop."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.cli import workflow
from cocoon_net.clock import SystemClock
from cocoon_net.engine.journal import Journal
from cocoon_net.engine.workflow import load
from cocoon_net.locks import locked
from cocoon_net.site import Site
from cocoon_net.spec import parse
from cocoon_net.steps import STEPS
from cocoon_net.store import open_database

pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_where_nothing_ever_ran_it_says_so(node: Any) -> None:
    for words in (("steps",), ("pending",), ("history",), ("skip", "enis", "--why", "x"), ("abandon",)):
        assert "no workflow ever ran here" in node("workflow", *words, code=78).stderr
    assert "no unfinished run" in node("workflow", "retry", code=78).stderr
    for words in (("resolve", "1"), ("resolve", "1", "--forget", "--retry"), ("skip", "enis")):
        assert node("workflow", *words, code=2).stderr


def test_the_daemon_s_lock_is_not_taken_away_and_its_way_out_is_told(node: Any) -> None:
    node.database.parent.mkdir(parents=True, exist_ok=True)
    with locked(node.database.parent / "daemon.lock", what="a test", owner="daemon") as lock:
        refused = node("workflow", "unlock", lock.holder.id, code=78)
        lock.require()
    assert f"{lock.holder.id} is the daemon's lock" in refused.stderr
    assert f"kill -9 {os.getpid()}" in refused.stderr


def test_while_somebody_acts_nobody_else_may(node: Any, spec: tuple[str, ...]) -> None:
    node.fault(**{"fail.CreateSubnet": "InvalidParameter@400"})
    node("init", *spec, code=69)
    before = node.asked("workflow", "show")
    with locked(node.database.parent / "run.lock", what="a test", owner="init"):
        for words in (("retry",), ("skip", "subnet", "--why", "x"), ("abandon",), ("resolve", "1", "--forget")):
            refused = node("workflow", *words, code=75)
            assert f"workflow {words[0]} cannot start: init (pid" in refused.stderr
        now = node.asked("workflow", "show")
    assert {**now, "acting": False, "states": []} == {**before, "states": []}


def test_a_run_is_watched_by_another_process_until_it_ends(node: Any, spec: tuple[str, ...], eventually: Any) -> None:
    node.fault(link_delay="1.5")
    process = node.start("init", *spec)
    eventually(lambda: node.query("SELECT 1 FROM operations WHERE step = 'subnet'"), 60)
    watching = node.start("workflow", "show", "--watch")
    seen, _ = watching.communicate(timeout=60)
    assert process.wait(60) == 0
    assert watching.returncode == 0
    lines = seen.splitlines()
    assert any(line.startswith("links") and "waiting for" in line for line in lines), seen
    assert any(line.startswith("dhcp") and "settled" in line for line in lines), seen
    assert lines[-1].endswith(": done")
    for state in {line.split()[0] for line in lines}:
        told = [line for line in lines if line.split()[0] == state]
        assert all(one != other for one, other in pairwise(told)), "a line per change"


def test_the_last_look_shows_how_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends between the two questions: first whether somebody acts, then where the run stands."""
    site, clock = Site(state_dir=tmp_path), SystemClock()
    journal = Journal(open_database(site.database), "a test")
    spec = parse(platform="volcengine", node_name="n", subnet="172.20.100.0/24", pool_size=4)
    run = journal.start(load("init", STEPS), spec, None, version="0", by="a test", now=clock.now())

    def ends_when_asked(site: Site) -> bool:
        journal.moved(run.id, "done", clock.now())
        return False

    monkeypatch.setattr(workflow, "_acting", ends_when_asked)
    assert workflow._now(site, run.id)["state"] == "done"


def test_on_a_terminal_it_is_redrawn_and_ctrl_c_ends_only_the_watching(
    node: Any, spec: tuple[str, ...], eventually: Any
) -> None:
    node.fault(**{"fail.AttachNetworkInterface": "InternalError@500"})
    process = node.start("init", *spec)
    eventually(lambda: node.query("SELECT 1 FROM visits WHERE step = 'attach' AND looks > 2"), 60)
    screen, line = os.openpty()
    fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    watching = subprocess.Popen(
        [sys.executable, "-c", TERMINAL, *node.typed("workflow", "show", "--watch")],
        stdin=line, stdout=line, stderr=line, env=node.environment(), start_new_session=True,
    )  # fmt: skip
    os.close(line)
    seen = read_until(screen, lambda text: text.count("to come") > 20)
    assert "\x1b[?25l" in seen and "\x1b[1A" in seen, "redrawn in place, without a cursor"
    os.write(screen, b"\x03")
    seen += read_until(screen, lambda text: False)
    assert watching.wait(10) == 0
    os.close(screen)
    assert "Traceback" not in seen
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l"), "the cursor is back"
    assert process.poll() is None, "who acts was not disturbed"
    node.fault(**{"fail.AttachNetworkInterface": ""})
    process.communicate(timeout=60)
    assert process.returncode == 0


TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def read_until(screen: int, enough: Callable[[str], bool], seconds: float = 20.0) -> str:
    """Read what a terminal shows until it is enough, or until nobody writes to it any more."""
    until, seen = time.monotonic() + seconds, b""
    while not enough(seen.decode(errors="replace")):
        assert time.monotonic() < until, seen
        if not select.select([screen], [], [], 0.2)[0]:
            continue
        try:
            got = os.read(screen, 65536)
        except OSError:  # EIO: the last one has closed it
            break
        if not got:
            break
        seen += got
    return seen.decode(errors="replace")


def test_steps_tell_the_next_look_while_a_run_waits(node: Any, spec: tuple[str, ...], eventually: Any) -> None:
    node.fault(**{"fail.AttachNetworkInterface": "InternalError@500"})
    process = node.start("init", *spec)
    eventually(lambda: node.query("SELECT 1 FROM visits WHERE step = 'attach' AND looks > 4"), 60)
    (attach,) = (row for row in node.asked("workflow", "steps") if row["step"] == "attach")
    assert attach["status"] == "acting"
    assert attach["attempts"] > 4
    assert attach["next_look_at"] > "2026"
    assert (attach["error"]["class"], attach["error"]["code"]) == ("CloudTransient", "InternalError")
    assert attach["request_ids"]
    text = node("workflow", "steps").stdout
    assert "next look at" in text and "CloudTransient (InternalError)" in text
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    (attach,) = (row for row in node.asked("workflow", "steps") if row["step"] == "attach")
    assert (attach["status"], attach["next_look_at"]) == ("interrupted", ""), "nobody will look any more"
    node.fault(**{"fail.AttachNetworkInterface": ""})
    assert "resuming init-" in node("workflow", "retry").stderr
    deeds = [(row["what"], row["by"].split(",")[0]) for row in node.asked("workflow", "history")]
    assert deeds == [("started", "root"), ("retried", "root"), ("done", "root")]


def test_what_is_exported_is_without_the_secrets_of_whoever_exports(node: Any, spec: tuple[str, ...]) -> None:
    node.fault(**{"fail.CreateSubnet": "InvalidParameter@400"})
    node("init", *spec, code=69)
    run = node.asked("workflow", "show")["run"]
    assert json.loads(node("workflow", "export", run).stdout)["spec"]["node_name"] == "cocoon-pool"
    exporting = node.start("workflow", "export", run, THEIR_PASSWORD="cocoon-pool")
    told, _ = exporting.communicate(timeout=60)
    assert json.loads(told)["spec"]["node_name"] == "***"
    assert "cocoon-pool" not in told
    assert "there is no run 'init-1'" in node("workflow", "export", "init-1", code=78).stderr


def test_a_teardown_is_not_gone_on_with_beside_a_daemon(node: Any, spec: tuple[str, ...], tmp_path: Path) -> None:
    node("init", *spec)
    node.fault(**{"fail.DeleteSubnet": "InvalidParameter@400"})
    plan = tmp_path / "teardown.plan"
    node("plan", "teardown", "--out", str(plan), code=1)
    node("teardown", code=69)
    node.fault(**{"fail.DeleteSubnet": ""})
    with locked(node.database.parent / "daemon.lock", what="a test", owner="daemon"):
        for words in (("workflow", "retry"), ("run", "--plan", str(plan)), ("teardown", "--resume")):
            assert "a daemon serves this node" in node(*words, code=78).stderr
    node("workflow", "retry")


@pytest.mark.parametrize("step", ["subnet", "enis", "attach"])
def test_what_cannot_work_without_a_skipped_step_says_so(node: Any, spec: tuple[str, ...], step: str) -> None:
    action = {"subnet": "CreateSubnet", "enis": "CreateNetworkInterface", "attach": "AttachNetworkInterface"}[step]
    node.fault(**{f"fail.{action}": "InvalidParameter@400"})
    node("init", *spec, code=69)
    assert "skipped, only the state" in node("workflow", "skip", "dhcp", "--why", "x", code=78).stderr
    assert "was moved past" in node("workflow", "skip", step, "--why", "the vendor looks at it").stderr
    node.fault(**{f"fail.{action}": ""})
    refused = node("workflow", "retry", code=73)
    assert "has not come to rest" in refused.stderr
    assert "cocoon-net workflow abandon" in refused.stderr
    assert f"{step} " in node("workflow", "show").stdout
    (row,) = (row for row in node.asked("workflow", "steps") if row["step"] == step)
    assert row["status"] == "skipped"
    assert row["skipped"]["why"] == "the vendor looks at it"
    node("workflow", "abandon", "--why", "then all of it")
    node("init", *spec)
    assert [row["what"] for row in node.asked("workflow", "history")] == [
        "started", "skipped", "retried", "abandoned", "started", "done",
    ]  # fmt: skip


@pytest.mark.parametrize("provisioned", [True, False], ids=["that was attached before", "that never was"])
def test_a_link_is_not_waited_for_where_attaching_was_skipped_before_it_began(
    node: Any, spec: tuple[str, ...], provisioned: bool
) -> None:
    """Nothing was undertaken, so only the skipping tells that the link of the interface will not come."""
    if provisioned:
        node("init", *spec)
        one = min((row for row in node.admin.state()["interfaces"] if row["id"] in node.ours()), key=lambda r: r["id"])
        node.cloud("DetachNetworkInterface", NetworkInterfaceId=one["id"], InstanceId=one["instance_id"])
    node.fault(**{"fail.DescribeSecurityGroupAttributes": "InvalidParameter@400"})
    node("init", *spec, code=69)
    for step in ("ingress", "attach"):
        node("workflow", "skip", step, "--why", "the vendor looks at it")
    node.fault(**{"fail.DescribeSecurityGroupAttributes": ""})
    refused = node("workflow", "retry", code=73)
    assert "has not appeared, since attaching it has not come to rest" in refused.stderr
    assert node.asked("workflow", "show")["state"] == "links"
    node("workflow", "abandon")
    node("init", *spec)


def test_the_last_resort_of_a_run_is_to_be_skipped_through(node: Any, spec: tuple[str, ...]) -> None:
    """Every step skipped in turn: each state is left by the table, nothing is a bug, and the run ends."""
    node.fault(**{"fail.CreateSubnet": "InvalidParameter@400"})
    node("init", *spec, code=69)
    for state in [row["step"] for row in node.asked("workflow", "steps")]:
        node("workflow", "skip", state, "--why", "all of it")
    assert node.asked("workflow", "show")["state"] == "done"
    assert json.loads(node("workflow", "pending", "--json").stdout) == []
