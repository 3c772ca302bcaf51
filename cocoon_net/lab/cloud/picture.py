"""From the world to the ``View`` that the fabric shows."""

from __future__ import annotations

from datetime import datetime, timedelta
from ipaddress import IPv4Network

from cocoon_net.lab import view
from cocoon_net.lab.cloud.records import Group, Interface
from cocoon_net.lab.cloud.world import World


def paint(world: World, now: datetime) -> view.View:
    """Return the view at ``now``; a link is visible while InUse and after the link delay."""
    first, *_ = world.vpcs.all()
    subnets = {row.id: row.cidr for row in world.subnets.all()}
    return view.View(
        vpc_cidr=first.cidr,
        subnets=tuple(sorted(subnets.values())),
        hosts=tuple(view.Host(row.node, row.id) for row in world.instances.all()),
        ports=tuple(
            port
            for row in sorted(world.interfaces.all(), key=lambda row: (row.instance_id or "", row.index or 0))
            if _appears(world, row) <= now and (port := _port(row, subnets[row.subnet_id])) is not None
        ),
        groups=tuple(_group(row) for row in world.groups.all()),
    )


def next_link(world: World, now: datetime) -> datetime | None:
    """Return when the next link that is not visible yet appears, or None."""
    moments = [_appears(world, row) for row in world.interfaces.all() if row.status == "InUse"]
    return min((moment for moment in moments if moment > now), default=None)


def _appears(world: World, row: Interface) -> datetime:
    since = row.in_use_since or row.created
    # The primary's link is there since the instance was started.
    return since if row.kind == "primary" else since + timedelta(seconds=world.faults.link_delay)


def _port(row: Interface, subnet: IPv4Network) -> view.Port | None:
    if row.status != "InUse" or row.instance_id is None or row.index is None:
        return None
    return view.Port(
        interface_id=row.id,
        instance_id=row.instance_id,
        index=row.index,
        mac=row.mac,
        primary_address=row.primary,
        addresses=tuple(sorted(row.addresses)),
        subnet=subnet,
        security_groups=row.groups,
    )


def _group(row: Group) -> view.Group:
    rules = [
        view.Rule(
            protocol=rule.protocol,
            port_start=rule.port_start,
            port_end=rule.port_end,
            cidr=rule.cidr,
            source_group=rule.source_group,
            policy=rule.policy,
            priority=rule.priority,
        )
        for rule in row.rules
        if rule.direction == "ingress"
    ]
    return view.Group(row.id, tuple(sorted(rules, key=lambda rule: rule.priority)))
