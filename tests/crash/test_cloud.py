"""The cloud misbehaves: every run ends settled, or parked with a precise reason; nothing is ever half-forgotten."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.engine.workflow import folder

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(400)]

NODE = ("--platform", "volcengine", "--node-name", "cocoon-pool", "--subnet", "172.20.100.0/24")
SPEC = (*NODE, "--pool-size", "100")
"""Five interfaces of 20 addresses."""
SMALL = (*NODE, "--pool-size", "40")
"""Two, for a storm: a fifth of the calls fails, some for coming too often, and each of those slows all others down."""

BUSY = {
    "fail.CreateNetworkInterface": "InvalidVpc.InvalidStatus@400,1",
    "fail.AttachNetworkInterface": "InvalidEni.InvalidStatus@400,1",
    "fail.AssignPrivateIpAddresses": "InvalidEni.InvalidStatus@400,1",
    "fail.DetachNetworkInterface": "InvalidEni.InvalidStatus@400,1",
    "fail.DeleteNetworkInterface": "InvalidEni.InvalidStatus@400,1",
}
"""Each is refused once while something is under way, not only when chance has it so."""

LOST = (
    *("CreateSubnet", "CreateNetworkInterface", "AttachNetworkInterface", "AssignPrivateIpAddresses"),
    *("DetachNetworkInterface", "DeleteNetworkInterface", "DeleteSubnet"),
)
"""Of each, one reply is lost after the effect for sure."""

STORM = BUSY | {
    "lose": ",".join(LOST),
    "error-rate": "0.2",
    "describe-lag": "5",
    "state-latency": "0.1",
    "lose-hang": "0.2",
}
"""A fifth of the calls fails, in every way that there is; listings are five reads late."""

Fault = Callable[..., None]


@pytest.fixture(scope="module")
def provisioned(scene: Any) -> Any:
    """The world after an undisturbed init; the node is torn down again."""
    scene.product("init", *SPEC)
    world = scene.world()
    scene.product("teardown")
    return world


@pytest.fixture
def fault(scene: Any) -> Iterator[Fault]:
    turned: set[str] = set()

    def turn(**knobs: str) -> None:
        settings = {name.replace("_", "-"): value for name, value in knobs.items()}
        turned.update(settings)
        scene.admin.set_faults(settings)

    yield turn
    scene.admin.set_faults(dict.fromkeys(turned, ""))


@pytest.fixture
def empty(scene: Any) -> Iterator[None]:
    """The story begins and ends in the same world."""
    before = scene.world()
    yield
    assert scene.world() == before


@pytest.fixture
def hasty(scene: Any, tmp_path: Path) -> Iterator[None]:
    """Workflow files in which nothing is waited for longer than three seconds."""
    for path in folder().glob("*.toml"):
        text = re.sub(r'^deadline = "\w+"', 'deadline = "3s"', path.read_text(), flags=re.M)
        (tmp_path / path.name).write_text(text)
    scene.settings["COCOON_NET_WORKFLOW_DIR"] = str(tmp_path)
    yield
    del scene.settings["COCOON_NET_WORKFLOW_DIR"]


def parked(scene: Any, workflow: str, code: int) -> dict[str, Any]:
    """Run init, which is to be parked with this exit code; return why, after seeing that nothing is forgotten."""
    ended = scene.product(*(("init", *SPEC) if workflow == "init" else ("teardown",)), check=False)
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    shown = json.loads(scene.product("workflow", "show", "--json").stdout)
    assert shown["error"]["exit_code"] == code
    assert f"cocoon-net run {workflow} --resume" in shown["next"]
    assert "--resume` goes on" in ended.stderr
    assert ours(scene) <= known(scene), "what is ours in the cloud is in the ledger, or in an operation that is open"
    return dict(shown["error"])


def ours(scene: Any) -> set[str]:
    """Return the keys of all that carries this node's mark in the cloud."""
    state = scene.admin.state()
    marked = [dict(row["tags"]) for row in (*state["interfaces"], *state["subnets"])]
    return {tags["cocoon-net:key"] for tags in marked if tags.get("cocoon-net:node") == "cocoon-pool"}


def known(scene: Any) -> set[str]:
    """Return the keys that the database knows of, read past the product."""
    path = Path(scene.directory) / scene.name / "node1" / "state" / "cocoon-net.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        rows = database.execute(
            "SELECT key FROM ledger WHERE step IN ('subnet', 'enis') UNION "
            "SELECT key FROM operations WHERE outcome IN ('pending', 'unknown')"
        )
        return {key for (key,) in rows}


def test_killed_in_a_storm_it_goes_on_in_the_storm_and_only_takes_longer(
    scene: Any, empty: None, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.product("init", *SMALL)
    provisioned = scene.world()
    scene.product("teardown")
    scene.admin.clear_calls()
    monkeypatch.setitem(scene.settings, "COCOON_NET_API_RATE", "200")  # what yields to so many refusals is fast enough
    fault(**STORM)
    scene.die("before conclude attach", "init", *SMALL)
    assert ours(scene) <= known(scene)
    scene.die("after intend addresses", "run", "init", "--resume")
    assert ours(scene) <= known(scene)
    scene.product("run", "init", "--resume")
    assert scene.world() == provisioned, "no interface or address too many or too few"
    scene.die("before conclude enis", "teardown")
    assert ours(scene) <= known(scene)
    scene.product("run", "teardown", "--resume")
    calls = scene.admin.calls()
    wrong = [(call["status"], call["code"], call["outcome"]) for call in calls if call["status"] != 200 or call["code"]]
    assert len(wrong) > 0.1 * len(calls) and len(set(wrong)) >= 8, "it was a real storm"
    assert set(BUSY.values()) <= {f"{code}@{status},1" for status, code, _ in wrong}
    assert {call["action"] for call in calls if call["outcome"] == "lost"} >= set(LOST)


def test_a_link_that_appears_ten_seconds_late_is_waited_for(
    scene: Any, provisioned: Any, empty: None, fault: Fault
) -> None:
    fault(link_delay="10s")
    done = scene.product("init", *SPEC)
    assert re.search(r"^links +waiting for the link of eni-\d", done.stderr, re.M)
    assert scene.world() == provisioned
    fault(link_delay="")
    scene.product("teardown")


def test_a_link_that_does_not_appear_in_time_is_named_at_the_deadline(
    scene: Any, provisioned: Any, empty: None, fault: Fault, hasty: None
) -> None:
    fault(link_delay="1h")
    why = parked(scene, "init", 75)
    assert why["error"] == "NotSettled" and why["step"] == "links"
    assert re.search(r"'links' did not come to rest within 3 s; still waiting for the link of eni-1", why["message"])
    fault(link_delay="")
    scene.product("run", "init", "--resume")
    assert scene.world() == provisioned
    scene.product("teardown")


def test_an_interface_that_never_attaches_is_named_at_the_deadline(
    scene: Any, provisioned: Any, empty: None, fault: Fault, hasty: None
) -> None:
    fault(attach_stuck="2")
    why = parked(scene, "init", 75)
    assert why["error"] == "NotSettled" and why["step"] == "attach"
    assert re.search(r"'attach' did not come to rest within 3 s; still waiting for eni-\d to attach$", why["message"])
    fault(attach_stuck="")
    scene.product("run", "init", "--resume")
    assert scene.world() == provisioned
    scene.product("teardown")


def test_an_interface_that_never_attaches_holds_up_a_teardown_by_name_and_is_not_left_behind(
    scene: Any, empty: None, fault: Fault, hasty: None
) -> None:
    fault(attach_stuck="2")
    parked(scene, "init", 75)
    scene.product("run", "init", "--abandon")
    why = parked(scene, "teardown", 75)
    assert why["error"] == "NotSettled" and why["step"] == "addresses", "which are removed before the attachment"
    assert re.search(r"still waiting for eni-\d to attach$", why["message"])
    fault(attach_stuck="")
    scene.product("run", "teardown", "--resume")


def test_a_quota_hit_at_the_fifth_interface_leaves_four_that_are_known(
    scene: Any, provisioned: Any, empty: None, fault: Fault
) -> None:
    there = len(scene.admin.state()["interfaces"])
    fault(interface_quota=str(there + 4))
    why = parked(scene, "init", 73)
    assert (why["error"], why["code"], why["step"]) == ("CloudQuota", "QuotaExceeded.Eni", "enis")
    assert "quota" in why["hint"]
    assert len(ours(scene)) == 1 + 4, "the subnet and four interfaces"
    fault(interface_quota="")
    scene.product("run", "init", "--resume")
    assert scene.world() == provisioned
    scene.product("teardown")


def test_a_limit_of_the_instance_met_halfway_leaves_attached_what_fitted(
    scene: Any, provisioned: Any, empty: None, fault: Fault
) -> None:
    """The room that was there when the run began is gone when it attaches."""
    scene.die("before intend attach", "init", *SPEC)
    fault(instance_quota="4")  # the primary, theirs, and two
    why = parked(scene, "init", 73)
    assert (why["error"], why["code"], why["step"]) == ("CloudQuota", "LimitExceeded.EnisPerInstance", "attach")
    assert re.fullmatch(r"eni-\d", why["key"])
    attached = [row for row in scene.admin.state()["interfaces"] if row["instance_id"]]
    assert sum("cocoon-net:key" in dict(row["tags"]) for row in attached) == 2
    fault(instance_quota="")
    scene.product("run", "init", "--resume")
    assert scene.world() == provisioned
    scene.product("teardown")


def test_a_subnet_that_runs_out_of_addresses_halfway_is_named(
    scene: Any, provisioned: Any, empty: None, fault: Fault
) -> None:
    fault(subnet_free="60")
    why = parked(scene, "init", 73)
    assert (why["error"], why["code"], why["step"]) == ("CloudQuota", "InsufficientIpInSubnet", "addresses")
    assert "orphaned network interfaces" in why["hint"]
    fault(subnet_free="")
    scene.product("run", "init", "--resume")
    assert scene.world() == provisioned
    scene.product("teardown")


def test_an_outage_in_the_middle_parks_a_teardown_and_nothing_is_forgotten(
    scene: Any, provisioned: Any, empty: None, fault: Fault, hasty: None
) -> None:
    scene.product("init", *SPEC)
    fault(**{"fail.DetachNetworkInterface": "InternalError@500"})
    why = parked(scene, "teardown", 75)
    assert why["step"] == "attach"
    assert "InternalError" in why["message"]
    fault(**{"fail.DetachNetworkInterface": ""})
    scene.product("run", "teardown", "--resume")


@pytest.mark.parametrize("knobs", [{"gone_describe": "empty", "empty_lists": "null"}, {"empty_lists": "missing"}])
def test_where_the_documents_disagree_both_are_understood(
    scene: Any, provisioned: Any, empty: None, fault: Fault, knobs: dict[str, str]
) -> None:
    fault(**knobs, state_latency="0.1")
    scene.product("init", *SPEC)
    assert scene.world() == provisioned
    scene.product("teardown")
