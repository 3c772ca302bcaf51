"""Which link is an interface's: found by MAC, never by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cocoon_net.engine.model import Change, Verb
from cocoon_net.errors import NodeTransient, Unsupported
from cocoon_net.node.links import Links, choose, link_of
from cocoon_net.node.netlink import KernelLink
from cocoon_net.records import Link

MAC = "00:16:3e:00:00:01"
OTHER = "00:16:3e:00:00:02"


def test_what_wears_the_mac_of_hardware_is_not_hardware() -> None:
    hardware = KernelLink(3, "ens6", MAC, 1500, up=False, has_device=True)
    on_top = [KernelLink(9, f"x-{kind}", MAC, 1500, up=True, kind=kind) for kind in ("vlan", "macvlan", "bond", "tun")]
    assert choose([*on_top, hardware], MAC) is hardware
    assert choose(on_top, MAC) is None


def test_a_bond_changes_the_mac_of_its_ports_but_not_the_one_burnt_in() -> None:
    first = KernelLink(3, "ens6", MAC, 1500, up=True, permanent_mac=MAC, port_of="bond", has_device=True)
    second = KernelLink(2, "ens5", MAC, 1500, up=True, permanent_mac=OTHER, port_of="bond", has_device=True)
    assert choose([second, first], MAC) is first
    assert choose([second, first], OTHER) is second


def test_a_guest_s_port_of_the_bridge_is_never_an_interface() -> None:
    assert choose([KernelLink(7, "veth7", MAC, 1500, up=True, kind="veth", port_of="bridge")], MAC) is None


@pytest.mark.root
def test_an_interface_whose_link_has_not_appeared_is_absent_and_waited_for(
    namespace: Any, context: Any, interface: Any
) -> None:
    cx = context(enis={"eni-1": interface(MAC)})
    assert Links().observe(cx) == {}
    create = Change("links", "eni-1", Verb.CREATE, Link(up=True), None)
    with pytest.raises(NodeTransient, match=rf"the link of eni-1 \({MAC}\) has not appeared$"):
        Links().apply(create, "t", cx)
    namespace.ip(f"link add br7 address {MAC} type bridge")
    with pytest.raises(NodeTransient, match="has not appeared; br7 is a bridge"):
        Links().apply(create, "t", cx)
    namespace.interface("ens7", MAC)
    with pytest.raises(NodeTransient, match=r"ens7\) has only just appeared"):
        Links().apply(create, "t", cx)
    assert Links().observe(cx)["eni-1"] == Link(up=False), "how it was before us is still to be seen"


@pytest.mark.root
def test_a_link_is_not_waited_for_where_attaching_was_skipped(namespace: Any, context: Any, interface: Any) -> None:
    cx = replace(context(enis={"eni-1": interface(MAC)}), skipped=frozenset({"attach"}))
    create = Change("links", "eni-1", Verb.CREATE, Link(up=True), None)
    with pytest.raises(Unsupported, match="has not appeared, since attaching it has not come to rest"):
        Links().apply(create, "t", cx)
    with pytest.raises(NodeTransient):
        Links().apply(create, "t", replace(cx, skipped=frozenset({"addresses"})))


@pytest.mark.root
def test_an_interface_without_a_mac_in_the_ledger_cannot_be_found(namespace: Any, context: Any, interface: Any) -> None:
    cx = context(enis={"eni-1": interface("")})
    assert Links().observe(cx) == {}
    with pytest.raises(NodeTransient, match="the ledger knows no MAC of it yet"):
        Links().apply(Change("links", "eni-1", Verb.CREATE, Link(up=True), None), "t", cx)


@pytest.mark.root
def test_links_are_set_up_whatever_they_are_called_and_get_no_address(
    namespace: Any, context: Any, interface: Any, converge: Callable[..., list[Change]]
) -> None:
    namespace.interface("ens7", MAC, mtu=1400)
    namespace.interface("odd.name", OTHER)
    cx = context(enis={"eni-1": interface(MAC.upper()), "eni-2": interface(OTHER)})
    made = converge(Links(), cx, "links", dict.fromkeys(("eni-1", "eni-2"), Link(up=True)))
    assert [(change.verb, change.key) for change in made] == [(Verb.UPDATE, "eni-1"), (Verb.UPDATE, "eni-2")]
    seen = Links().observe(cx)
    first, second = seen["eni-1"], seen["eni-2"]
    assert isinstance(first, Link) and isinstance(second, Link)
    assert (first.name, first.mac, first.mtu, first.up, first.ours) == ("ens7", MAC, 1400, True, False)
    assert second.name == "odd.name"
    assert "inet " not in namespace.ip("addr show dev ens7")


@pytest.mark.root
def test_deleting_a_link_leaves_it_to_the_cloud(namespace: Any, context: Any, interface: Any) -> None:
    cx = context(enis={"eni-1": interface(MAC)})
    delete = Change("links", "eni-1", Verb.DELETE, None, Link(up=True))
    assert Links().apply(delete, "t", cx) == {}
    namespace.interface("ens7", MAC)
    namespace.ip("link set ens7 up")
    assert Links().apply(delete, "t", cx) == {"link": "ens7"}
    assert Links().observe(cx)["eni-1"] == Link(up=False)


@pytest.mark.root
def test_the_primary_link_is_found_by_its_mac(namespace: Any) -> None:
    assert link_of("") == ""
    assert link_of(MAC) == ""
    namespace.interface("enp1s0", MAC)
    assert link_of(MAC.upper()) == "enp1s0"
