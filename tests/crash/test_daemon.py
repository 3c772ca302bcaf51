"""The daemon on a node of the lab, with a guest on it: killed, stopped, doubled, and put in the Go tool's place."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cocoon_net import unix_http
from cocoon_net.lab.patience import eventually

pytestmark = [pytest.mark.root, pytest.mark.slow]

SPEC = ("--platform", "volcengine", "--node-name", "cocoon-pool", "--subnet", "172.20.100.0/24", "--pool-size", "40")


class Daemon:
    """A running ``cocoon-net daemon`` of node1."""

    def __init__(self, scene: Any, *options: str) -> None:
        self.home = scene.directory / scene.name / "node1"
        words = ["lab", "exec", "--name", scene.name, "node1", "--", sys.executable, "-m", "cocoon_net", "daemon"]
        self.log = scene.directory / "daemon.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cocoon_net", *words, *options], stderr=log, env=scene.environment()
            )
        self.socket = self.home / "run" / "cocoon-net" / "control.sock"
        eventually(lambda: self.answers() or self.process.poll() is not None, 20)
        assert self.process.poll() is None, self.log.read_text()

    def answers(self) -> bool:
        try:
            return self.ask("GET", "/v1/leases")[0] == 200
        except OSError:
            return False

    def ask(self, method: str, path: str) -> tuple[int, bytes]:
        return unix_http.ask(self.socket, method, path)

    def end(self, number: int) -> float:
        """Send a signal and return the seconds until the process is gone."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(10)
        return time.monotonic() - began


def leases(scene: Any) -> list[dict[str, str]]:
    path = scene.directory / scene.name / "node1" / "state" / "leases.json"
    return list(json.loads(path.read_text()))


def routes(scene: Any) -> list[str]:
    return sorted(scene.on_node("ip", "route", "show", "proto", "174").stdout.split("\n"))[1:]


@pytest.fixture(scope="module")
def provisioned(scene: Any) -> Any:
    scene.product("init", *SPEC)
    return scene


@pytest.fixture
def daemon(provisioned: Any) -> Iterator[Daemon]:
    one = Daemon(provisioned)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.end(signal.SIGTERM)


def test_without_a_pool_it_says_what_to_run_first(scene: Any) -> None:
    done = scene.product("daemon", "--state-dir", str(scene.directory / "empty"), check=False)
    assert done.returncode == 78
    assert "there is no pool" in done.stderr
    assert "cocoon-net init" in done.stderr


def test_a_second_daemon_and_a_teardown_are_refused_beside_it(provisioned: Any, daemon: Daemon) -> None:
    second = provisioned.product("daemon", check=False)
    assert second.returncode == 75, second.stderr
    assert str(daemon.process.pid) in second.stderr
    refused = provisioned.product("teardown", check=False)
    assert refused.returncode == 78
    assert "a daemon serves this node" in refused.stderr
    assert daemon.answers()


def test_a_guest_leases_and_survives_the_daemons_death_by_sigkill(provisioned: Any, daemon: Daemon) -> None:
    scene = provisioned
    scene.command("lab", "guest", "add", "--name", scene.name, "node1", "one", "--client", "udhcpc")
    (lease,) = eventually(lambda: leases(scene))
    assert routes(scene) == [f"{lease['ip']} dev cni0 scope link "]
    daemon.end(signal.SIGKILL)
    assert routes(scene) == [f"{lease['ip']} dev cni0 scope link "], "the guest stays reachable while nobody serves"
    stale = (daemon.home / "run" / "cocoon-net.pid").read_text()
    assert stale == f"{daemon.process.pid}\n", "a stale PID file is no hindrance"
    again = Daemon(scene)
    try:
        assert leases(scene)[0]["ip"] == lease["ip"]
        assert json.loads(scene.product("status", "--json").stdout)
        ping = scene.command("lab", "exec", "--name", scene.name, "host", "--", "ping", "-c1", "-W2", lease["ip"])
        assert "1 received" in ping.stdout
        assert again.end(signal.SIGTERM) < 1.5, "a drain takes under a second; the rest is the interpreter's end"
        assert not (daemon.home / "run" / "cocoon-net.pid").exists()
        assert leases(scene)[0]["ip"] == lease["ip"]
    finally:
        if again.process.poll() is None:
            again.end(signal.SIGKILL)


def test_vk_cocoon_reclaims_a_lease_by_the_control_socket(provisioned: Any, daemon: Daemon) -> None:
    (lease,) = leases(provisioned)
    assert daemon.ask("DELETE", "/v1/leases/nonsense")[0] == 400
    assert daemon.ask("DELETE", f"/v1/leases/{lease['mac'].upper()}")[0] == 204
    assert daemon.ask("DELETE", f"/v1/leases/{lease['mac']}")[0] == 204, "already gone is success"
    assert eventually(lambda: leases(provisioned) == [])
    assert eventually(lambda: routes(provisioned) == [])


def test_a_larger_init_reaches_the_running_daemon(provisioned: Any, daemon: Daemon) -> None:
    def serves(size: int) -> bool:
        return bool(json.loads(daemon.ask("GET", "/v1/status")[1])["pool"] == size)

    assert "running daemon was told" in provisioned.product("init", *SPEC[:-1], "60").stderr
    assert eventually(lambda: serves(60))
    provisioned.admin.set_faults({"fail.AssignPrivateIpAddresses": "InvalidParameter@400"})
    assert provisioned.product("init", *SPEC[:-1], "80", check=False).returncode == 69
    provisioned.admin.set_faults({"fail.AssignPrivateIpAddresses": ""})
    assert "running daemon was told" in provisioned.product("workflow", "retry").stderr
    assert eventually(lambda: serves(80))


def test_a_state_directory_of_the_go_tool_is_taken_over(scene: Any, tmp_path: Path) -> None:
    """Nothing there but ``pool.json`` and ``leases.json``: the database is taken away, the rest is a live node."""
    home = scene.directory / scene.name / "node1" / "state"
    shutil.copy(home / "pool.json", tmp_path)
    pool = json.loads((home / "pool.json").read_text())
    ips = pool["ips"]
    lease = {"mac": "52:54:00:00:00:77", "ip": ips[3], "expiry": "2099-01-01T00:00:00.123456789+08:00"}
    (tmp_path / "leases.json").write_text(json.dumps([lease]))
    before = scene.on_node("ip", "-j", "link", "show", "cni0").stdout
    served = Daemon(scene, "--state-dir", str(tmp_path))
    try:
        assert eventually(lambda: routes(scene)) == [f"{ips[3]} dev cni0 scope link "]
        rows = json.loads(served.ask("GET", "/v1/leases")[1])
        assert ips[3] in json.dumps(rows)
        status = scene.product("status", "--state-dir", str(tmp_path)).stdout
        assert status.startswith("Platform:   volcengine\nNode:       cocoon-pool\nSubnet:     172.20.100.0/24\n")
        assert f"IPs:        {len(ips)}\n" in status
        assert scene.on_node("ip", "-j", "link", "show", "cni0").stdout == before, "the bridge stays as it was"
    finally:
        served.end(signal.SIGTERM)
    os.sync()
    plan = scene.product("plan", "teardown", "--state-dir", str(tmp_path), "--json", check=False)
    assert plan.returncode == 1, plan.stderr
    steps = {step["step"]: step for step in json.loads(plan.stdout)["steps"]}
    deleted = {name: [row["key"] for row in step["changes"] if row["verb"] == "delete"] for name, step in steps.items()}
    assert deleted["subnet"] == ["subnet"] and len(deleted["enis"]) == len(pool["eniIDs"]) > 2, "they carry our mark"
    assert "nothing" in scene.product("gc", "--dry-run", "--state-dir", str(tmp_path)).stdout
    scene.product("init", *SPEC, "--state-dir", str(tmp_path))
    scene.product("teardown", "--state-dir", str(tmp_path))
    left = scene.cloud()
    assert not [key for key, *_ in left["interfaces"] if key.startswith("eni-")]
    assert "172.20.100.0/24" not in [row[0] for row in left["subnets"]]


def test_a_node_of_the_go_tool_is_torn_down_without_its_cloud_side(scene: Any, tmp_path: Path) -> None:
    """Nobody asked the cloud for the facts of this instance when the node was taken over."""
    subnet = scene.admin.plant_subnet("172.20.102.0/24")
    scene.admin.plant_interface(subnet="172.20.102.0/24", instance="node1", name="go", secondaries=5, count=2)
    before = scene.cloud()
    ips = [a for row in scene.admin.state()["interfaces"] if row["name"] == "go" for a in row["secondaries"]]
    pool = {
        "platform": "volcengine",
        "nodeName": "go-pool",
        "subnet": "172.20.102.0/24",
        "gateway": "172.20.102.1",
        "primaryNIC": "eth0",
        "subnetID": subnet,
        "ips": ips,
        "updatedAt": "2026-05-01T10:00:00.123456789Z",
    }
    (tmp_path / "pool.json").write_text(json.dumps(pool))
    scene.on_node("ip", "link", "del", "cni0", check=False)
    scene.on_node("ip", "link", "add", "cni0", "type", "bridge")
    scene.on_node("ip", "addr", "add", "172.20.102.1/24", "dev", "cni0")
    scene.on_node("ip", "link", "set", "cni0", "up")
    state = ("--state-dir", str(tmp_path))
    Daemon(scene, *state).end(signal.SIGTERM)
    plan = scene.product("plan", "teardown", *state, "--json", check=False)
    assert plan.returncode == 1, plan.stderr
    kept = {step["step"]: step["kept"] for step in json.loads(plan.stdout)["steps"]}
    assert kept["subnet"] == {"subnet": "was there before us"}
    assert kept["enis"] == {"eni-1": "was there before us", "eni-2": "was there before us"}
    assert "nothing" in scene.product("gc", "--dry-run", *state).stdout
    scene.product("teardown", *state)
    assert scene.cloud() == before
    assert not (tmp_path / "pool.json").exists()
