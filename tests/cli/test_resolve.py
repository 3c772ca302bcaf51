"""Operations of which nobody was told what became: the operator says it, in the real cloud of the lab."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.engine import workflow

pytestmark = [pytest.mark.root, pytest.mark.slow]

NET = "172.20.100.0/24"


def stop_in_enis(node: Any, spec: tuple[str, ...], eventually: Any) -> None:
    """Have an init killed while its interfaces are being made: nobody was told what became of them."""
    node.fault(api_latency="0.8")
    process = node.start("init", *spec)
    eventually(lambda: node.query("SELECT 1 FROM operations WHERE step = 'enis' AND outcome = 'pending'"), 60)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    node.fault(api_latency="")


def stop_after_enis(node: Any, spec: tuple[str, ...], eventually: Any, **settings: str) -> set[str]:
    """Have an init killed when its interfaces are made and no answer has come; returns them."""

    def interfaces() -> set[str]:
        return {row["id"] for row in node.admin.state()["interfaces"]}

    before = interfaces()
    node.fault(lose="CreateNetworkInterface*2", lose_hang="20")
    process = node.start("init", *spec, **settings)
    eventually(lambda: len(interfaces() - before) == 2, 60)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    node.fault(lose="", lose_hang="")
    return interfaces() - before


def stop_in_subnet(node: Any, spec: tuple[str, ...], eventually: Any) -> str:
    """Have an init stopped that could not make its subnet; returns the operation of which nobody knows."""
    node.fault(**{"fail.CreateSubnet": "InternalError@500"})
    process = node.start("init", *spec)
    eventually(lambda: node.query("SELECT 1 FROM operations WHERE step = 'subnet' AND outcome = 'unknown'"), 60)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75
    node.fault(**{"fail.CreateSubnet": ""})
    (row,) = node.asked("workflow", "pending")
    assert (row["key"], row["verb"], row["outcome"]) == ("subnet", "create", "unknown")
    return str(row["op"])


def impatient(directory: Path) -> Path:
    """Return workflow files in which every step is given up after four seconds."""
    copied = Path(shutil.copytree(workflow.folder(), directory / "workflows"))
    for file in copied.glob("*.toml"):
        file.write_text(re.sub(r'deadline = ".*"', 'deadline = "4s"', file.read_text()))
    return copied


def test_a_subnet_that_somebody_made_meanwhile_can_be_named(node: Any, spec: tuple[str, ...], eventually: Any) -> None:
    operation = stop_in_subnet(node, spec, eventually)
    refused = node("workflow", "resolve", operation, "--adopt", "subnet-nowhere", code=78)
    assert "does not exist" in refused.stderr
    made = node.admin.plant_subnet(NET)
    assert f"subnet is {made}" in node("workflow", "resolve", operation, "--adopt", made).stderr
    assert node.asked("workflow", "pending") == []
    node("workflow", "retry")
    shown = {state["state"]: state for state in node.asked("workflow", "show")["states"]}
    assert shown["subnet"]["looks_after"]["subnet"] == {"origin": "created", "id": made}
    node("teardown")
    assert made not in {row["id"] for row in node.admin.state()["subnets"]}, "it counts as made by us"


def test_a_subnet_of_another_node_cannot_be_named(node: Any, spec: tuple[str, ...], eventually: Any) -> None:
    operation = stop_in_subnet(node, spec, eventually)
    tags = {"cocoon-net:product": "cocoon-net", "cocoon-net:node": "other"}
    theirs = node.admin.plant_subnet(NET, tags=tags)
    refused = node("workflow", "resolve", operation, "--adopt", theirs, code=78)
    assert "another's mark" in refused.stderr
    assert [str(row["op"]) for row in node.asked("workflow", "pending")] == [operation]
    node("workflow", "abandon")
    node.cloud("DeleteSubnet", SubnetId=theirs)


def test_what_somebody_deleted_before_we_saw_it_is_asked_for_under_another_token(
    node: Any, spec: tuple[str, ...], eventually: Any, tmp_path: Path
) -> None:
    """The cloud remembers the token: it answers with what it made, and that is gone. No look gets past that."""
    before = {row["id"] for row in node.admin.state()["interfaces"]}
    made = stop_after_enis(node, spec, eventually, COCOON_NET_WORKFLOW_DIR=str(impatient(tmp_path)))
    for one in made:
        node.cloud("DeleteNetworkInterface", NetworkInterfaceId=one)
    parked = node("workflow", "retry", code=75)
    assert "workflow pending" in parked.stderr
    rows = node.asked("workflow", "pending")
    assert [row["key"] for row in rows] == ["eni-1", "eni-2"]
    for row in rows:
        node("workflow", "resolve", str(row["op"]), "--retry")
    node("workflow", "retry")
    now = {row["id"] for row in node.admin.state()["interfaces"]} - before
    assert len(now) == 2 and not now & made
    how = [row["details"]["how"] for row in node.asked("workflow", "history") if row["what"] == "resolved"]
    assert how == ["retry"] * 2


def test_only_the_interface_that_is_there_can_be_named(node: Any, spec: tuple[str, ...], eventually: Any) -> None:
    made = stop_after_enis(node, spec, eventually)
    keys = {dict(row["tags"]).get("cocoon-net:key"): row["id"] for row in node.admin.state()["interfaces"]}
    operation = next(str(row["op"]) for row in node.asked("workflow", "pending") if row["key"] == "eni-1")
    refused = node("workflow", "resolve", operation, "--adopt", "eni-nowhere", code=78)
    assert (
        f"does not exist, or it carries another node's mark; what is there for eni-1 is {keys['eni-1']}"
        in refused.stderr
    )
    assert f"eni-1 is {keys['eni-1']}" in node("workflow", "resolve", operation, "--adopt", keys["eni-1"]).stderr
    node("workflow", "retry")
    assert set(node.ours()) == made, "nothing was asked for twice"


def test_an_interface_of_which_nobody_was_told_can_be_named(node: Any, spec: tuple[str, ...], eventually: Any) -> None:
    stop_in_enis(node, spec, eventually)
    rows = {row["key"]: row for row in node.asked("workflow", "pending")}
    assert sorted(rows) == ["eni-1", "eni-2"]
    operation = str(rows["eni-1"]["op"])
    assert f"cocoon-net workflow resolve {operation} --adopt ID" in rows["eni-1"]["type"]
    assert f"operation {operation}: create eni-1 (enis), pending" in node("workflow", "pending").stdout

    marks = {"cocoon-net:product": "cocoon-net", "cocoon-net:node": "other"}
    other = node.admin.plant_interface(name="other", tags=marks)[0]
    ours = node.admin.plant_interface(subnet=NET, name="by-hand")[0]
    there = node.admin.plant_interface(subnet=NET, instance="host", name="busy")[0]
    apart = node.admin.plant_interface(name="apart")[0]
    for wrong, why in (
        ("eni-nowhere", "does not exist"),
        (other, "another node's mark"),
        (there, "is attached to i-"),
        (apart, "is in the subnet"),
    ):
        refused = node("workflow", "resolve", operation, "--adopt", wrong, code=78)
        assert why in refused.stderr
    assert {row["key"] for row in node.asked("workflow", "pending")} == {"eni-1", "eni-2"}
    assert f"eni-1 is {ours}" in node("workflow", "resolve", operation, "--adopt", ours).stderr
    twice = node("workflow", "resolve", str(rows["eni-2"]["op"]), "--adopt", ours, code=78)
    assert f"{ours} is eni-1 already" in twice.stderr
    where = {
        "NetworkInterfaceId": there,
        "InstanceId": next(row["id"] for row in node.admin.state()["instances"] if row["node"] == "host"),
    }
    node.cloud("DetachNetworkInterface", **where)
    eventually(lambda: "Available" in {row["status"] for row in node.admin.state()["interfaces"] if row["id"] == there})
    node.cloud("DeleteNetworkInterface", NetworkInterfaceId=there)
    node("workflow", "retry")
    shown = {state["state"]: state for state in node.asked("workflow", "show")["states"]}
    assert shown["enis"]["looks_after"]["eni-1"] == {"origin": "created", "id": ours}
    node("teardown")
    left = [row["id"] for row in node.admin.state()["interfaces"]]
    assert ours not in left, "it counts as made by us"
    assert other in left
