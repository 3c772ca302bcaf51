"""Names, shapes and the environment of a machine; then real labs: up, killed, half-built, down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from cocoon_net.errors import Locked, NodeError, SpecError
from cocoon_net.lab import lab as labs
from cocoon_net.lab import machine, namespace, process
from cocoon_net.lab.cloud import Admin
from cocoon_net.lab.lab import Lab, Shape, shape_of
from cocoon_net.lab.patience import eventually
from cocoon_net.lab.status import look
from cocoon_net.lab.task import Task

_ASK_METADATA = """
from urllib.request import urlopen
print(urlopen("http://100.96.0.96/latest/meta-data/instance-id").read().decode(), end="")
"""


@pytest.mark.parametrize("name", ["", "Lab", "a-b", "1lab", "averylonglabname", "../x"])
def test_a_name_that_could_not_name_namespaces_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="lab name"):
        labs.open_lab(name, Path("/labs"))


def test_everything_is_derived_from_the_name() -> None:
    lab = labs.open_lab("b2", Path("/labs"))
    assert lab.directory == Path("/labs/b2")
    assert lab.namespace("node1") == "b2-node1"
    assert "/labs/b2" in lab.mark


def test_all_problems_of_a_shape_are_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        shape_of(12, "172.20.1.0/24", strict_source=False)
    assert len(caught.value.problems) == 2
    with pytest.raises(SpecError, match="host bits"):
        shape_of(2, "172.20.1.1/16", strict_source=False)


def test_a_shape_survives_its_file() -> None:
    shape = Shape(3, IPv4Network("10.8.0.0/16"), strict_source=True)
    assert Shape.parse(shape.text()) == shape


@pytest.mark.parametrize("name", ["vpc", "host", "node1", "Win11", "-x", "a/b", ""])
def test_a_guest_cannot_take_the_name_of_a_machine(tmp_path: Path, name: str) -> None:
    lab = built_on_paper(tmp_path)
    with pytest.raises(SpecError, match="guest name"):
        labs.check_guest_name(lab, name)
    labs.check_guest_name(lab, "win11-2-0")


def test_a_node_has_the_documented_settings_and_no_proxy(tmp_path: Path) -> None:
    lab = built_on_paper(tmp_path)
    around = {
        "PATH": "/bin",
        "HTTPS_PROXY": "http://p",
        "no_proxy": "x",
        "COCOON_NET_STATE_DIR": "/wrong",
        "HOME": "/r",
    }
    found = machine.environment(lab, "node1", around)
    assert found["COCOON_NET_STATE_DIR"] == str(lab.directory / "node1" / "state")
    assert found["COCOON_NET_CNI_CONF_DIR"] == str(lab.directory / "node1" / "cni")
    assert found["COCOON_NET_RUN_DIR"] == str(lab.directory / "node1" / "run")
    assert found["COCOON_NET_METADATA_URL"] == "http://100.96.0.96"
    assert found["VOLCENGINE_ENDPOINT"] == "http://100.96.0.97"
    assert (found["VOLCENGINE_ACCESS_KEY_ID"], found["VOLCENGINE_SECRET_ACCESS_KEY"]) == ("AK", "SK")
    assert found["VOLCENGINE_REGION"] == "cn-hongkong"
    assert found["HOME"] == "/r"
    assert found["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert not [name for name in found if name.lower().endswith("_proxy")]


def test_another_host_of_the_vpc_has_no_credentials(tmp_path: Path) -> None:
    found = machine.environment(
        built_on_paper(tmp_path), "host", {"COCOON_NET_STATE_DIR": "/x", "VOLCENGINE_REGION": "y"}
    )
    assert set(found) == {"PATH"}


@pytest.mark.root
def test_a_lab_comes_up_answers_and_leaves_nothing(fresh: Lab) -> None:
    with pytest.raises(NodeError, match="no network namespace"):
        machine.run(paper(fresh), "node1", ["true"])
    assert labs.up(fresh, Shape(nodes=2), {}) is True
    assert labs.up(fresh, None, {}) is False
    spaces = {fresh.namespace(name) for name in ("vpc", "node1", "node2", "host")}
    assert spaces <= set(namespace.names())

    said = machine.run(fresh, "node1", [sys.executable, "-c", _ASK_METADATA])
    status = look(fresh)
    assert said.out == status["nodes"][0]["instance_id"]
    (link,) = status["nodes"][0]["links"]
    (interface,) = status["nodes"][0]["interfaces"]
    assert (link["name"], link["up"], link["addresses"]) == ("eth0", True, ["172.20.9.230/20"])
    assert link["mac"] == interface["mac"]
    assert status["problem"] == ""

    assert set(labs.down(fresh)) == spaces
    assert labs.down(fresh) == []
    assert not spaces & set(namespace.names())


@pytest.mark.root
def test_a_command_sees_only_its_machine(fresh: Lab) -> None:
    labs.up(fresh, Shape(nodes=1), {})
    done = machine.run(fresh, "node1", ["sh", "-c", "hostname; ls /sys/class/net; echo $COCOON_NET_STATE_DIR; exit 7"])
    assert done.code == 7
    assert done.out.split() == ["node1", "eth0", "lo", str(fresh.directory / "node1" / "state")]
    assert os.uname().nodename != "node1"
    with pytest.raises(SpecError, match="has no node9"):
        machine.run(fresh, "node9", ["true"])


@pytest.mark.root
def test_another_shape_is_refused_and_a_wrong_knob_starts_nothing(fresh: Lab) -> None:
    with pytest.raises(SpecError, match="no such knob"):
        labs.up(fresh, Shape(nodes=1), {"no-such-thing": "1"})
    assert not fresh.directory.exists()
    labs.up(fresh, Shape(nodes=1), {"describe-lag": "2"})
    with pytest.raises(SpecError, match="is there with"):
        labs.up(fresh, Shape(nodes=2), {})
    assert Admin(fresh.admin_socket).faults()["describe-lag"] == "2"


@pytest.mark.root
def test_a_killed_process_is_replaced_and_the_lab_goes_on(fresh: Lab) -> None:
    labs.up(fresh, Shape(nodes=1), {})
    before, admin = look(fresh), Admin(fresh.admin_socket)
    subnet = admin.plant_subnet("172.20.100.0/24")
    (interface,) = admin.plant_interface(subnet="172.20.100.0/24", instance="node1", secondaries=3)
    wait_for_links(fresh, "node1", 2)
    index = ip(fresh, "node1", "link show eth1").split(":")[0]

    kill(fresh.process())
    assert look(fresh)["running"] is False
    assert "172.20.9.230" in ip(fresh, "node1", "address show eth0"), "the network does not need the process"
    assert labs.up(fresh, None, {}) is True

    after = look(fresh)
    assert after["pid"] != before["pid"]
    assert after["nodes"][0]["instance_id"] == before["nodes"][0]["instance_id"]
    assert interface in {row["id"] for row in after["nodes"][0]["interfaces"]}
    assert subnet in {row["id"] for row in admin.state()["subnets"]}
    assert ip(fresh, "node1", "link show eth1").split(":")[0] == index, "the links were left alone"


@pytest.mark.root
@pytest.mark.slow
def test_a_process_that_does_not_answer_is_replaced(fresh: Lab) -> None:
    labs.up(fresh, Shape(nodes=1), {})
    stuck = fresh.process()
    assert stuck is not None
    os.kill(stuck.pid, signal.SIGSTOP)
    assert labs.up(fresh, None, {}) is True
    assert not stuck.alive
    assert look(fresh)["problem"] == ""


@pytest.mark.root
def test_down_ends_what_runs_on_its_machines_also_after_a_kill(fresh: Lab) -> None:
    labs.up(fresh, Shape(nodes=1), {})
    stubborn = ["sh", "-c", "trap '' TERM; while :; do sleep 0.2; done"]
    tasks = [machine.spawn(fresh, who, stubborn, fresh.log) for who in ("node1", "host")]
    kill(fresh.process())
    labs.down(fresh)
    assert not [task for task in tasks if task.alive]


@pytest.mark.root
@pytest.mark.parametrize("built", ["directory", "namespace", "name", "network"])
def test_a_half_built_lab_goes_down_and_also_comes_up(fresh: Lab, built: str) -> None:
    for finish in (labs.down, lambda lab: labs.up(lab, None, {})):
        fresh.directory.mkdir(parents=True)
        match built:
            case "namespace":
                namespace.create(fresh.namespace("vpc"), fresh.mark)
            case "name":
                namespace.create(fresh.namespace("vpc"), fresh.mark)
                (namespace.RUN / fresh.namespace("node1")).touch()
            case "network":
                from cocoon_net.lab.fabric import Fabric

                Fabric(fresh.name, fresh.mark).prepare()
        finish(fresh)
    assert fresh.process() is not None


@pytest.mark.root
@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.45, 0.6, 0.75])
def test_an_up_that_is_killed_leaves_nothing_that_down_does_not_find(fresh: Lab, seconds: float) -> None:
    words = ["lab", "up", "--name", fresh.name, "--dir", str(fresh.base)]
    child = subprocess.Popen(
        [sys.executable, "-c", "from cocoon_net.cli.main import main; main()", *words], stdout=subprocess.DEVNULL
    )
    time.sleep(seconds)
    child.kill()
    child.wait()
    labs.down(fresh)  # what is left then, the fixture checks


@pytest.mark.root
def test_a_process_whose_starter_died_first_does_nothing(fresh: Lab) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cocoon_net.lab.process"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (os.EX_TEMPFAIL, b"")


@pytest.mark.root
def test_a_namespace_of_somebody_else_is_neither_used_nor_deleted(fresh: Lab) -> None:
    theirs = fresh.namespace("node1")
    namespace.create(theirs, "somebody else")
    try:
        with pytest.raises(NodeError, match="not of this lab"):
            labs.up(fresh, Shape(nodes=1), {})
        labs.down(fresh)
        assert namespace.exists(theirs)
    finally:
        namespace.delete(theirs)


@pytest.mark.root
def test_two_labs_live_side_by_side(fresh: Lab) -> None:
    other = labs.open_lab(f"{fresh.name[:10]}b", fresh.base)
    labs.up(fresh, Shape(nodes=1), {})
    try:
        labs.up(other, Shape(nodes=1), {})
        assert look(other)["nodes"][0]["instance_id"] != look(fresh)["nodes"][0]["instance_id"]
    finally:
        labs.down(other)
    assert look(fresh)["running"]
    assert "172.20.9.230" in ip(fresh, "node1", "address")


@pytest.mark.root
def test_down_with_keep_and_up_again_is_the_same_cloud(fresh: Lab) -> None:
    labs.up(fresh, Shape(nodes=1), {})
    before = look(fresh)["nodes"][0]
    labs.down(fresh, keep=True)
    assert fresh.process() is None
    labs.up(fresh, None, {})
    assert look(fresh)["nodes"][0] == before


@pytest.mark.root
def test_one_command_at_a_time_builds_a_lab(fresh: Lab) -> None:
    with labs.locked(fresh), pytest.raises(Locked):
        labs.up(fresh, None, {})


@pytest.mark.root
def test_a_process_that_cannot_start_says_why(fresh: Lab) -> None:
    fresh.directory.mkdir(parents=True)
    fresh.write("lab.json", Shape(nodes=1).text())
    namespace.create(fresh.namespace("vpc"), fresh.mark)
    (fresh.directory / "cloud").write_text("in the way of a directory")
    with pytest.raises(NodeError, match="did not start") as caught:
        process.start(fresh, {})
    assert caught.value.hint


def built_on_paper(base: Path) -> Lab:
    lab = labs.open_lab("paper", base)
    lab.directory.mkdir()
    lab.write("lab.json", Shape().text())
    lab.write("account.json", json.dumps({"access_key": "AK", "secret_key": "SK", "region": "cn-hongkong"}))
    return lab


def paper(lab: Lab) -> Lab:
    lab.directory.mkdir(parents=True, exist_ok=True)
    lab.write("lab.json", Shape().text())
    return lab


def kill(task: Task | None) -> None:
    assert task is not None
    os.kill(task.pid, signal.SIGKILL)
    eventually(lambda: not task.alive, 5)


def ip(lab: Lab, who: str, words: str) -> str:
    done = machine.run(lab, who, ["ip", *words.split()])
    assert done.code == 0, done.errors
    return done.out


def wait_for_links(lab: Lab, who: str, count: int) -> None:
    eventually(lambda: len(look(lab)["nodes"][0]["links"]) >= count, 5)
