"""What a plan foretells of the kernel, typed by hand, leads where ``apply`` leads."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest

from cocoon_net.engine.model import Context, Inventory
from cocoon_net.engine.plan import diff
from cocoon_net.node.bridge import Bridges
from cocoon_net.node.links import Links
from cocoon_net.node.routes import Routes
from cocoon_net.node.sysctl import Sysctls
from cocoon_net.records import BRIDGE, Bridge, Interface, Link, Record, Route, Sysctl
from cocoon_net.steps.node import settings

pytestmark = pytest.mark.root

BRIDGED = Bridge(BRIDGE, IPv4Interface("172.20.100.1/24"), "02:11:22:33:44:55", 1400)
MAC = "00:16:3e:00:00:01"
RP_FILTER = "net.ipv4.conf.cni0.rp_filter"


def by_hand(namespace: Any, inventory: Inventory, wanted: Mapping[str, Record], cx: Context) -> list[str]:
    """Type what is foretold of one step, and return it."""
    step = type(inventory).__name__.lower()
    calls = [
        call
        for change in diff(step, wanted, inventory.observe(cx), prune=True).changes
        for call in inventory.calls(change, cx)
    ]
    for call in calls:
        namespace.run(*shlex.split(str(call)))
    assert diff(step, wanted, inventory.observe(cx), prune=True).settled
    return [str(call) for call in calls]


def shape(namespace: Any) -> Any:
    """Return all that ``ip`` tells of the bridge but its number and its age."""
    (link,) = json.loads(namespace.ip("-j -d addr show cni0"))
    return {key: value for key, value in link.items() if key != "ifindex" and "timer" not in str(key)} | {
        "linkinfo": {k: v for k, v in link["linkinfo"]["info_data"].items() if "timer" not in k}
    }


def test_a_bridge_made_by_hand_is_the_one_that_apply_makes(
    namespace: Any, context: Callable[..., Context], converge: Any
) -> None:
    cx = context()
    typed = by_hand(namespace, Bridges(), {BRIDGE: BRIDGED}, cx)
    assert len(typed) == 4
    one = shape(namespace)
    assert by_hand(namespace, Bridges(), {}, cx) == [f"ip link del {BRIDGE}"]
    converge(Bridges(), cx, "bridge", {BRIDGE: BRIDGED})
    assert shape(namespace) == one


def test_a_bridge_that_differs_is_put_right_by_hand(namespace: Any, context: Callable[..., Context]) -> None:
    cx = context()
    namespace.ip("link add cni0 address 02:00:00:00:00:09 type bridge")
    namespace.run("ip", "link", "set", "cni0", "alias", "cocoon-net cocoon-pool")
    namespace.ip("addr add 172.20.100.9/24 dev cni0")
    typed = by_hand(namespace, Bridges(), {BRIDGE: BRIDGED}, cx)
    assert [line.rsplit(maxsplit=1)[0] for line in typed] == [
        "ip link set cni0 address 02:11:22:33:44:55 mtu",
        "ip addr add 172.20.100.1/24 dev",
        "sysctl -w",
        "ip addr del 172.20.100.9/24 dev",
        "ip link set cni0",
    ]


def test_links_routes_and_settings_by_hand(
    namespace: Any, context: Callable[..., Context], interface: Callable[[str], Interface]
) -> None:
    namespace.interface("eth1", MAC)
    cx = context(enis={"eni-1": interface(MAC)})
    assert by_hand(namespace, Links(), {"eni-1": Link(up=True)}, cx) == ["ip link set eth1 up"]
    by_hand(namespace, Bridges(), {BRIDGE: BRIDGED}, cx)
    wanted = {name: replace(r, value="1") for name, r in Sysctls(settings).observe(cx).items() if isinstance(r, Sysctl)}
    wanted[RP_FILTER] = Sysctl(RP_FILTER, "2")
    assert f"sysctl -w {RP_FILTER}=2" in by_hand(namespace, Sysctls(settings), wanted, cx)
    route = Route(IPv4Address("172.20.100.17"), BRIDGE)
    by_hand(namespace, Routes(), {"172.20.100.17/32": route}, cx)
    assert by_hand(namespace, Routes(), {}, cx) == ["ip route del 172.20.100.17/32 dev cni0 proto 174"]


def test_the_name_of_a_link_that_has_not_appeared_is_left_open(context: Callable[..., Context]) -> None:
    (change,) = diff("links", {"eni-1": Link(up=True)}, {}, prune=False).changes
    assert [str(call) for call in Links().calls(change, context())] == ["ip link set (link of eni-1) up"]
