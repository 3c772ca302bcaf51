"""The fabric with hand-made views: real namespaces, real packets."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from cocoon_net.errors import NodeError
from cocoon_net.lab import namespace
from cocoon_net.lab.fabric import Fabric
from cocoon_net.lab.view import Group, Host, Port, Rule, View

pytestmark = pytest.mark.root

LAB = f"f{os.getpid() % 10000}"
MARK = "cocoon-net-lab of a test"
HOSTS, VMS, OTHER_VMS = (IPv4Network(text) for text in ("172.20.0.0/20", "172.20.100.0/24", "172.20.101.0/24"))
VPC = IPv4Network("172.20.0.0/16")
WHOLE_VPC = Rule("all", -1, -1, VPC, None, "accept", 1)
ONE, TWO = "172.20.9.230", "172.20.9.231"


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    one = Fabric(LAB, MARK)
    yield from ready(one)


@pytest.fixture
def strict() -> Iterator[Fabric]:
    yield from ready(Fabric(LAB, MARK, strict_source=True))


def ready(one: Fabric) -> Iterator[Fabric]:
    try:
        one.prepare()
        yield one
    finally:
        for name in namespace.names():
            if name.startswith(f"{LAB}-"):
                namespace.delete(name)


def test_nodes_reach_each_other_only_when_the_group_admits_it(fabric: Fabric) -> None:
    fabric.sync(view())
    assert not ping("node1", TWO)
    assert ping("node1", "172.20.0.1"), "the gateway is nobody's port"
    fabric.sync(view(WHOLE_VPC))
    assert ping("node1", TWO)
    assert ping("node2", ONE)


def test_an_answer_passes_where_a_question_would_not(fabric: Fabric) -> None:
    closed, opened = Group("sg-1", ()), Group("sg-2", (Rule("icmp", -1, -1, None, "sg-1", "accept", 1),))
    ports = (primary("i-1", ONE, "sg-1"), primary("i-2", TWO, "sg-2"))
    fabric.sync(replace(view(), ports=ports, groups=(closed, opened)))
    assert ping("node1", TWO)
    assert not ping("node2", ONE)


def test_a_vm_is_reached_by_the_addresses_of_its_interface(fabric: Fabric) -> None:
    vms = secondary("i-1", 1, VMS, 3)
    fabric.sync(view(WHOLE_VPC, more=(vms,)))
    behind = str(vms.addresses[-1])
    run("node1", f"ip link set eth1 up; ip address add {behind}/32 dev lo")
    assert ping("node2", behind)
    run("node1", "ip link set eth1 down")
    assert not ping("node2", behind), "a link that is down receives nothing"


def test_two_nodes_with_vms_behind_them(fabric: Fabric) -> None:
    here, there = secondary("i-1", 1, VMS, 2), secondary("i-2", 1, OTHER_VMS, 2)
    fabric.sync(view(WHOLE_VPC, more=(here, there)))
    for node, port in (("node1", here), ("node2", there)):
        run(node, f"ip link set eth1 up; ip address add {port.addresses[1]}/32 dev lo")
    assert ping("node1", str(there.addresses[1]), source=str(here.addresses[1]))
    fabric.sync(replace(view(WHOLE_VPC, more=(here, there)), groups=(Group("sg-1", ()),)))
    assert not ping("node1", str(there.addresses[1]), source=str(here.addresses[1]))


def test_a_new_interface_appears_as_hot_plug_does(fabric: Fabric) -> None:
    fabric.sync(view())
    assert "eth1" not in run("node1", "ip link")
    port = secondary("i-1", 1, VMS, 2)
    fabric.sync(view(more=(port,)))
    shown = run("node1", "ip -o link show eth1; ip -o -4 address show eth1")
    assert port.mac in shown
    assert "state DOWN" in shown
    assert "inet" not in shown
    assert f"inet {ONE}/20" in run("node1", "ip -o -4 address show eth0")
    assert "default via 172.20.0.1 dev eth0" in run("node1", "ip route")


def test_detach_removes_the_link_and_its_routes_and_no_other(fabric: Fabric) -> None:
    first, second = secondary("i-1", 1, VMS, 2), secondary("i-1", 2, VMS, 2, skip=10)
    fabric.sync(view(more=(first, second)))
    kept = index("node1", "eth2")
    fabric.sync(view(more=(second,)))
    assert "eth1" not in run("node1", "ip -o link")
    assert str(first.addresses[0]) not in run("vpc", "ip route")
    assert str(second.addresses[1]) in run("vpc", "ip route")
    assert index("node1", "eth2") == kept


def test_another_interface_in_the_same_place_is_another_link(fabric: Fabric) -> None:
    first = secondary("i-1", 1, VMS, 2)
    fabric.sync(view(more=(first,)))
    other = replace(first, interface_id="eni-other", mac="02:00:00:99:00:01")
    fabric.sync(view(more=(other,)))
    assert "02:00:00:99:00:01" in run("node1", "ip link show eth1")


def test_addresses_come_and_go_without_touching_the_link(fabric: Fabric) -> None:
    port = secondary("i-1", 1, VMS, 4)
    fabric.sync(view(more=(port,)))
    kept = index("node1", "eth1")
    gone = port.addresses[-1]
    assert fabric.sync(view(more=(replace(port, addresses=port.addresses[:-1]),))) == 1
    assert f"{gone} " not in run("vpc", "ip route")
    fabric.sync(view(more=(port,)))
    assert f"{gone} " in run("vpc", "ip route")
    assert index("node1", "eth1") == kept


def test_seeing_the_same_again_changes_nothing(fabric: Fabric) -> None:
    picture = view(WHOLE_VPC, more=(secondary("i-1", 1, VMS, 5), secondary("i-2", 1, OTHER_VMS, 5)))
    assert fabric.sync(picture) > 0
    links = [index("vpc", f"{node}-eth{number}") for node in ("node1", "node2") for number in (0, 1)]
    # Not the links: the kernel tells of their carrier in its own time.
    watch = ["ip", "netns", "exec", f"{LAB}-vpc", "ip", "monitor", "address", "route"]
    with subprocess.Popen(watch, stdout=subprocess.PIPE) as monitor:
        time.sleep(0.1)
        assert fabric.sync(picture) == 0
        time.sleep(0.1)
        monitor.terminate()
        assert monitor.stdout is not None and monitor.stdout.read() == b""
    assert [index("vpc", f"{node}-eth{number}") for node in ("node1", "node2") for number in (0, 1)] == links


def test_another_process_goes_on_with_what_is_there(fabric: Fabric) -> None:
    picture = view(WHOLE_VPC, more=(secondary("i-1", 1, VMS, 5),))
    fabric.sync(picture)
    before = index("node1", "eth1"), index("vpc", "node1-eth1")
    successor = Fabric(LAB, MARK)
    successor.prepare()
    assert successor.sync(picture) == 1, "only the rules are written again"
    assert (index("node1", "eth1"), index("vpc", "node1-eth1")) == before


def test_a_link_without_the_mark_of_completion_is_made_again(fabric: Fabric) -> None:
    fabric.sync(view(WHOLE_VPC))
    run("node1", "ip address flush dev eth0")
    run("vpc", "ip link set node1-eth0 alias ''")
    fabric.sync(view(WHOLE_VPC))
    assert ping("node1", TWO)


def test_a_namespace_that_vanished_is_made_again(fabric: Fabric) -> None:
    fabric.sync(view(WHOLE_VPC))
    namespace.delete(f"{LAB}-node1")
    fabric.sync(view(WHOLE_VPC))
    assert ping("node2", ONE)
    assert fabric.sync(view(WHOLE_VPC)) == 0


def test_a_link_of_the_same_name_is_not_taken_over(fabric: Fabric) -> None:
    fabric.sync(view())
    run("node1", "ip link add eth1 type bridge")
    with pytest.raises(NodeError, match="File exists"):
        fabric.sync(view(more=(secondary("i-1", 1, VMS, 2),)))


@pytest.mark.parametrize("own", [True, False])
def test_a_strict_fabric_drops_what_an_interface_sends_from_a_foreign_address(strict: Fabric, own: bool) -> None:
    vms = secondary("i-1", 1, VMS, 3)
    strict.sync(view(WHOLE_VPC, more=(vms,)))
    guest = vms.addresses[1]
    # Out by eth1, to which the address belongs, or by eth0, to which it does not.
    way = "ip link set eth1 up; ip route replace 172.20.0.1/32 dev eth1; " if own else ""
    gateway = "via 172.20.0.1 dev eth1 onlink" if own else "via 172.20.0.1 dev eth0"
    run("node1", f"{way}ip address add {guest}/32 dev lo; ip link set eth1 up; ip route replace {TWO}/32 {gateway}")
    assert ping("node1", TWO, source=str(guest)) is own
    assert not ping("node1", TWO, source="10.9.9.9")


def test_a_loose_fabric_does_not_ask_for_the_source(fabric: Fabric) -> None:
    vms = secondary("i-1", 1, VMS, 3)
    fabric.sync(view(WHOLE_VPC, more=(vms,)))
    guest = vms.addresses[1]
    run("node1", f"ip link set eth1 up; ip address add {guest}/32 dev lo")
    assert ping("node1", TWO, source=str(guest))


def test_seven_interfaces_with_all_addresses_appear_in_a_moment(fabric: Fabric) -> None:
    fabric.sync(view())
    more = tuple(secondary("i-1", number, VMS, 21, skip=21 * (number - 1)) for number in range(1, 8))
    began = time.perf_counter()
    assert fabric.sync(view(more=more)) == 7 + 7 * 21 + 7 + 1
    assert time.perf_counter() - began < 0.6, "0.1 s on a quiet machine"


def primary(instance: str, address: str, *groups: str) -> Port:
    own = IPv4Address(address)
    return Port(f"eni-{instance}-0", instance, 0, f"02:00:00:00:00:0{instance[-1]}", own, (own,), HOSTS, groups)


def secondary(instance: str, number: int, subnet: IPv4Network, count: int, skip: int = 0) -> Port:
    addresses = tuple(subnet[2 + skip + offset] for offset in range(count))
    mac = f"02:00:00:00:{number:02x}:0{instance[-1]}"
    return Port(f"eni-{instance}-{number}", instance, number, mac, addresses[0], addresses, subnet, ("sg-1",))


def view(*rules: Rule, more: tuple[Port, ...] = ()) -> View:
    return View(
        vpc_cidr=VPC,
        subnets=(HOSTS, VMS, OTHER_VMS),
        hosts=(Host("node1", "i-1"), Host("node2", "i-2")),
        ports=(primary("i-1", ONE, "sg-1"), primary("i-2", TWO, "sg-1"), *more),
        groups=(Group("sg-1", rules),),
    )


def run(machine: str, script: str) -> str:
    command = ["ip", "netns", "exec", f"{LAB}-{machine}", "sh", "-e", "-c", script]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def index(machine: str, link: str) -> str:
    return run(machine, f"ip -o link show {link}").split(":")[0]


def ping(machine: str, address: str, source: str = "") -> bool:
    place = ["ip", "netns", "exec", f"{LAB}-{machine}"]
    command = [*place, "ping", "-n", "-c", "1", "-W", "0.5", *(["-I", source] if source else []), address]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
