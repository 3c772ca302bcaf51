"""The cloud as a process: what the fabric is shown, and what is left after a kill."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from urllib3.exceptions import HTTPError

from cocoon_net.errors import NodeError, SpecError
from cocoon_net.lab.cloud import Admin, Cloud, Seed
from cocoon_net.lab.patience import eventually
from cocoon_net.lab.view import Rule, View


def spawn(directory: Path, *more: str, prefix: Sequence[str] = ()) -> tuple[subprocess.Popen[str], dict[str, str]]:
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", "cocoon_net.lab.cloud", "--directory", str(directory), *more],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def test_the_fabric_sees_the_seeded_world_first(start):
    views: queue.Queue[View] = queue.Queue()
    bench = start(on_view=views.put, seed=Seed(nodes=2))
    view = views.get(timeout=5)
    assert view.vpc_cidr == IPv4Network("172.20.0.0/16")
    assert [host.node for host in view.hosts] == ["node1", "node2", "host"]
    assert {port.primary_address for port in view.ports} == {
        IPv4Address("172.20.9.230"),
        IPv4Address("172.20.9.231"),
        IPv4Address("172.20.9.240"),
    }
    assert all(port.index == 0 and port.mac.startswith("00:16:3e:") for port in view.ports)
    (own,) = [group for group in view.groups if group.group_id == bench.group]
    assert own.ingress == (Rule("tcp", 22, 22, IPv4Network("0.0.0.0/0"), None, "accept", 1),)


def test_an_attach_reaches_the_fabric_within_milliseconds_and_a_detach_too(start):
    views: queue.Queue[tuple[float, View]] = queue.Queue()
    bench = start(on_view=lambda view: views.put((time.monotonic(), view)))
    key = bench.interface(bench.subnet(), SecondaryPrivateIpAddressCount=2)

    def wait_for(present: bool) -> tuple[float, View]:
        while True:
            when, view = views.get(timeout=5)
            if present == any(port.interface_id == key for port in view.ports):
                return when, view

    where = {"NetworkInterfaceId": key, "InstanceId": bench.node1}
    bench.call("AttachNetworkInterface", **where)
    answered = time.monotonic()
    when, view = wait_for(True)
    assert when - answered < 0.1
    (port,) = [port for port in view.ports if port.interface_id == key]
    assert (port.index, port.instance_id, len(port.addresses)) == (1, bench.node1, 3)
    assert port.subnet == IPv4Network("172.20.100.0/24")
    assert port.subnet in view.subnets
    bench.call("DetachNetworkInterface", **where)
    wait_for(False)


def test_time_alone_brings_the_link(start):
    views: queue.Queue[View] = queue.Queue()
    bench = start(on_view=views.put, faults={"state-latency": "50ms", "link-delay": "150ms"})
    subnet = bench.subnet()
    time.sleep(0.06)
    key = bench.interface(subnet)
    time.sleep(0.06)
    began = time.monotonic()
    bench.call("AttachNetworkInterface", NetworkInterfaceId=key, InstanceId=bench.node1)
    while not any(port.interface_id == key for port in views.get(timeout=5).ports):
        pass
    assert 0.2 <= time.monotonic() - began < 2


def test_a_fabric_that_fails_is_shown_the_view_again(start):
    seen: queue.Queue[View] = queue.Queue()

    def show(view: View) -> None:
        seen.put(view)
        if seen.qsize() == 1:
            raise NodeError("not yet")

    start(on_view=show)
    eventually(lambda: seen.qsize() >= 2, 5)
    assert seen.get() == seen.get()


def test_kill_9_of_the_server_loses_nothing(tmp_path, sdk):
    directory = tmp_path / "c"
    process, addresses = spawn(directory, "--fault", "lose=CreateNetworkInterface", "--default-instance", "node1")
    try:
        admin = Admin(Path(addresses["admin"]))
        keys = admin.credentials()
        call = sdk(addresses["endpoint"], keys["access_key"], keys["secret_key"])
        (vpc,) = call("DescribeVpcs")["Vpcs"]
        subnet = call(
            "CreateSubnet", VpcId=vpc["VpcId"], CidrBlock="172.20.100.0/24", ZoneId="cn-hongkong-a", ClientToken="s"
        )["SubnetId"]
        group = call("DescribeSecurityGroups")["SecurityGroups"][1]["SecurityGroupId"]
        with pytest.raises(HTTPError, match="Remote end closed"):
            call("CreateNetworkInterface", SubnetId=subnet, SecurityGroupIds=[group], ClientToken="e")
        before = admin.state()
        calls = admin.calls()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    process, addresses = spawn(directory)
    try:
        again = admin.state()
        assert {**again, "time": ""} == {**before, "time": ""}
        assert admin.calls() == calls
        assert admin.credentials() == keys
        assert admin.faults()["lose"] == ""  # it was spent
        call = sdk(addresses["endpoint"], keys["access_key"], keys["secret_key"])
        repeated = call("CreateNetworkInterface", SubnetId=subnet, SecurityGroupIds=[group], ClientToken="e")
        (made,) = [row["id"] for row in again["interfaces"] if row["kind"] == "secondary"]
        assert repeated["NetworkInterfaceId"] == made
        admin.shutdown()
        assert process.wait(timeout=5) == 0
        assert not admin.path.exists()
    finally:
        process.kill()
        process.wait()


def test_what_was_answered_before_a_kill_under_load_is_there_after_it(tmp_path, sdk):
    process, addresses = spawn(tmp_path)
    admin = Admin(Path(addresses["admin"]))
    keys = admin.credentials()
    group = next(row["id"] for row in admin.state()["groups"] if row["name"] == "lab-nodes")
    subnet = admin.state()["subnets"][0]["id"]
    answered: list[str] = []

    def create() -> None:
        call = sdk(addresses["endpoint"], keys["access_key"], keys["secret_key"])
        with contextlib.suppress(HTTPError):
            while True:
                made = call("CreateNetworkInterface", SubnetId=subnet, SecurityGroupIds=[group])
                answered.append(made["NetworkInterfaceId"])

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(answered) >= 40)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for thread in threads:
        thread.join()
    process, _ = spawn(tmp_path)
    try:
        kept = {row["id"] for row in admin.state()["interfaces"]}
        assert len(answered) >= 40
        assert set(answered) <= kept
        logged = [call for call in admin.calls() if call["action"] == "CreateNetworkInterface"]
        assert len(logged) == len(kept) - 3  # the effect and its line in the log are one transaction
    finally:
        process.kill()
        process.wait()


def test_sigterm_ends_it_cleanly(tmp_path):
    process, _ = spawn(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 0


def test_a_transition_that_was_under_way_ends_after_the_restart(start, tmp_path):
    directory = tmp_path / "same"
    first = start(directory=directory, faults={"state-latency": "200ms"})
    key = first.subnet()
    first.cloud.close()
    second = start(directory=directory)
    time.sleep(0.2)
    assert second.call("DescribeSubnetAttributes", SubnetId=key)["Status"] == "Available"


def test_the_calls_are_logged_with_what_became_of_them(bench):
    bench.admin.clear_calls()
    bench.call("DescribeSubnets", VpcId=bench.vpc)
    bench.call.refusal("DeleteSubnet", SubnetId="subnet-none")
    first, second = bench.admin.calls()
    assert (first["action"], first["status"], first["code"]) == ("DescribeSubnets", 200, "")
    assert first["parameters"] == {"VpcId": bench.vpc}
    assert first["access_key"] == bench.cloud.access_key
    assert (second["action"], second["status"], second["code"]) == ("DeleteSubnet", 404, "InvalidSubnet.NotFound")
    assert bench.admin.calls(since=first["seq"]) == [second]
    assert bench.admin.counters()["DeleteSubnet"] | {"seconds": 0} == {
        "calls": 1,
        "errors": 1,
        "lost": 0,
        "seconds": 0,
    }


def test_the_admin_refuses_what_it_does_not_understand(bench):
    with pytest.raises(SpecError, match="no such knob: speed"):
        bench.fault(speed="1")
    with pytest.raises(SpecError, match="no instance node9"):
        bench.admin.plant_interface(instance="node9")
    with pytest.raises(SpecError, match="no subnet"):
        bench.admin.plant_interface(subnet="subnet-none")
    with pytest.raises(SpecError, match="cidr=x"):
        bench.admin.plant_subnet("x")


def test_an_admin_without_a_cloud_says_what_to_do(tmp_path):
    with pytest.raises(NodeError) as caught:
        Admin(tmp_path / "none.sock").state()
    assert "lab up" in caught.value.hint


def test_a_port_in_use_or_an_overlong_path_is_an_error_of_ours(bench, tmp_path):
    host, _, port = bench.cloud.endpoint.removeprefix("http://").partition(":")
    with pytest.raises(NodeError, match="cannot listen"):
        Cloud.start(tmp_path / "second", listen=(host, int(port)))
    with pytest.raises(SpecError, match="too long"):
        Cloud.start(tmp_path / ("d" * 100))


def test_a_call_without_latency_takes_about_a_millisecond(bench):
    for _ in range(20):
        bench.call("DescribeVpcs")
    bench.admin.clear_calls()
    for _ in range(50):
        bench.call("DescribeVpcs")
    times = sorted(call["seconds"] for call in bench.admin.calls())
    assert times[len(times) // 2] < 0.005, times


def test_a_socket_that_is_bound_already_will_do(start, sdk):
    ready = socket.create_server(("127.0.0.1", 0))
    port = ready.getsockname()[1]
    bench = start(listen=ready)
    assert bench.cloud.endpoint == f"http://127.0.0.1:{port}"
    again = bench.cloud.listen_api(("127.0.0.1", 0))
    other = sdk("http://{}:{}".format(*again), bench.cloud.access_key, bench.cloud.secret_key)
    assert other("DescribeVpcs")["Vpcs"][0]["VpcId"] == bench.vpc


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"cl-{os.getpid()}"
    ip = ["ip", "-n", name]
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run([*ip, "link", "set", "lo", "up"], check=True)
        for address in ("100.96.0.96", "100.96.0.97", "172.20.9.230", "172.20.9.231"):
            subprocess.run([*ip, "address", "add", f"{address}/32", "dev", "lo"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.root
def test_in_a_namespace_metadata_knows_who_asks(namespace, tmp_path):
    inside = ["ip", "netns", "exec", namespace]
    process, addresses = spawn(tmp_path, "--listen", "100.96.0.97:80", "--metadata", "100.96.0.96:80", prefix=inside)
    try:
        assert addresses["endpoint"] == "http://100.96.0.97:80"
        nodes = {row["node"]: row["id"] for row in Admin(Path(addresses["admin"])).state()["instances"]}
        for node, address in (("node1", "172.20.9.230"), ("node2", "172.20.9.231")):
            url = f"{addresses['metadata_url']}/latest/meta-data/instance-id"
            curl = ["curl", "--silent", "--noproxy", "*", "--interface", address, url]
            asked = subprocess.run([*inside, *curl], check=True, capture_output=True, text=True)
            assert asked.stdout == nodes[node]
    finally:
        process.kill()
        process.wait()
