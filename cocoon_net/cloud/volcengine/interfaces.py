"""The node's secondary interfaces (ENIs), attached or not. Keys: ``eni-1``, ``eni-2``, ...

Ours are those tagged with this node's name, wherever in the VPC they are. Those without any mark that are attached to
this instance in the node's subnet are found: the ledger decides what may be done with them. Nothing else is ever seen:
no primary interface, none that a service of the cloud manages, none that another node or program has marked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network
from typing import Any

from cocoon_net.cloud.volcengine import eni as enis
from cocoon_net.cloud.volcengine import subnet
from cocoon_net.cloud.volcengine.client import Client
from cocoon_net.cloud.volcengine.eni import Eni, instance_of, known_ids
from cocoon_net.cloud.volcengine.fence import Act, fence
from cocoon_net.cloud.volcengine.tags import filters, marks
from cocoon_net.engine.model import Busy, Call, Change, Context, Seen, Verb, Via
from cocoon_net.errors import CloudGone, CloudTransient, InvariantError, Unsupported
from cocoon_net.records import Interface, Subnet
from cocoon_net.spec import Spec

_KEY = re.compile(r"eni-[1-9][0-9]{0,3}")


class Interfaces:
    """Finds, makes and deletes the node's interfaces."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def observe(self, cx: Context) -> Seen:
        """Look: two listings, by tag and by instance; more only for ids of the ledger that neither shows."""
        instance, node, ledger = instance_of(cx), cx.spec.node_name, known_ids(cx)
        by_tag = enis.listing(self._client, VpcId=instance.vpc_id, TagFilters=filters(node))
        marked = {each.id: each for each in by_tag if each.ours(node)}
        by_instance = enis.listing(self._client, InstanceId=instance.instance_id)
        found = {each.id: each for each in by_instance if is_member(each, cx.spec)}
        lost = set(ledger.values()) - set(marked) - set(found)
        known = {key: each for key, each in enis.look_up(self._client, lost).items() if each.ours(node) is not False}
        members = {**known, **found, **marked}

        networks = self._networks(cx, members.values())
        kept = [
            each
            for each in members.values()
            if each.id in marked or each.id in ledger.values() or networks[each.subnet_id] == cx.spec.subnet
        ]
        return {key: _state(key, each, networks, cx) for key, each in named(kept, ledger).items()}

    def calls(self, change: Change, cx: Context) -> tuple[Call, ...]:
        """Create an interface, give it other security groups, or delete it, detached before where nobody else does."""
        match change.verb, change.want, change.seen:
            case Verb.CREATE, Interface() as want, _:
                params = {
                    "SubnetId": subnet.id_of(cx),
                    "SecurityGroupIds": list(want.security_groups),
                    "NetworkInterfaceName": f"{cx.spec.node_name}-{change.key}",
                    "Tags": marks(cx.spec.node_name, change.key, cx.lineage),
                }
                return (Call(Via.CLOUD, "CreateNetworkInterface", params),)
            case Verb.UPDATE, Interface() as want, Interface() as seen:
                _refuse_other(change.key, want, seen)
                # ModifyNetworkInterfaceAttributes replaces the whole list.
                params = {"NetworkInterfaceId": seen.id, "SecurityGroupIds": list(want.security_groups)}
                return (Call(Via.CLOUD, "ModifyNetworkInterfaceAttributes", params),)
            case Verb.DELETE, _, Interface() as seen:
                alone = bool(seen.instance_id) and change.key not in known_ids(cx)
                return (*((_detach(seen, cx),) if alone else ()), _delete(seen))
        raise InvariantError(f"the inventory of interfaces cannot {change.verb} {change.want or change.seen!r}")

    def apply(self, change: Change, token: str, cx: Context) -> Mapping[str, str]:
        """Create an interface, give it other security groups, or delete it."""
        match change.verb, change.seen:
            case Verb.CREATE, _:
                return self._create(*self.calls(change, cx), token=token)
            case Verb.UPDATE, Interface() as seen:
                (call,) = self.calls(change, cx)
                return self._change(call, change.key, seen, cx)
            case Verb.DELETE, Interface() as seen:
                return self._delete(change.key, seen, cx)
        raise InvariantError(f"the inventory of interfaces cannot {change.verb} {change.want or change.seen!r}")

    def _networks(self, cx: Context, members: Iterable[Eni]) -> dict[str, IPv4Network]:
        """Return the CIDR of each subnet that the members are in; asks only for those that the ledger does not know."""
        row = cx.records("subnet").get("subnet")
        known = {row.id: row.cidr} if isinstance(row, Subnet) and row.id else {}
        needed = {each.subnet_id for each in members}
        networks = {**known, **subnet.cidrs(self._client, needed - set(known))}
        if unknown := needed - set(networks):
            raise CloudTransient(f"the subnet {min(unknown)} of one of our interfaces is not to be seen")
        return networks

    def _create(self, call: Call, *, token: str) -> Mapping[str, str]:
        result = self._client.perform(call, token=token)
        made = result.get("NetworkInterfaceId")
        if not isinstance(made, str) or not made:
            raise CloudTransient("CreateNetworkInterface answered without the interface's id", code="Unreadable")
        return {"id": made, "request_id": _request(result)}

    def _change(self, call: Call, key: str, seen: Interface, cx: Context) -> Mapping[str, str]:
        """Read the interface, refuse what is not ours, then give it other groups."""
        there = enis.read(self._client, seen.id)
        if there is None:
            raise CloudTransient(f"{key} ({seen.id}) is gone", code="Gone")
        fence(Act.CHANGE, there, key, cx)
        return {"id": seen.id, "request_id": _request(self._client.perform(call))}

    def _delete(self, key: str, seen: Interface, cx: Context) -> Mapping[str, str]:
        """Read the interface, refuse what is not ours, then delete it; gone is success.

        One that is still attached here (a ledger was lost) is detached instead, and deleted after the next look.
        """
        there = enis.read(self._client, seen.id)
        if there is None:
            return {"id": seen.id}
        fence(Act.DELETE, there, key, cx)
        try:
            result = self._client.perform(_detach(seen, cx) if there.status == "InUse" else _delete(seen))
        except CloudGone:
            return {"id": seen.id}
        return {"id": seen.id, "request_id": _request(result)}


def _detach(seen: Interface, cx: Context) -> Call:
    params = {"NetworkInterfaceId": seen.id, "InstanceId": instance_of(cx).instance_id}
    return Call(Via.CLOUD, "DetachNetworkInterface", params)


def _delete(seen: Interface) -> Call:
    return Call(Via.CLOUD, "DeleteNetworkInterface", {"NetworkInterfaceId": seen.id})


def _refuse_other(key: str, want: Interface, seen: Interface) -> None:
    """Raise Unsupported for an interface that is another one than ours should be."""
    if seen.ours is False:
        raise Unsupported(f"{key} ({seen.id}) is in use by {seen.instance_id or 'somebody else'}; left as it is")
    if want.subnet != seen.subnet:
        raise Unsupported(
            f"{key} ({seen.id}) is in the subnet {seen.subnet}, wanted is {want.subnet}",
            hint="an earlier init of this node made it: run cocoon-net teardown first, or delete it by hand",
        )


def is_member(each: Eni, spec: Spec) -> bool:
    """Say whether an interface attached to this instance is ours, or could be: unmarked, with an address of ours."""
    match each.ours(spec.node_name):
        case None:
            return each.primary in spec.subnet
        case mark:
            return mark


def named(members: Iterable[Eni], ledger: Mapping[str, str]) -> dict[str, Eni]:
    """Give each interface its key: the ledger's, else its tag's, else the lowest that is free, in order of id."""
    keys = {identifier: key for key, identifier in ledger.items()}
    out: dict[str, Eni] = {}
    left: list[Eni] = []
    ordered = sorted(members, key=lambda each: each.id)
    for each in ordered:
        if each.id in keys:
            out[keys[each.id]] = each
    for each in ordered:
        if each.id not in keys:
            if _KEY.fullmatch(each.key) and each.key not in out:
                out[each.key] = each
            else:
                left.append(each)
    number = 1
    for each in left:
        while f"eni-{number}" in out:
            number += 1
        out[f"eni-{number}"] = each
    return out


def _state(key: str, each: Eni, networks: Mapping[str, IPv4Network], cx: Context) -> Interface | Busy:
    if why := enis.waiting_for(key, each.status):
        return Busy(why)
    elsewhere = bool(each.instance_id) and each.instance_id != instance_of(cx).instance_id
    return Interface(
        subnet=networks[each.subnet_id],
        security_groups=tuple(sorted(each.security_groups)),
        id=each.id,
        mac=each.mac,
        primary_address=each.primary,
        instance_id=each.instance_id,
        owner=each.instance_id if elsewhere else "",
        ours=False if elsewhere else each.ours(cx.spec.node_name),
    )


def _request(result: Mapping[str, Any]) -> str:
    return str(result.get("RequestId", ""))
