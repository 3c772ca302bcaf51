"""The node's own subnet of the VPC. Key: ``subnet``."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network
from typing import Any

from cocoon_net.cloud.volcengine import eni as enis
from cocoon_net.cloud.volcengine.client import Client
from cocoon_net.cloud.volcengine.eni import instance_of
from cocoon_net.cloud.volcengine.fence import fence_subnet
from cocoon_net.cloud.volcengine.tags import marks, ours, owner, stranger, tags_of
from cocoon_net.engine.model import Busy, Call, Change, Context, Later, Seen, Verb, Via
from cocoon_net.errors import (
    CloudError,
    CloudGone,
    CloudQuota,
    CloudTransient,
    InvariantError,
    Unsupported,
    WorldError,
)
from cocoon_net.records import Subnet

KEY = "subnet"


class Subnets:
    """Finds the subnet of the spec's CIDR in the instance's VPC, whoever made it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._made = ""
        """The id of the subnet that this process made, before the ledger knows it."""

    def observe(self, cx: Context) -> Seen:
        """Look (DescribeSubnets): by its id where we know it; else through all, since there is no filter by CIDR."""
        for thing in self._known(cx) or self._listed(cx):
            if _cidr(thing) == cx.spec.subnet:
                if thing.get("Status") != "Available":
                    return {KEY: Busy(f"the subnet {cx.spec.subnet}, which is {thing.get('Status')}")}
                return {KEY: _record(thing, cx)}
        return {}

    def calls(self, change: Change, cx: Context) -> tuple[Call, ...]:
        """Create or delete. An update is Unsupported: a subnet cannot move to another zone."""
        match change.verb, change.want, change.seen:
            case Verb.CREATE, Subnet() as want, _:
                params = {
                    "VpcId": instance_of(cx).vpc_id,
                    "CidrBlock": str(want.cidr),
                    "ZoneId": want.zone,
                    "SubnetName": f"{cx.spec.node_name}-vms",
                    "Tags": marks(cx.spec.node_name, KEY, cx.lineage),
                }
                return (Call(Via.CLOUD, "CreateSubnet", params),)
            case Verb.DELETE, _, Subnet() as seen:
                return (Call(Via.CLOUD, "DeleteSubnet", {"SubnetId": seen.id}),)
            case Verb.UPDATE, Subnet() as want, Subnet() as seen:
                raise Unsupported(
                    f"the subnet {seen.cidr} ({seen.id}) is in zone {seen.zone}, this instance is in {want.zone}",
                    hint="choose another --subnet; interfaces attach only within their zone",
                )
        raise InvariantError(f"the inventory of subnets cannot {change.verb} {change.want or change.seen!r}")

    def apply(self, change: Change, token: str, cx: Context) -> Mapping[str, str]:
        """Create or delete the subnet."""
        (call,) = self.calls(change, cx)
        match change.want, change.seen:
            case Subnet() as want, _:
                return self._create(call, want, token, cx)
            case _, Subnet() as seen:
                return self._delete(call, seen, cx)
        raise InvariantError(f"the inventory of subnets cannot {change.verb} {change.want or change.seen!r}")

    def _create(self, call: Call, want: Subnet, token: str, cx: Context) -> Mapping[str, str]:
        """CreateSubnet; the VPC is Pending meanwhile and refuses other children in passing."""
        try:
            result = self._client.perform(call, token=token)
        except (CloudTransient, CloudQuota):
            raise
        except CloudError as error:
            self._explain_overlap(want, cx, error)
            raise
        self._made = _id(result)
        return {"id": self._made, "request_id": str(result.get("RequestId", ""))}

    def _explain_overlap(self, want: Subnet, cx: Context, error: CloudError) -> None:
        """Raise Unsupported if another subnet is in the way: how the API says so is not documented."""
        try:
            listed = list(self._listed(cx))
        except WorldError:
            return  # unexplained, the refusal stands
        for thing in listed:
            cidr = _cidr(thing)
            if cidr is not None and cidr.overlaps(want.cidr):
                name = thing.get("SubnetName") or thing.get("SubnetId")
                raise Unsupported(
                    f"the subnet {want.cidr} overlaps {cidr} ({name}, {thing.get('SubnetId')})",
                    hint="choose a --subnet that is free in this VPC",
                    code=error.code,
                    request_id=error.request_id,
                )

    def _delete(self, call: Call, seen: Subnet, cx: Context) -> Mapping[str, str]:
        """DeleteSubnet of what is ours, read anew; gone is success."""
        try:
            thing = self._client.call("DescribeSubnetAttributes", {"SubnetId": seen.id})
            if not thing.get("SubnetId"):
                return {"id": seen.id}
            fence_subnet(seen.id, tags_of(thing), cx)
            result = self._client.perform(call)
        except CloudGone:
            return {"id": seen.id}
        except CloudTransient as error:
            if error.code.endswith(".InUse"):
                self._explain_inhabitants(seen, cx, error)
            raise
        return {"id": seen.id, "request_id": str(result.get("RequestId", ""))}

    def _explain_inhabitants(self, seen: Subnet, cx: Context, error: CloudTransient) -> None:
        """Raise Unsupported if interfaces that will not go by themselves are in the subnet: waiting will not help."""
        here, node = instance_of(cx).instance_id, cx.spec.node_name
        try:
            there = [each for each in enis.listing(self._client, SubnetId=seen.id) if each.status != "Deleting"]
        except WorldError:
            return  # unexplained, the refusal stands
        # A listing that lags shows ours that were just deleted.
        lasting = sorted(each.id for each in there if not each.ours(node) or each.instance_id not in ("", here))
        if lasting:
            raise Unsupported(
                f"the subnet {seen.cidr} ({seen.id}) is not empty: {', '.join(lasting[:5])} "
                f"{'is' if len(lasting) == 1 else 'are'} in it and not ours to delete",
                hint="delete them where nobody needs them, then give the same command again; "
                "or leave the subnet: cocoon-net run teardown --abandon",
                code=error.code,
                request_id=error.request_id,
            )

    def _known(self, cx: Context) -> list[dict[str, Any]]:
        """Return the subnet of the id that we know, if it is there and as wanted: no other can have its block."""
        known = self._made or id_of(cx)
        if not known or isinstance(known, Later):
            return []
        try:
            things = list(self._client.pages("DescribeSubnets", {"SubnetIds": [known]}, "Subnets"))
        except CloudGone:
            return []
        vpc = instance_of(cx).vpc_id
        return [thing for thing in things if thing.get("VpcId", vpc) == vpc and _cidr(thing) == cx.spec.subnet]

    def _listed(self, cx: Context) -> list[dict[str, Any]]:
        vpc = instance_of(cx).vpc_id
        things = self._client.pages("DescribeSubnets", {"VpcId": vpc}, "Subnets")
        return [thing for thing in things if thing.get("VpcId", vpc) == vpc]


def id_of(cx: Context) -> str:
    """Return the id of the node's subnet, a Later where it is not made yet."""
    row = cx.records("subnet").get(KEY)
    return row.id if isinstance(row, Subnet) and row.id else Later("(of subnet)")


def cidrs(client: Client, ids: set[str]) -> dict[str, IPv4Network]:
    """Return the CIDRs of subnets by id (DescribeSubnets)."""
    things = client.pages("DescribeSubnets", {"SubnetIds": sorted(ids)}, "Subnets") if ids else ()
    return {str(thing["SubnetId"]): cidr for thing in things if (cidr := _cidr(thing)) is not None}


def _record(thing: Mapping[str, Any], cx: Context) -> Subnet:
    return Subnet(
        cidr=cx.spec.subnet,
        zone=str(thing.get("ZoneId", "")),
        id=str(thing.get("SubnetId", "")),
        available=int(thing.get("AvailableIpAddressCount") or 0),
        owner=owner(tags_of(thing)) or stranger(tags_of(thing)),
        ours=ours(tags_of(thing), cx.spec.node_name),
    )


def _cidr(thing: Mapping[str, Any]) -> IPv4Network | None:
    """Return a subnet's block, normalised; None for one without (IPv6 only)."""
    text = thing.get("CidrBlock")
    try:
        return IPv4Network(text, strict=False) if isinstance(text, str) else None
    except ValueError:
        return None


def _id(result: Mapping[str, Any]) -> str:
    found = result.get("SubnetId")
    if not isinstance(found, str) or not found:
        raise CloudTransient("CreateSubnet answered without the id of the subnet", code="Unreadable")
    return found
