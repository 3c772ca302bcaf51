"""The world as the guide finds it: a VPC, a host subnet, a few bare-metal instances, and things of other people."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from itertools import islice

from cocoon_net.lab.cloud.records import (
    AccessKey,
    Group,
    Instance,
    InstanceType,
    Interface,
    Rule,
    Subnet,
    Tags,
    Vpc,
)
from cocoon_net.lab.cloud.world import World, new_id

_VPC = IPv4Network("172.20.0.0/16")
_HOSTS = IPv4Network("172.20.0.0/20")
_FIRST_NODE = IPv4Address("172.20.9.230")
_HOST = IPv4Address("172.20.9.240")

ROLE = "cocoon-net"
"""The role of every instance, whose credentials the metadata service hands out."""


@dataclass(frozen=True, slots=True)
class Seed:
    """What a new lab starts with. Nodes are ``node1`` .. ``nodeN`` and ``host``, another machine of the VPC."""

    nodes: int = 2
    region: str = "cn-hongkong"
    vpc: IPv4Network = _VPC
    host_subnet: IPv4Network = _HOSTS
    first_node: IPv4Address = _FIRST_NODE
    host: IPv4Address = _HOST
    instance_type: str = "ecs.ebmg3.lab"
    interfaces_per_instance: int = 8
    """The primary included."""
    addresses_per_interface: int = 21
    """The primary included: 20 secondary addresses."""
    other_subnets: int = 0
    """Subnets of other people (/28, from 172.20.128.0 on), for pages."""
    other_interfaces: int = 0
    """Interfaces of other people, not attached, in the host subnet, for pages."""

    @property
    def zone(self) -> str:
        """Return the zone of the host subnet."""
        return f"{self.region}-a"


def build(seed: Seed, now: datetime) -> World:
    """Return a new world with one pair of keys made at random."""
    world = World(seed.region)
    vpc = world.vpcs.put(Vpc(id=new_id("vpc"), cidr=seed.vpc, name="lab", created=now, updated=now))
    # The default group lists first, as in a real account; whoever takes "the first group" takes the wrong one.
    default = Group(new_id("sg-0"), vpc.id, "Default", now, now, kind="DefaultSG")
    own = Group(new_id("sg-1"), vpc.id, "lab-nodes", now, now)
    world.groups.put(_with_rules(default, [_rule(now, source=default.id), _egress(now)]))
    world.groups.put(_with_rules(own, [_rule(now, "tcp", 22, IPv4Network("0.0.0.0/0")), _egress(now)]))
    world.types.put(InstanceType(seed.instance_type, seed.interfaces_per_instance, seed.addresses_per_interface))
    subnet = Subnet(new_id("subnet"), vpc.id, seed.zone, seed.host_subnet, "lab-hosts", now, now)
    world.subnets.put(subnet)
    addresses = (each for n in range(seed.nodes + 1) if (each := seed.first_node + n) != seed.host)
    machines = {f"node{n + 1}": address for n, address in zip(range(seed.nodes), addresses, strict=False)}
    machines["host"] = seed.host
    for node, primary in machines.items():
        instance = Instance(new_id("i"), node, vpc.id, seed.zone, seed.instance_type, now, role=ROLE)
        world.instances.put(instance)
        interface = Interface(
            id=new_id("eni"),
            vpc_id=vpc.id,
            subnet_id=subnet.id,
            zone=seed.zone,
            name=f"{node}-primary",
            mac=world.new_mac(),
            primary=primary,
            groups=(own.id,),
            created=now,
            updated=now,
            kind="primary",
            status="InUse",
            instance_id=instance.id,
            index=0,
            in_use_since=now,
            delete_on_termination=True,
        )
        world.interfaces.put(interface)
    _add_others(world, seed, subnet, own, now)
    world.keys.put(AccessKey("AKLT" + secrets.token_hex(16), secrets.token_urlsafe(32)))
    return world


def plant_interface(
    world: World,
    subnet: Subnet,
    now: datetime,
    *,
    name: str = "",
    tags: Tags = (),
    groups: tuple[str, ...] = (),
    secondaries: int = 0,
    instance: Instance | None = None,
    service_managed: bool = False,
    status: str = "",
) -> Interface:
    """Put an interface of somebody else into the world, past all quotas, attached or not."""
    used = world.used(subnet)
    primary, *others = islice((each for each in subnet.cidr.hosts() if each not in used), 1 + secondaries)
    key = new_id("eni")
    taken = {row.index for row in world.interfaces_of(instance.id)} if instance is not None else set()
    return world.interfaces.put(
        Interface(
            id=key,
            vpc_id=subnet.vpc_id,
            subnet_id=subnet.id,
            zone=subnet.zone,
            name=name or key,
            mac=world.new_mac(),
            primary=primary,
            secondaries=tuple(others),
            groups=groups or tuple(row.id for row in world.groups.all() if row.kind == "DefaultSG"),
            created=now,
            updated=now,
            status=status or ("InUse" if instance is not None else "Available"),
            instance_id=None if instance is None else instance.id,
            index=None if instance is None else next(n for n in range(len(taken) + 1) if n not in taken),
            in_use_since=None if instance is None else now,
            service_managed=service_managed,
            tags=tags,
        )
    )


def plant_subnet(world: World, vpc: Vpc, cidr: IPv4Network, zone: str, now: datetime, tags: Tags = ()) -> Subnet:
    """Put a subnet of somebody else into the world."""
    key = new_id("subnet")
    return world.subnets.put(Subnet(key, vpc.id, zone, cidr, "other", now, now, tags=tags))


def _add_others(world: World, seed: Seed, subnet: Subnet, group: Group, now: datetime) -> None:
    theirs: Tags = (("owner", "somebody-else"),)
    blocks = IPv4Network((seed.vpc.network_address + seed.vpc.num_addresses // 2, seed.vpc.prefixlen + 1))
    vpc = world.vpcs.rows[subnet.vpc_id]
    for _, cidr in zip(range(seed.other_subnets), blocks.subnets(new_prefix=28), strict=False):
        plant_subnet(world, vpc, cidr, seed.zone, now, theirs)
    for _ in range(seed.other_interfaces):
        plant_interface(world, subnet, now, tags=theirs, groups=(group.id,))


def _with_rules(group: Group, rules: list[Rule]) -> Group:
    return Group(group.id, group.vpc_id, group.name, group.created, group.updated, kind=group.kind, rules=tuple(rules))


def _rule(
    now: datetime, protocol: str = "all", port: int = -1, cidr: IPv4Network | None = None, source: str | None = None
) -> Rule:
    return Rule(new_id("sgr"), "ingress", protocol, port, port, cidr, source, "accept", 1, "", now)


def _egress(now: datetime) -> Rule:
    return Rule(new_id("sgr"), "egress", "all", -1, -1, IPv4Network("0.0.0.0/0"), None, "accept", 1, "", now)
