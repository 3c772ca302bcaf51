"""What each step wants, told from contexts: pure, so no world is needed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.engine.model import Context, Origin, Row
from cocoon_net.errors import CloudQuota, Unsupported
from cocoon_net.records import AddressSet, File, IngressRule, Instance, Interface, Link, Pool, Record, Route, Ruleset
from cocoon_net.site import Site
from cocoon_net.spec import Spec, parse
from cocoon_net.steps import STEPS, cloud, node
from cocoon_net.store import open_memory
from cocoon_net.world import World

NET = IPv4Network("172.20.100.0/24")
INSTANCE = Instance(
    platform="volcengine",
    instance_id="i-1",
    instance_type="ecs.ebm",
    region="cn-hongkong",
    zone="cn-hongkong-a",
    vpc_id="vpc-1",
    vpc_cidr=IPv4Network("172.20.0.0/16"),
    primary_mac="00:16:3e:00:00:01",
    primary_address=IPv4Address("172.20.9.230"),
    primary_interface_id="eni-0",
    security_groups=("sg-b", "sg-a"),
    max_interfaces=8,
    max_addresses=21,
    primary_link="eth0",
)


def spec(**flags: Any) -> Spec:
    return parse(**{"platform": "volcengine", "node_name": "cocoon-pool", "subnet": str(NET), **flags})


def context(spec: Spec, *records: tuple[str, str, Record], instance: Instance | None = INSTANCE) -> Context:
    ledger = {(step, key): Row(step, key, Origin.CREATED, record) for step, key, record in records}
    return Context(spec, instance, ledger, "line", datetime(2026, 1, 1, tzinfo=UTC))


def interface(number: int) -> tuple[str, str, Interface]:
    primary = NET[10 * number]
    return "enis", f"eni-{number}", Interface(NET, ("sg-a",), id=f"eni-id{number}", primary_address=primary)


@pytest.mark.parametrize(
    ("pool", "most", "each", "shares"),
    [
        (140, 8, 21, (20,) * 7),
        (1, 8, 21, (1,)),
        (20, 8, 21, (20,)),
        (21, 8, 21, (11, 10)),
        (50, 8, 21, (17, 17, 16)),
        (140, 5, 50, (47, 47, 46)),
    ],
)
def test_the_pool_is_spread_evenly_over_as_few_interfaces_as_the_limits_allow(
    pool: int, most: int, each: int, shares: tuple[int, ...]
) -> None:
    instance = replace(INSTANCE, max_interfaces=most, max_addresses=each)
    assert cloud.size(spec(pool_size=pool), instance).shares == shares


@pytest.mark.parametrize(
    ("pool", "change", "says"),
    [
        (141, {}, "leaves room for 140"),
        (140, {"used_interfaces": 2}, "leaves room for 120"),
        (10, {"max_interfaces": 1}, "leaves room for 0"),
        (252, {"max_addresses": 100}, "3 interfaces take an address each"),
    ],
)
def test_a_pool_that_does_not_fit_is_refused_with_the_limit(pool: int, change: dict[str, int], says: str) -> None:
    with pytest.raises(CloudQuota, match=says) as raised:
        cloud.size(spec(pool_size=pool), replace(INSTANCE, **change))
    assert raised.value.exit_code == 73


def test_a_gateway_that_the_vpc_does_not_reserve_costs_one_address_more() -> None:
    assert sum(cloud.size(spec(pool_size=20, gateway="172.20.100.254"), INSTANCE).shares) == 21


def test_interfaces_that_are_there_are_wanted_first() -> None:
    cx = context(spec(pool_size=60))
    seen = {"eni-2": Interface(NET, ("sg-x",)), "eni-5": Interface(NET, ("sg-x",))}
    wanted = cloud.enis(cx, seen)
    assert list(wanted) == ["eni-1", "eni-2", "eni-5"]
    assert all(record == Interface(NET, ("sg-a", "sg-b")) for record in wanted.values())


def test_the_security_group_is_the_primary_interfaces_or_the_operators() -> None:
    vpc = INSTANCE.vpc_cidr
    assert cloud.ingress(context(spec()), {}) == {f"sg-b/{vpc}": IngressRule("sg-b", vpc)}
    assert list(cloud.ingress(context(spec(security_group="sg-own")), {})) == [f"sg-own/{vpc}"]


def test_addresses_are_never_taken_back() -> None:
    cx = context(spec(pool_size=10), interface(1), interface(2))
    seen = {"eni-1": AddressSet(3), "eni-2": AddressSet(12)}
    assert cloud.addresses(cx, seen) == {"eni-1": AddressSet(10), "eni-2": AddressSet(12)}


def test_a_plan_of_an_empty_node_knows_all_that_will_be() -> None:
    cx = context(spec())
    assert len(cloud.attach(cx, {})) == 7
    assert sum(record.count for record in cloud.addresses(cx, {}).values() if isinstance(record, AddressSet)) == 140


def test_the_mtu_is_one_decision() -> None:
    links = [("links", f"eni-{n}", Link(True, name=f"eth{n}", mtu=size)) for n, size in ((1, 1500), (2, 1400))]
    cx = context(spec(), *links)
    bridge = node.bridge(cx, {})["cni0"]
    assert getattr(bridge, "mtu", None) == 1400
    (conflist,) = node.cni(cx, {}).values()
    assert isinstance(conflist, File)
    assert '"mtu": 1400' in conflist.content


def test_the_pool_holds_every_secondary_address_but_the_gateway_and_the_primaries() -> None:
    addresses = (NET[4], NET[10], NET[254], IPv4Address("172.20.9.9"), NET[3])
    cx = context(spec(gateway="172.20.100.254"), interface(1), ("addresses", "eni-1", AddressSet(5, addresses)))
    pool = node.dhcp(cx, {})["pool"]
    assert isinstance(pool, Pool)
    assert pool.addresses == (NET[3], NET[4])


def test_a_node_without_any_address_is_not_made_to_serve_none() -> None:
    with pytest.raises(Unsupported, match="no address to lease"):
        node.dhcp(context(spec()), {})


def test_the_projection_is_not_rewritten_for_its_time_alone() -> None:
    cx = context(spec(), interface(1), ("addresses", "eni-1", AddressSet(1, (NET[4],))))
    first = node.dhcp(cx, {})["pool.json"]
    later = replace(cx, now=datetime(2027, 1, 1, tzinfo=UTC))
    assert node.dhcp(later, {"pool.json": first})["pool.json"] == first
    assert node.dhcp(later, {})["pool.json"] != first


def test_rules_are_wanted_only_where_we_manage_them() -> None:
    link = ("links", "eni-1", Link(True, name="eth1"))
    assert node.firewall(context(spec(manage_iptables=False), link), {}) == {}
    ruleset = node.firewall(context(spec(drop_cidrs=["10.0.0.0/8"], drop_internal_access=True), link), {})["iptables"]
    assert isinstance(ruleset, Ruleset)
    assert ruleset.filter_rules[:2] == (
        "-d 172.20.100.0/24 -i cni0 -m comment --comment cocoon-net-drop -j DROP",
        "-d 10.0.0.0/8 -i cni0 -m comment --comment cocoon-net-drop -j DROP",
    )
    assert "-i eth1 -o cni0 -j ACCEPT" in ruleset.filter_rules
    assert "-i cni0 -o eth1 -j ACCEPT" in ruleset.filter_rules
    assert "-i cni0 -o eth0 -j ACCEPT" in ruleset.filter_rules
    assert ruleset.nat_rules == ("-s 172.20.100.0/24 ! -o cni0 -j MASQUERADE",)


def test_kernel_settings_cover_every_link_that_vm_traffic_crosses() -> None:
    cx = context(spec(), ("links", "eni-1", Link(True, name="eth1.5")))
    assert sorted(node.sysctl(cx, {})) == [
        "net.ipv4.conf.all.rp_filter",
        "net.ipv4.conf.cni0.rp_filter",
        "net.ipv4.conf.eth0.rp_filter",
        "net.ipv4.conf.eth1/5.rp_filter",
        "net.ipv4.ip_forward",
    ]


def test_strays_of_ours_on_other_links_are_not_wanted() -> None:
    seen: dict[str, Record] = {"a/32": Route(NET[4], "cni0"), "b/32": Route(NET[5], "eth1")}
    assert list(node.routes(context(spec()), seen)) == ["a/32"]


def test_every_step_has_an_inventory_of_its_name(tmp_path: Path) -> None:
    world = World(Site(state_dir=tmp_path), spec(), open_memory())
    assert set(world.inventories) == set(STEPS)
