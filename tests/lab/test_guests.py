"""Guests on a hand-made bridge, with the real CNI plugin and real DHCP clients, served by busybox' udhcpd."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from cocoon_net.errors import NodeError, SpecError
from cocoon_net.lab import guests, machine, namespace
from cocoon_net.lab import lab as labs
from cocoon_net.lab.guests import Guest
from cocoon_net.lab.lab import Lab, Shape
from cocoon_net.lab.patience import eventually

pytestmark = pytest.mark.root

MACS = {"g1": "02:00:00:00:00:11", "g2": "02:00:00:00:00:12"}
ADDRESSES = {"g1": IPv4Address("172.20.100.11"), "g2": IPv4Address("172.20.100.12")}
CONFLIST = {
    "cniVersion": "1.0.0",
    "name": "cocoon-dhcp",
    "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": False, "ipMasq": False, "ipam": {}}],
}


@pytest.fixture
def lab(fresh: Lab) -> Iterator[Lab]:
    """A lab whose node1 has a bridge and a conflist, but nobody who serves DHCP."""
    labs.up(fresh, Shape(nodes=1), {})
    bridge = "ip link add cni0 type bridge; ip address add 172.20.100.1/24 dev cni0; ip link set cni0 up"
    assert machine.run(fresh, "node1", ["sh", "-ec", bridge]).code == 0
    (fresh.directory / "node1" / "cni" / guests.CONFLIST).write_text(json.dumps(CONFLIST))
    yield fresh


@pytest.fixture
def served(lab: Lab, tmp_path: Path) -> Lab:
    """The same lab with a DHCP server on the bridge."""
    leases = tmp_path / "leases"
    leases.touch()
    lines = [f"static_lease {MACS[name]} {ADDRESSES[name]}" for name in MACS]
    lines += ["start 172.20.100.20", "end 172.20.100.30", "interface cni0", f"lease_file {leases}"]
    lines += ["option subnet 255.255.255.0", "option router 172.20.100.1", "option dns 8.8.8.8 1.1.1.1"]
    (tmp_path / "udhcpd.conf").write_text("\n".join([*lines, f"pidfile {tmp_path / 'pid'}", ""]))
    machine.spawn(lab, "node1", ["busybox", "udhcpd", "-f", str(tmp_path / "udhcpd.conf")], tmp_path / "udhcpd.log")
    return lab


@pytest.mark.parametrize(("name", "client"), [("g1", "udhcpc"), ("g2", "dhclient")])
def test_a_guest_leases_and_is_configured_by_its_client(served: Lab, name: str, client: str) -> None:
    resolver = Path("/etc/resolv.conf").read_bytes()
    guest = Guest(name, "node1", client, MACS[name], hostname="zebra")
    assert guests.add(served, guest) == ADDRESSES[name]
    assert guests.listed(served) == [(guest, ADDRESSES[name])]

    def seen() -> str:
        return machine.run(served, name, ["sh", "-c", "hostname; ip route; cat /etc/resolv.conf; ip link"]).out

    # The client's script goes on after the address.
    eventually(lambda: all(word in seen() for word in ("default", "1.1.1.1")), 5, why=seen)
    assert seen().startswith("zebra\n")
    assert "default via 172.20.100.1" in seen()
    assert MACS[name] in seen()
    assert Path("/etc/resolv.conf").read_bytes() == resolver, "the machine's own resolv.conf is not the guest's"
    assert machine.run(served, name, ["ping", "-c", "1", "-W", "1", "172.20.100.1"]).code == 0


def test_a_guest_is_removed_with_its_client_and_its_link(served: Lab) -> None:
    before = ports(served)
    guests.add(served, Guest("g1", "node1", "udhcpc", MACS["g1"]))
    assert len(ports(served)) == len(before) + 1
    running = namespace.members([served.namespace("g1")])
    assert running
    guests.remove(served, "g1")
    assert ports(served) == before
    assert not [pid for pid in running if Path(f"/proc/{pid}/ns/net").exists()]
    assert not namespace.exists(served.namespace("g1"))
    with pytest.raises(SpecError, match="no guest g1"):
        guests.remove(served, "g1")


def test_a_port_of_a_guest_is_open_once_it_serves(served: Lab) -> None:
    address = guests.add(served, Guest("g1", "node1", "udhcpc", MACS["g1"]))
    knock = ["nc", "-w", "2", str(address), "3389"]
    assert machine.run(served, "node1", knock).code != 0
    guests.serve(served, "g1", 3389)
    assert [machine.run(served, "node1", knock).code for _ in range(2)] == [0, 0]


def test_no_lease_in_time_is_an_error_that_names_the_log(lab: Lab) -> None:
    began = time.monotonic()
    with pytest.raises(NodeError, match=r"got no lease within 0\.5 s") as caught:
        guests.add(lab, Guest("g1", "node1", "udhcpc"), patience=0.5)
    assert time.monotonic() - began < 3.0
    assert "client.log" in caught.value.hint


def test_a_guest_without_a_client_is_plugged_in_only(lab: Lab) -> None:
    assert guests.add(lab, Guest("g1", "node1", "none", MACS["g1"])) is None
    assert MACS["g1"] in machine.run(lab, "g1", ["ip", "link", "show", "eth0"]).out
    with pytest.raises(SpecError, match="is there"):
        guests.add(lab, Guest("g1", "node1", "none"))


@pytest.mark.parametrize(
    ("guest", "problem"),
    [
        (Guest("g1", "node7", "none"), "no node node7"),
        (Guest("g1", "node1", "dhcpcd"), "client"),
        (Guest("g1", "node1", "none", "01:00:00:00:00:00"), "unicast"),
        (Guest("host", "node1", "none"), "guest name"),
    ],
)
def test_a_wrong_wish_makes_nothing(lab: Lab, guest: Guest, problem: str) -> None:
    before = namespace.names()
    with pytest.raises(SpecError, match=problem):
        guests.add(lab, guest)
    assert namespace.names() == before
    assert not lab.guests.exists()


def test_a_node_that_is_not_provisioned_takes_no_guest(lab: Lab) -> None:
    (lab.directory / "node1" / "cni" / guests.CONFLIST).unlink()
    with pytest.raises(NodeError, match="no CNI configuration"):
        guests.add(lab, Guest("g1", "node1", "none"))
    assert not namespace.exists(lab.namespace("g1"))


def test_what_the_plugin_says_is_told_and_undone(lab: Lab) -> None:
    wrong = {**CONFLIST, "plugins": [{"type": "bridge", "bridge": "cni0", "ipam": {}, "vlan": 9999}]}
    (lab.directory / "node1" / "cni" / guests.CONFLIST).write_text(json.dumps(wrong))
    with pytest.raises(NodeError, match=r"refused ADD for g1: .*VLAN"):
        guests.add(lab, Guest("g1", "node1", "none"))
    assert guests.listed(lab) == []
    assert not namespace.exists(lab.namespace("g1"))


def test_down_takes_guests_along_also_after_their_client_was_killed(served: Lab) -> None:
    guests.add(served, Guest("g1", "node1", "udhcpc", MACS["g1"]))
    guests.serve(served, "g1", 3389)
    for pid in namespace.members([served.namespace("g1")])[:1]:
        subprocess.run(["kill", "-9", str(pid)], check=True)
    assert served.namespace("g1") in labs.down(served)


def ports(lab: Lab) -> list[str]:
    links = json.loads(machine.run(lab, "node1", ["ip", "-j", "link", "show", "master", "cni0"]).out or "[]")
    return sorted(link["ifname"] for link in links)
