"""The facts of the instance that we run on, from metadata and the API."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network

from cocoon_net.cloud.volcengine import eni as enis
from cocoon_net.cloud.volcengine.client import Client, objects
from cocoon_net.cloud.volcengine.interfaces import is_member
from cocoon_net.cloud.volcengine.metadata import Identity
from cocoon_net.errors import CloudError, CloudTransient, Refused
from cocoon_net.records import Instance
from cocoon_net.spec import Spec

GUIDE_LIMITS = (8, 21)
"""Interfaces and addresses per interface, primaries included, where the type's own cannot be read: the guide's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an instance type takes, the primary interface and each primary address included."""

    interfaces: int
    addresses: int


def describe(client: Client, identity: Identity, spec: Spec) -> Instance:
    """Return the facts: DescribeNetworkInterfaces, DescribeInstanceTypes; DescribeVpcs where metadata is silent.

    Raises CloudError when the API does not know the instance that metadata speaks of, Refused without permission.
    """
    attached = list(enis.listing(client, InstanceId=identity.instance_id))
    primary = next((each for each in attached if each.is_primary), None) or next(
        (each for each in attached if identity.mac and each.mac == identity.mac), None
    )
    if primary is None:
        raise CloudError(
            f"the API knows no primary interface of {identity.instance_id}, which is in {identity.region}",
            hint="do the credentials and their region belong to the account of this instance? See VOLCENGINE_REGION",
        )
    kind = identity.instance_type or _type_of(client, identity.instance_id)
    limits = _limits(client, kind)
    return Instance(
        platform="volcengine",
        instance_id=identity.instance_id,
        instance_type=kind,
        region=identity.region,
        zone=identity.zone,
        vpc_id=identity.vpc_id,
        vpc_cidr=_told(identity.vpc_cidr) or _vpc_cidr(client, identity.vpc_id),
        primary_mac=primary.mac or identity.mac,
        primary_address=primary.primary,
        primary_interface_id=primary.id,
        security_groups=primary.security_groups,
        max_interfaces=limits.interfaces,
        max_addresses=limits.addresses,
        used_interfaces=sum(not is_member(each, spec) for each in attached),
    )


def _told(text: str) -> IPv4Network | None:
    """Read the VPC's block as metadata tells it; None where it does not, or tells nonsense."""
    try:
        return IPv4Network(text) if text else None
    except ValueError:
        return None


def _vpc_cidr(client: Client, vpc_id: str) -> IPv4Network:
    for thing in objects(client.call("DescribeVpcs", {"VpcIds": [vpc_id]}), "Vpcs", "DescribeVpcs"):
        if thing.get("VpcId") == vpc_id:
            try:
                return IPv4Network(str(thing.get("CidrBlock")), strict=False)
            except ValueError:
                raise CloudError(f"the VPC {vpc_id} has no IPv4 block") from None
    raise CloudError(f"the API does not know the VPC {vpc_id}", hint="are the credentials those of its account?")


def _type_of(client: Client, instance_id: str) -> str:
    """Return the instance's type where metadata does not say it; empty if nobody may tell us."""
    try:
        result = client.call("DescribeInstances", {"InstanceIds": [instance_id]}, service="ecs")
    except CloudTransient:
        raise
    except (CloudError, Refused):
        return ""
    found = objects(result, "Instances", "DescribeInstances")
    return next((str(i.get("InstanceTypeId") or "") for i in found if i.get("InstanceId") == instance_id), "")


def _limits(client: Client, kind: str) -> Limits:
    """Return the type's limits; the guide's, with a warning, where we may not read them."""
    why = "metadata does not tell the type"
    if kind:
        try:
            result = client.call("DescribeInstanceTypes", {"InstanceTypeIds": [kind]}, service="ecs")
        except CloudTransient:
            raise
        except (CloudError, Refused) as error:
            why = error.message
        else:
            for thing in objects(result, "InstanceTypes", "DescribeInstanceTypes"):
                network = thing.get("Network")
                if thing.get("InstanceTypeId") == kind and isinstance(network, dict):
                    interfaces = network.get("MaximumNetworkInterfaces")
                    addresses = network.get("MaximumPrivateIpv4AddressesPerNetworkInterface")
                    if isinstance(interfaces, int) and isinstance(addresses, int):
                        return Limits(interfaces, addresses)
            why = f"the API does not tell those of {kind}"
    from loguru import logger

    limits = Limits(*GUIDE_LIMITS)
    logger.warning(
        "cannot read the limits of this instance's type ({}); assuming {} interfaces of {} addresses",
        why,
        limits.interfaces,
        limits.addresses,
    )
    return limits
