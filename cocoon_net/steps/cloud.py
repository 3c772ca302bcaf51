"""What the cloud's side should be: the subnet, the interfaces and their addresses, and the rule that lets them in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cocoon_net.engine.model import Context, Wanted
from cocoon_net.engine.plan import natural
from cocoon_net.errors import CloudQuota, InvariantError
from cocoon_net.records import AddressSet, Attachment, IngressRule, Instance, Interface, Record, Subnet
from cocoon_net.spec import Spec


@dataclass(frozen=True, slots=True)
class Size:
    """How many interfaces carry how many secondary addresses each; ``shares[i]`` belongs to ``eni-<i+1>``."""

    shares: tuple[int, ...]


def size(spec: Spec, instance: Instance) -> Size:
    """Spread ``spec.pool_size`` over as few interfaces as the instance type's limits allow, evenly.

    Raises CloudQuota naming the limit when the pool does not fit. One address more is asked for where the gateway is
    not the one that the VPC reserves, since the cloud may hand it out and it never enters the pool.
    """
    each = instance.max_addresses - 1
    most = instance.max_interfaces - max(1, instance.used_interfaces)
    needed = spec.pool_size + (0 if spec.gateway == spec.subnet[1] else 1)
    if needed > max(0, most) * max(0, each):
        raise CloudQuota(
            f"a pool of {spec.pool_size} does not fit: {instance.instance_type or 'this instance'} takes "
            f"{instance.max_interfaces} interfaces of {instance.max_addresses} addresses; {instance.used_interfaces} "
            f"are in use, which leaves room for {max(0, most) * max(0, each)}",
            hint=f"ask for --pool-size {max(0, most) * max(0, each)} or less",
            code="PoolTooLarge",
        )
    count = -(-needed // each)
    room = spec.subnet.num_addresses - 3 - count
    if needed > room:
        raise CloudQuota(
            f"a pool of {spec.pool_size} does not fit into {spec.subnet}: {count} interfaces take an address each, "
            f"which leaves {room}",
            hint="give a larger --subnet or a smaller --pool-size",
            code="PoolTooLarge",
        )
    low, extra = divmod(needed, count)
    return Size(tuple(low + (number < extra) for number in range(count)))


def instance_of(cx: Context) -> Instance:
    """Return the instance's facts; InvariantError where a cloud step runs without them."""
    if cx.instance is None:
        raise InvariantError("a step of the cloud was run without the instance's facts")
    return cx.instance


def groups(cx: Context) -> tuple[str, ...]:
    """Return the security groups of our interfaces: the operator's, else those of the primary interface."""
    return (cx.spec.security_group,) if cx.spec.security_group else instance_of(cx).security_groups


def subnet(cx: Context, seen: Mapping[str, Record]) -> Wanted:
    """Want the node's own subnet, in the instance's zone."""
    return {"subnet": Subnet(cx.spec.subnet, instance_of(cx).zone)}


def enis(cx: Context, seen: Mapping[str, Record]) -> Wanted:
    """Want as many interfaces as the pool needs, those that are there first."""
    wanted = Interface(cx.spec.subnet, tuple(sorted(groups(cx))))
    return dict.fromkeys(_keys(cx, seen), wanted)


def ingress(cx: Context, seen: Mapping[str, Record]) -> Wanted:
    """Want the VPC's hosts let in: without the rule, packets from other hosts are dropped without a word."""
    group = groups(cx)[0]
    cidr = instance_of(cx).vpc_cidr
    return {f"{group}/{cidr}": IngressRule(group, cidr)}


def attach(cx: Context, seen: Mapping[str, Record]) -> Wanted:
    """Want every interface attached to this instance."""
    return dict.fromkeys(_interfaces(cx), Attachment(instance_of(cx).instance_id))


def addresses(cx: Context, seen: Mapping[str, Record]) -> Wanted:
    """Want each interface's share of the pool; an interface that has more already keeps it."""
    keys = _interfaces(cx)
    shares = size(cx.spec, instance_of(cx)).shares
    wanted: dict[str, Record] = {}
    for number, key in enumerate(keys):
        share = shares[number] if number < len(shares) else 0
        now = seen.get(key)
        has = now.count if isinstance(now, AddressSet) else 0
        if max(share, has):
            wanted[key] = AddressSet(max(share, has))
    return wanted


def without_ours(record: Record) -> Record | None:
    """Return an interface's addresses as a teardown leaves them: those that we did not add; None if there are none."""
    if not isinstance(record, AddressSet):
        return record
    others = tuple(address for address in record.addresses if address not in record.added)
    return replace(record, count=len(others), addresses=others, added=()) if others else None


def _interfaces(cx: Context) -> list[str]:
    """Return the keys of the interfaces in the ledger; before there are any (a plan), those that would be."""
    known = sorted(cx.records("enis"), key=natural)
    return known or _keys(cx, {})


def _keys(cx: Context, seen: Mapping[str, Record]) -> list[str]:
    keys = set(seen)
    number = 1
    while len(keys) < len(size(cx.spec, instance_of(cx)).shares):
        keys.add(f"eni-{number}")
        number += 1
    return sorted(keys, key=natural)
