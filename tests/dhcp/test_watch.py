"""What the server knows of the bridge and its ports, from a real kernel's listing and its notices."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from cocoon_net.dhcp.watch import Watch
from tests.dhcp.conftest import Node

pytestmark = pytest.mark.root


def watching(node: Node, act: Callable[[Watch], Any]) -> Any:
    """Run ``act`` with a Watch of cni0, in a thread of the node's namespace."""

    def inside() -> Any:
        watch = Watch("cni0")
        try:
            return act(watch)
        finally:
            watch.close()

    return node.of_guest(node.name, inside)


def plug(node: Node, *taps: str) -> None:
    for tap in taps:
        node.ip("link", "add", tap, "type", "veth", "peer", "name", f"{tap}-guest")
        node.ip("link", "set", tap, "master", "cni0", "up")


def test_ports_come_and_go_and_the_bridge_is_not_disturbed(node: Node) -> None:
    plug(node, "tap0")

    def act(watch: Watch) -> None:
        before = watch.disturbances
        assert set(watch.ports) == {"tap0"} and watch.bridge is not None
        assert (watch.bridge.mac.hex(":"), watch.bridge.up) == ("02:00:5e:00:00:01", True)
        plug(node, "tap1")
        node.ip("link", "del", "tap0")
        node.ip("link", "set", "cni0", "alias", "of no interest")
        watch.drain()
        assert set(watch.ports) == {"tap1"} and watch.names == {watch.ports["tap1"]: "tap1"}
        assert watch.disturbances == before

    watching(node, act)


@pytest.mark.parametrize("change", ["down", "address 02:00:5e:00:00:02", "made anew"])
def test_a_bridge_whose_routes_or_frames_differ_is_disturbed(node: Node, change: str) -> None:
    def act(watch: Watch) -> None:
        before, index = watch.disturbances, watch.index
        if change == "made anew":
            node.ip("link", "del", "cni0")
            node.make_bridge()
        else:
            node.ip("link", "set", "cni0", *change.split())
        watch.drain()
        assert watch.disturbances > before
        assert (watch.index != index) == (change == "made anew")

    watching(node, act)


def test_after_notices_were_lost_the_links_are_those_that_are_there(node: Node) -> None:
    plug(node, "tap0", "tap1")

    def act(watch: Watch) -> None:
        before = watch.disturbances
        watch.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        node.ip("link", "set", "tap0", "alias", "its last notice that is not lost")
        for number in range(20):
            node.ip("link", "set", "tap1", "alias", str(number))
        node.ip("link", "del", "tap0")
        plug(node, "tap2")
        watch.drain()
        assert set(watch.ports) == {"tap1", "tap2"} and watch.disturbances == before + 1
        node.ip("link", "del", "tap1")
        watch.drain()
        assert set(watch.ports) == {"tap2"}, "and it goes on to hear"

    watching(node, act)
