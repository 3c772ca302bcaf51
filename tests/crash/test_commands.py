"""The commands on a node of the lab: what is refused changes nothing, what is adopted stays."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.slow]

SPEC = ("--platform", "volcengine", "--node-name", "cocoon-pool", "--subnet", "172.20.100.0/24")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("init", *SPEC[:4], "--subnet", "10.0.0.0/33"), 78, ["not a network"]),
        (("init", *SPEC[:4], "--subnet", "2001:db8::/64"), 78, ["IPv6"]),
        (("init", *SPEC, "--gateway", "10.0.0.1"), 78, ["not a host of"]),
        (("init", *SPEC, "--pool-size", "300"), 78, ["do not fit"]),
        (("init", *SPEC, "--pool-size", "141"), 73, ["room for 120", "--pool-size 120"]),
        (("init", "--platform", "aws", "--subnet", "x", "--gateway", "y"), 78, ["'aws'", "--node-name", "'x'", "'y'"]),
        (("init", *SPEC, "--state-dir", "/proc/nowhere"), 74, ["/proc/nowhere", "--state-dir"]),
        (("run", "init", "--resume"), 78, ["no unfinished init"]),
        (("run", "teardown", "--resume"), 78, ["no unfinished teardown"]),
        (("teardown",), 78, ["not provisioned"]),
        (("init", "--nonsense"), 2, ["--nonsense"]),
        (("workflow", "show", "nothing"), 78, []),
        (("status",), 78, ["init"]),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, tuple) else "",
)
def test_wrong_input_is_one_clear_error_and_changes_nothing(
    scene: Any, words: tuple[str, ...], code: int, says: list[str]
) -> None:
    before = scene.world()
    done = scene.product(*words, check=False)
    assert done.returncode == code, done.stderr
    for text in says:
        assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert scene.world() == before


def test_without_root_it_says_so(scene: Any) -> None:
    code = "import os; from cocoon_net.cli.main import run; os.geteuid = lambda: 65534; raise SystemExit(run({}))"
    refused = scene.on_node(sys.executable, "-c", code.format(["init", *SPEC]), check=False)
    assert refused.returncode == 77
    assert "must run as root, not as nobody" in refused.stderr


def test_an_unfinished_run_of_another_spec_is_refused_with_the_difference_and_the_two_ways_out(scene: Any) -> None:
    before = scene.world()
    scene.die("after intend enis", "init", *SPEC, "--pool-size", "20")
    refused = scene.product("init", *SPEC, "--pool-size", "40", check=False)
    assert refused.returncode == 78
    assert "--pool-size: 40, not 20" in refused.stderr
    assert "--resume" in refused.stderr and "--abandon" in refused.stderr
    resumed = scene.product("init", *SPEC, "--pool-size", "20")
    assert "resuming init-" in resumed.stderr
    again = scene.product("init", *SPEC, "--pool-size", "20", "--dry-run")
    assert "no changes" in again.stdout
    other = scene.product("init", *SPEC[:4], "--subnet", "172.20.101.0/24", check=False)
    assert other.returncode == 78
    assert "--subnet: 172.20.101.0/24, not 172.20.100.0/24" in other.stderr
    scene.product("teardown")
    assert scene.world() == before


def test_a_run_that_is_given_up_leaves_nothing_after_the_teardown(scene: Any) -> None:
    before = scene.world()
    scene.die("before conclude enis", "init", *SPEC, "--pool-size", "20")
    assert "given up" in scene.product("run", "init", "--abandon").stderr
    scene.product("teardown")
    assert scene.world() == before


def test_a_dry_run_shows_what_would_be_made_and_makes_nothing(scene: Any) -> None:
    before = scene.world()
    done = scene.product("init", *SPEC, "--pool-size", "120", "--dry-run", check=False)
    assert done.returncode == 1
    assert len(re.findall(r"^\+ enis ", done.stdout, re.M)) == 6
    assert scene.world() == before


def test_init_asks_the_api_for_nothing_that_it_does_not_know(scene: Any) -> None:
    since = max((call["seq"] for call in scene.admin.calls()), default=0)
    scene.product("init", *SPEC, "--pool-size", "120")
    calls = scene.admin.calls(since)
    assert [call for call in calls if call["unknown"]] == []
    shown = json.loads(scene.product("workflow", "show", "--json").stdout)
    assert shown["calls"] == len(calls)
    scene.product("teardown")


def test_a_lost_database_is_no_lost_interface(scene: Any) -> None:
    """What carries our marks is found again by them: nothing is made twice, and a teardown still removes it."""
    before = scene.world()
    scene.product("init", *SPEC, "--pool-size", "40")
    provisioned = scene.world()
    state = Path(scene.directory) / scene.name / "node1" / "state"
    for path in state.glob("cocoon-net.db*"):
        path.unlink()
    again = scene.product("init", *SPEC, "--pool-size", "40")
    assert re.search(r"^enis +as wanted", again.stderr, re.M)
    assert scene.world() == provisioned
    scene.product("teardown")
    after = scene.world()
    assert after["cloud"] == before["cloud"]
    kept = ("settings",)  # how they were before us was in the database alone
    assert {k: v for k, v in after["node"].items() if k not in kept} == {
        k: v for k, v in before["node"].items() if k not in kept
    }


def test_a_damaged_database_is_named_kept_aside_and_made_anew(scene: Any, tmp_path: Path) -> None:
    before = scene.world()
    damaged = tmp_path / "cocoon-net.db"
    damaged.write_bytes(b"SQLite format 3\0" + b"\xff" * 8000)
    content = damaged.read_bytes()
    shown = scene.product("status", "--state-dir", str(tmp_path), check=False)
    assert shown.returncode == 74, "a command that only reads moves nothing"
    assert "docs/operations.md" in shown.stderr
    assert damaged.read_bytes() == content
    done = scene.product("init", *SPEC, "--pool-size", "20", "--state-dir", str(tmp_path))
    (name,) = re.findall(r"kept aside as (cocoon-net\.db\.damaged-\S+)", done.stderr)
    assert (tmp_path / name).read_bytes() == content
    assert "rebuilt from: nothing" in done.stderr and "next: `cocoon-net init`" in done.stderr
    scene.product("teardown", "--state-dir", str(tmp_path))
    assert (tmp_path / name).read_bytes() == content
    assert scene.world() == before


def test_an_adopted_node_keeps_its_cloud_side_and_its_rules(scene: Any) -> None:
    """Made by hand, as the guide says: a subnet, two interfaces with addresses, attached; no mark of ours."""
    scene.admin.plant_subnet("172.20.100.0/24")
    scene.admin.plant_interface(subnet="172.20.100.0/24", instance="node1", name="by-hand", secondaries=5, count=2)
    before = scene.world()
    scene.product("adopt", *SPEC)
    adopted = scene.world()
    assert adopted["cloud"] == before["cloud"]
    assert adopted["node"]["rules"] == before["node"]["rules"], "rules are kept without --manage-iptables"
    pool = json.loads((Path(scene.directory) / scene.name / "node1" / "state" / "pool.json").read_text())
    owned = [a for row in scene.admin.state()["interfaces"] if row["name"] == "by-hand" for a in row["secondaries"]]
    assert sorted(pool["ips"]) == sorted(owned), "the addresses that the interfaces really have"
    managed = scene.product("adopt", *SPEC, "--manage-iptables")
    assert managed.returncode == 0
    assert any("COCOON-NET-FORWARD" in line for line in scene.node()["rules"])
    scene.product("teardown")
    after = scene.world()
    assert after["cloud"] == before["cloud"]
    assert after["node"] == before["node"]


def test_workflows_of_the_operators_own_are_read_from_their_directory_and_nowhere_else(
    scene: Any, tmp_path: Path
) -> None:
    before = scene.world()
    theirs = ("env", f"COCOON_NET_WORKFLOW_DIR={tmp_path}", sys.executable, "-m", "cocoon_net")
    refused = scene.on_node(*theirs, "init", *SPEC, "--pool-size", "20", check=False)
    assert refused.returncode == 78
    assert f"no workflow 'init' in {tmp_path}" in refused.stderr
    assert scene.world() == before
    (tmp_path / "init.toml").write_text('name = "init"\n[[step]]\nname = "subnet"\ndeadline = "7s"\n')
    scene.on_node(*theirs, "init", *SPEC, "--pool-size", "20")
    shown = json.loads(scene.product("workflow", "show", "--json").stdout)
    assert [state["state"] for state in shown["states"]] == ["subnet"]
    scene.product("teardown")
    assert scene.world() == before
