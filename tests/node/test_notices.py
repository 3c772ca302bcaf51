"""The kernel tells what somebody changed; what we do all the time ourselves wakes nobody."""

from __future__ import annotations

import json
import select
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from cocoon_net.node import notices, routewire
from cocoon_net.node.notices import Notices, Stir, Topic
from cocoon_net.node.routewire import RouteWire

pytestmark = pytest.mark.root

SUBNET = IPv4Network("172.20.0.0/16")
ADDRESS = int(IPv4Address("172.20.1.7"))


@pytest.fixture
def heard(namespace: Any) -> Iterator[Notices]:
    """A node with a bridge and an interface, and an open ear."""
    namespace.ip("link add cni0 type bridge")
    namespace.ip("addr add 172.20.0.1/16 dev cni0")
    namespace.ip("link set cni0 up")
    namespace.interface("eth1", "02:00:5e:00:00:01")
    namespace.ip("link set eth1 up")
    ear = Notices(lambda: ("cni0", "eth1"), SUBNET)
    listen(ear)
    yield ear
    ear.close()


def listen(ear: Notices) -> Stir:
    """All that comes until nothing comes any more."""
    stir = Stir()
    while more := ear.wait(0.3):
        stir |= more
    return stir


def test_who_waits_can_be_woken(heard: Notices) -> None:
    threading.Timer(0.1, heard.wake).start()
    began = time.monotonic()
    assert not heard.wait(30.0) and time.monotonic() - began < 10.0


def test_leases_come_and_go_and_nobody_is_woken(namespace: Any, heard: Notices) -> None:
    index = json.loads(namespace.ip("-j link show cni0"))[0]["ifindex"]
    with RouteWire(index) as wire:
        assert wire.change(range(ADDRESS, ADDRESS + 2048), ()) == {}
        assert not select.select(heard.sockets, [], [], 0.3)[0], "not even the thread that would look away"
        assert wire.change((), range(ADDRESS, ADDRESS + 2048)) == {}
        assert not heard.wait(0.3)


def test_a_route_of_ours_that_somebody_removes_or_replaces_is_named(namespace: Any, heard: Notices) -> None:
    namespace.ip("route add 172.20.1.7/32 dev cni0 proto 174")
    assert not heard.wait(0.3), "an audit sees whether it is a stray"
    namespace.ip("route replace 172.20.1.7/32 dev eth1")
    assert listen(heard) == Stir(frozenset((Topic.ROUTE,)), frozenset((ADDRESS,)))
    namespace.ip("route replace 172.20.1.7/32 dev cni0 proto 174")
    namespace.ip("route del 172.20.1.7/32")
    assert listen(heard) == Stir(frozenset((Topic.ROUTE,)), frozenset((ADDRESS,)))


def test_routes_of_others_are_none_of_our_business(namespace: Any, heard: Notices) -> None:
    for route in ("10.1.2.3/32 dev eth1", "172.20.128.0/17 dev eth1", "172.20.1.9/32 dev eth1 table 100"):
        namespace.ip(f"route add {route}")
        namespace.ip(f"route del {route}")
    assert not heard.wait(0.3)


def test_the_tap_of_a_guest_comes_and_goes_and_nobody_is_woken(namespace: Any, heard: Notices) -> None:
    namespace.ip("link add tap1 type veth peer name tap1-peer")
    namespace.ip("addr add 10.9.9.9/24 dev tap1")
    namespace.run("sysctl", "-qw", "net.ipv4.conf.tap1.rp_filter=1")
    namespace.ip("link set tap1 up")
    namespace.ip("link del tap1")
    assert not heard.wait(0.3)


def test_the_ports_of_a_bridge_that_goes_are_named(namespace: Any, heard: Notices) -> None:
    namespace.ip("link add tap1 type veth peer name tap1-peer")
    namespace.ip("link set tap1 master cni0 up")
    namespace.ip("link add br9 type bridge")
    namespace.ip("link set tap1-peer master br9")
    index, bridge = (json.loads(namespace.ip(f"-j link show {name}"))[0]["ifindex"] for name in ("tap1", "cni0"))
    listen(heard)
    namespace.ip("link del br9")
    assert not heard.wait(0.3), "another's bridge"
    namespace.ip("link del cni0")
    assert listen(heard).unplugged == {(index, bridge)}


def test_a_bridge_that_comes_and_goes_within_one_reading_is_known(namespace: Any, heard: Notices) -> None:
    namespace.ip("link add tap1 type veth peer name tap1-peer")
    namespace.ip("link del cni0")
    listen(heard)
    namespace.ip("link add cni0 type bridge")
    namespace.ip("link set tap1 master cni0")
    index, bridge = (json.loads(namespace.ip(f"-j link show {name}"))[0]["ifindex"] for name in ("tap1", "cni0"))
    namespace.ip("link del cni0")
    assert listen(heard).unplugged == {(index, bridge)}


@pytest.mark.parametrize(
    ("change", "topic"),
    [
        ("ip link set eth1 down", Topic.LINK),
        ("ip link set eth1 mtu 1400", Topic.LINK),
        ("ip link set cni0 address 02:00:5e:00:00:02", Topic.LINK),
        ("ip link del cni0", Topic.LINK),
        ("ip addr del 172.20.0.1/16 dev cni0", Topic.ADDRESS),
        ("sysctl -qw net.ipv4.conf.eth1.rp_filter=1", Topic.SETTING),
        ("sysctl -qw net.ipv4.conf.all.rp_filter=2", Topic.SETTING),
        ("sysctl -qw net.ipv4.conf.eth1.forwarding=1", Topic.SETTING),
        ("iptables -N SOMEBODY", Topic.RULES),
    ],
)
def test_what_matters_is_told(namespace: Any, heard: Notices, change: str, topic: Topic) -> None:
    namespace.run(*change.split())
    assert topic in listen(heard).topics


def test_a_bridge_that_is_made_anew_is_known_by_its_name(namespace: Any, heard: Notices) -> None:
    namespace.ip("link del cni0")
    listen(heard)
    namespace.ip("link add cni0 type bridge")
    assert Topic.LINK in listen(heard).topics


def test_more_than_the_socket_holds_is_told_as_such(
    namespace: Any, heard: Notices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "_BUFFER", 1 << 16)
    small = Notices(lambda: ("cni0",), SUBNET)
    index = json.loads(namespace.ip("-j link show cni0"))[0]["ifindex"]
    with RouteWire(index) as wire:
        port = wire._socket.getsockname()[0]
        routewire.PORTS.discard(port)  # as if somebody else
        crowd = range(ADDRESS, ADDRESS + 5000)
        wire.change(crowd, ())
        wire.change((), crowd)
        assert Topic.LOST in small.wait(1.0).topics
    small.close()
