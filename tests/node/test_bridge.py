"""cni0: pinned, with one address, and put right from whatever state it was left in."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.engine.model import Change, Origin, Row, Verb
from cocoon_net.errors import NodeError, Unsupported
from cocoon_net.node import netlink, rtnetlink
from cocoon_net.node.bridge import NO_ADDRESS, Bridges, plug
from cocoon_net.node.netlink import KernelLink
from cocoon_net.node.routewire import RouteWire, routes
from cocoon_net.records import BRIDGE, Bridge

pytestmark = pytest.mark.root

ADDRESS = IPv4Interface("172.20.100.1/24")
MAC = "02:11:22:33:44:55"
WANT = Bridge(BRIDGE, ADDRESS, MAC, 1500)
Converge = Callable[..., list[Change]]


def detail(namespace: Any) -> dict[str, Any]:
    (link,) = json.loads(namespace.ip("-j -d addr show cni0"))
    assert isinstance(link, dict)
    return link


def inet(namespace: Any) -> list[str]:
    return [f"{a['local']}/{a['prefixlen']}" for a in detail(namespace)["addr_info"] if a["family"] == "inet"]


def test_a_link_of_that_name_that_is_no_bridge_is_left_alone(namespace: Any, context: Any) -> None:
    namespace.ip("link add cni0 type veth peer name cni0-peer")
    assert Bridges().observe(context()) == {}
    with pytest.raises(Unsupported, match="cni0 should be a bridge and is a veth") as refused:
        Bridges().apply(Change("bridge", BRIDGE, Verb.CREATE, WANT, None), "t", context())
    assert "ip -d link show cni0" in refused.value.hint
    assert Bridges().apply(Change("bridge", BRIDGE, Verb.DELETE, None, WANT), "t", context()) == {}
    assert netlink.link("cni0") is not None


def test_deleting_what_is_not_there_is_done(namespace: Any, context: Any) -> None:
    assert Bridges().apply(Change("bridge", BRIDGE, Verb.DELETE, None, WANT), "t", context()) == {}


def test_it_is_made_with_all_that_guests_need(namespace: Any, context: Any, converge: Converge) -> None:
    made = converge(Bridges(), context(), "bridge", {BRIDGE: WANT})
    assert [change.verb for change in made] == [Verb.CREATE]
    link = detail(namespace)
    assert (link["address"], link["mtu"], link["ifalias"]) == (MAC, 1500, "cocoon-net cocoon-pool")
    data = link["linkinfo"]["info_data"]
    assert (link["linkinfo"]["info_kind"], data["stp_state"], data["forward_delay"]) == ("bridge", 0, 0)
    assert "UP" in link["flags"] and inet(namespace) == ["172.20.100.1/24"]
    seen = Bridges().observe(context())[BRIDGE]
    assert isinstance(seen, Bridge) and seen.ours is True and seen.index == link["ifindex"]


def test_ports_change_neither_its_mac_nor_its_mtu(namespace: Any, context: Any, converge: Converge) -> None:
    converge(Bridges(), context(), "bridge", {BRIDGE: WANT})
    namespace.interface("port1", "00:00:00:00:00:11", mtu=1280)
    namespace.ip("link set port1 master cni0 up")
    assert Bridges().observe(context())[BRIDGE] == WANT
    namespace.ip("link del port1")
    assert Bridges().observe(context())[BRIDGE] == WANT


@pytest.mark.parametrize("killed_after", ["made", "marked", "addressed"])
def test_killed_between_two_messages_it_is_finished_and_still_ours(
    namespace: Any, context: Any, converge: Converge, killed_after: str
) -> None:
    netlink.add_bridge(BRIDGE, mac=MAC, mtu=1499)
    link = netlink.link(BRIDGE)
    assert link is not None
    if killed_after != "made":
        netlink.set_link(link.index, mtu=1500, alias="cocoon-net cocoon-pool")
    if killed_after == "addressed":
        netlink.add_address(link.index, ADDRESS)
    cx = context(bridge={BRIDGE: WANT})  # the intent was entered before the act: origin created
    made = converge(Bridges(), cx, "bridge", {BRIDGE: WANT})
    assert [change.verb for change in made] == [Verb.UPDATE]
    seen = Bridges().observe(cx)[BRIDGE]
    assert isinstance(seen, Bridge) and seen.ours is True


@pytest.mark.parametrize(
    "harm",
    ["link set cni0 down", "link set cni0 mtu 1400", "addr flush dev cni0", "link set cni0 address 02:00:00:00:00:09"],
)
def test_what_drifted_is_put_right(namespace: Any, context: Any, converge: Converge, harm: str) -> None:
    converge(Bridges(), context(), "bridge", {BRIDGE: WANT})
    namespace.ip(harm)
    assert Bridges().observe(context())[BRIDGE] != WANT
    assert [change.verb for change in converge(Bridges(), context(), "bridge", {BRIDGE: WANT})] == [Verb.UPDATE]
    assert inet(namespace) == ["172.20.100.1/24"]


@pytest.mark.parametrize("promote", [0, 1])
def test_an_old_gateway_s_address_goes_and_the_routes_of_leases_stay(
    namespace: Any, context: Any, converge: Converge, promote: int
) -> None:
    old = context({"gateway": "172.20.100.254"})
    converge(Bridges(), old, "bridge", {BRIDGE: replace(WANT, address=IPv4Interface("172.20.100.254/24"))})
    namespace.run("sysctl", "-w", f"net.ipv4.conf.cni0.promote_secondaries={promote}")
    link = netlink.link(BRIDGE)
    assert link is not None
    with RouteWire(link.index) as wire:
        wire.change(range(9, 99), ())
    converge(Bridges(), context(), "bridge", {BRIDGE: WANT})
    assert inet(namespace) == ["172.20.100.1/24"]
    assert len(routes()) == 90


def test_an_old_address_beside_the_right_one_is_a_difference(namespace: Any, context: Any, converge: Converge) -> None:
    converge(Bridges(), context(), "bridge", {BRIDGE: WANT})
    namespace.ip("addr add 10.9.9.1/24 dev cni0")
    assert Bridges().observe(context())[BRIDGE] != WANT
    converge(Bridges(), context(), "bridge", {BRIDGE: WANT})
    assert inet(namespace) == ["172.20.100.1/24"]


def test_a_bridge_that_was_there_keeps_its_other_addresses_and_gets_no_mark(
    namespace: Any, context: Any, converge: Converge
) -> None:
    namespace.ip("link add cni0 type bridge")
    namespace.ip("addr add 10.9.9.1/24 dev cni0")
    namespace.ip("addr add fd00::1/64 dev cni0")
    before = Bridges().observe(context())[BRIDGE]
    assert isinstance(before, Bridge) and before.address == IPv4Interface("10.9.9.1/24") and before.ours is None
    converge(Bridges(), context(), "bridge", {BRIDGE: WANT})
    assert inet(namespace) == ["10.9.9.1/24", "172.20.100.1/24"]
    assert "fd00::1" in namespace.ip("addr show cni0")
    assert "ifalias" not in detail(namespace)


@pytest.mark.parametrize("addresses", [[], ["10.9.9.1/24"], ["10.9.9.1/24", "10.8.8.1/24"]])
def test_a_bridge_that_was_there_is_restored(
    namespace: Any, context: Any, converge: Converge, addresses: list[str]
) -> None:
    namespace.ip("link add cni0 address 02:00:00:00:00:07 mtu 1450 type bridge")
    for address in addresses:
        namespace.ip(f"addr add {address} dev cni0")
    before = Bridges().observe(context())[BRIDGE]
    assert isinstance(before, Bridge) and not before.up
    assert before.address == (IPv4Interface(addresses[0]) if addresses else NO_ADDRESS)
    converge(Bridges(), context(), "bridge", {BRIDGE: WANT})
    cx = context()
    found = {("bridge", BRIDGE): Row("bridge", BRIDGE, Origin.FOUND, WANT, before)}
    converge(Bridges(), replace(cx, ledger=found), "bridge", {BRIDGE: before})
    assert inet(namespace) == addresses
    assert (detail(namespace)["address"], detail(namespace)["mtu"]) == ("02:00:00:00:00:07", 1450)


def test_it_goes_with_its_ports_unplugged_and_noted(namespace: Any, context: Any, converge: Converge) -> None:
    converge(Bridges(), context(), "bridge", {BRIDGE: WANT})
    for port in ("tap-a", "tap-b"):
        namespace.interface(port, "00:00:00:00:00:11")
        namespace.ip(f"link set {port} master cni0")
    noted = Bridges().apply(Change("bridge", BRIDGE, Verb.DELETE, None, WANT), "t", context())
    assert noted == {"unplugged": "tap-a, tap-b"}
    assert Bridges().observe(context()) == {} and netlink.link("tap-a") is not None


def index(namespace: Any, name: str) -> int:
    return int(json.loads(namespace.ip(f"-j link show {name}"))[0]["ifindex"])


def test_the_guests_of_a_bridge_that_is_gone_are_plugged_in_and_nothing_else(namespace: Any) -> None:
    for name in ("tap1", "tap2", "tap3"):
        namespace.ip(f"link add {name} type veth peer name {name}-peer")
    ports = [index(namespace, name) for name in ("tap1", "tap2", "tap3")]
    assert plug([(port, 4711) for port in ports]) is None, "no bridge stands"
    namespace.ip("link add br9 type bridge")
    namespace.ip("link set tap2 master br9")
    namespace.ip("link add cni0 type bridge")
    assert plug([(port, index(namespace, "cni0")) for port in ports]) == [], "they were taken out of this one"
    assert plug([(port, 4711) for port in (*ports[:2], 4712)]) == ["tap1"]
    assert "master cni0" in namespace.ip("link show tap1") and "master br9" in namespace.ip("link show tap2")


def test_a_bridge_that_goes_under_our_hands_is_no_bridge(namespace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace.ip("link add tap1 type veth peer name tap1-peer")
    namespace.ip("link add cni0 type bridge")
    real = netlink.plug

    def gone(links: Sequence[KernelLink], bridge: int) -> None:
        namespace.ip("link del cni0")
        real(links, bridge)

    monkeypatch.setattr(netlink, "plug", gone)
    assert plug([(index(namespace, "tap1"), 4711)]) is None


def test_a_link_that_cannot_be_a_port_keeps_no_other_out(namespace: Any) -> None:
    namespace.ip("link add tap1 type veth peer name tap1-peer")
    namespace.ip("link add cni0 type bridge")
    with pytest.raises(NodeError, match="cannot plug lo in: Invalid argument"):
        plug([(index(namespace, name), 4711) for name in ("lo", "tap1")])
    assert "master cni0" in namespace.ip("link show tap1")


def test_a_link_that_went_meanwhile_is_no_error(namespace: Any) -> None:
    namespace.ip("link add cni0 type bridge")
    netlink.plug([KernelLink(4712, "tap1", "", 1500, True)], index(namespace, "cni0"))


def test_without_the_capability_nobody_plugs_in(namespace: Any, powerless: Callable[[str], str]) -> None:
    for words in ("link add tap1 type veth peer name tap1-peer", "link add cni0 type bridge"):
        namespace.ip(words)
    said = powerless(
        "from cocoon_net.errors import Refused\n"
        "from cocoon_net.node import netlink\n"
        "from cocoon_net.node.bridge import plug\n"
        "try: plug([(link.index, 4711) for link in netlink.links() if link.name == 'tap1'])\n"
        "except Refused as error: print(error.told)\n"
    )
    assert said.startswith("cannot plug tap1 in: Operation not permitted") and "CAP_NET_ADMIN" in said


PORTS = 200


def test_who_is_killed_while_it_plugs_guests_in_leaves_none_of_them_out(namespace: Any) -> None:
    """Otherwise the next start would find a bridge with ports, and take those that are missing for taken out."""
    made = "".join(f"link add tap{n} type veth peer name peer{n}\n" for n in range(PORTS))
    namespace.run("ip", "-batch", "-", given=f"link add cni0 type bridge\n{made}")
    bridge = index(namespace, "cni0")
    code = (
        "import time; from cocoon_net.node import netlink; from cocoon_net.node.bridge import plug\n"
        "plug([(link.index, 4711) for link in netlink.links() if link.name.startswith('tap')]); time.sleep(60)\n"
    )
    with rtnetlink.connect() as ear:
        ear.setsockopt(rtnetlink.SOL_NETLINK, 1, 1)  # NETLINK_ADD_MEMBERSHIP, RTNLGRP_LINK
        with subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2]) as process:
            while not any(
                netlink.read_link(told.body).master == bridge for told in rtnetlink.messages(ear.recv(1 << 16))
            ):
                pass
            process.kill()
    assert process.returncode == -signal.SIGKILL
    assert sum(link.master == bridge for link in netlink.links()) == PORTS
