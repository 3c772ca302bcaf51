"""Host routes as the engine sees them: ours by their protocol number, on whatever link."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import pytest

from cocoon_net.engine.model import Change, Verb
from cocoon_net.errors import NodeError, NodeTransient
from cocoon_net.node.routes import Routes
from cocoon_net.records import BRIDGE, Route

pytestmark = pytest.mark.root

ONE = Route(IPv4Address("172.20.100.7"), BRIDGE)
KEY = "172.20.100.7/32"


def test_a_route_to_a_missing_link_is_waited_for_and_its_removal_is_done(namespace: Any, context: Any) -> None:
    assert Routes().observe(context()) == {}
    with pytest.raises(NodeTransient, match=r"cannot route 172\.20\.100\.7 to cni0: there is no such link"):
        Routes().apply(Change("routes", KEY, Verb.CREATE, ONE, None), "t", context())
    assert Routes().apply(Change("routes", KEY, Verb.DELETE, None, ONE), "t", context()) == {}


def test_a_link_that_is_down_is_named(namespace: Any, context: Any) -> None:
    namespace.ip("link add cni0 type bridge")
    with pytest.raises(NodeError, match=r"cannot route 172\.20\.100\.7 to cni0: Network is down \(ENETDOWN\)"):
        Routes().apply(Change("routes", KEY, Verb.CREATE, ONE, None), "t", context())


def test_routes_are_made_moved_and_removed_and_foreign_ones_stay(
    namespace: Any, context: Any, converge: Callable[..., list[Change]]
) -> None:
    namespace.ip("link add cni0 type bridge")
    namespace.ip("link set cni0 up")
    namespace.interface("eth1", "00:16:3e:00:00:01")
    namespace.ip("link set eth1 up")
    namespace.ip("route add 172.20.100.8/32 dev cni0 proto static")
    namespace.ip("route add 172.20.100.7/32 dev eth1 proto 174")
    seen = Routes().observe(context())
    assert seen == {KEY: Route(ONE.destination, "eth1")}
    other = Route(IPv4Address("172.20.100.10"), BRIDGE)
    made = converge(Routes(), context(), "routes", {KEY: ONE, "172.20.100.10/32": other}, prune=True)
    assert [(change.verb, change.key) for change in made] == [
        (Verb.UPDATE, KEY),
        (Verb.CREATE, "172.20.100.10/32"),
    ]
    observed = Routes().observe(context())[KEY]
    assert isinstance(observed, Route) and observed == ONE and observed.ours is True
    converge(Routes(), context(), "routes", {}, prune=True)
    assert namespace.ip("route show dev cni0").strip() == "172.20.100.8 proto static scope link"
