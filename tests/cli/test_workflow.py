"""The operator's hand on real runs of a node: what is shown while they go, and what can be typed when they stop."""

from __future__ import annotations

import json
import signal
from itertools import pairwise
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.slow]


def stop_in_enis(node: Any, spec: tuple[str, ...], eventually: Any) -> None:
    """Have an init killed while its interfaces are being made: nobody was told what became of them."""
    node.fault(api_latency="0.8")
    process = node.start("init", *spec)
    eventually(lambda: node.query("SELECT 1 FROM operations WHERE step = 'enis' AND outcome = 'pending'"), 60)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    node.fault(api_latency="")


def test_where_nothing_ever_ran_it_says_so(node: Any) -> None:
    for words in (("steps",), ("pending",), ("history",), ("skip", "enis", "--why", "x"), ("abandon",)):
        assert "no workflow ever ran here" in node("workflow", *words, code=78).stderr
    assert "no unfinished run" in node("workflow", "retry", code=78).stderr
    for words in (("resolve", "1"), ("resolve", "1", "--forget", "--retry"), ("skip", "enis")):
        assert node("workflow", *words, code=2).stderr


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
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    node.fault(**{"fail.AttachNetworkInterface": ""})
    assert "resuming init-" in node("workflow", "retry").stderr
    deeds = [(row["what"], row["by"].split(",")[0]) for row in node.asked("workflow", "history")]
    assert deeds == [("started", "root"), ("retried", "root"), ("done", "root")]


def test_an_interface_of_which_nobody_was_told_can_be_named(node: Any, spec: tuple[str, ...], eventually: Any) -> None:
    stop_in_enis(node, spec, eventually)
    rows = {row["key"]: row for row in node.asked("workflow", "pending")}
    assert sorted(rows) == ["eni-1", "eni-2"]
    operation = str(rows["eni-1"]["op"])
    assert f"cocoon-net workflow resolve {operation} --adopt ID" in rows["eni-1"]["type"]
    assert f"operation {operation}: create eni-1 (enis), pending" in node("workflow", "pending").stdout

    marks = {"cocoon-net:product": "cocoon-net", "cocoon-net:node": "other"}
    other = node.admin.plant_interface(name="other", tags=marks)[0]
    ours = node.admin.plant_interface(subnet="172.20.100.0/24", name="by-hand")[0]
    for wrong, why in (("eni-nowhere", "does not exist"), (other, "another node's mark")):
        refused = node("workflow", "resolve", operation, "--adopt", wrong, code=78)
        assert why in refused.stderr
    assert {row["key"] for row in node.asked("workflow", "pending")} == {"eni-1", "eni-2"}
    assert f"eni-1 is {ours}" in node("workflow", "resolve", operation, "--adopt", ours).stderr
    node("workflow", "retry")
    shown = {state["state"]: state for state in node.asked("workflow", "show")["states"]}
    assert shown["enis"]["looks_after"]["eni-1"] == {"origin": "created", "id": ours}
    node("teardown")
    left = [row["id"] for row in node.admin.state()["interfaces"]]
    assert ours not in left, "it counts as made by us"
    assert other in left


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


def test_the_last_resort_of_a_run_is_to_be_skipped_through(node: Any, spec: tuple[str, ...]) -> None:
    """Every step skipped in turn: each state is left by the table, nothing is a bug, and the run ends."""
    node.fault(**{"fail.CreateSubnet": "InvalidParameter@400"})
    node("init", *spec, code=69)
    for state in [row["step"] for row in node.asked("workflow", "steps")]:
        node("workflow", "skip", state, "--why", "all of it")
    assert node.asked("workflow", "show")["state"] == "done"
    assert json.loads(node("workflow", "pending", "--json").stdout) == []
