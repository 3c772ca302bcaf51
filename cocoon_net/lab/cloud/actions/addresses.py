"""AssignPrivateIpAddresses and UnassignPrivateIpAddresses."""

from __future__ import annotations

from dataclasses import replace

from cocoon_net.lab.cloud.actions.action import Action
from cocoon_net.lab.cloud.actions.interfaces import DETACHED_SECONDARIES, forbidden, interface_of, wrong_status
from cocoon_net.lab.cloud.actions.subnets import take_addresses
from cocoon_net.lab.cloud.records import Interface, Subnet
from cocoon_net.lab.cloud.wire import ApiError, Call, Fields, address, invalid, missing
from cocoon_net.lab.cloud.world import World


def assign_private_ip_addresses(world: World, call: Call) -> Fields:
    """Give secondary addresses, chosen or counted; 49 while Available, the type's limit while InUse."""
    row = interface_of(world, call)
    subnet = _changeable(world, row)
    chosen = [address("PrivateIpAddress", text) for text in call.listed("PrivateIpAddress")]
    count = call.integer("SecondaryPrivateIpAddressCount", 1, 100)
    if bool(chosen) == (count is not None):
        raise invalid("SecondaryPrivateIpAddressCount", "this or PrivateIpAddress, and not both")
    most = DETACHED_SECONDARIES
    if row.instance_id is not None:
        most = world.address_limit(world.instances.rows[row.instance_id]) - 1
    if len(row.secondaries) + len(chosen) + (count or 0) > most:
        raise ApiError("LimitExceeded.PrivateIpsPerEni", f"The interface may have {most} secondary addresses.")
    new = take_addresses(world, subnet, chosen, count or 0)
    changed = world.interfaces.put(replace(row, secondaries=(*row.secondaries, *new), updated=call.now))
    shown = new if world.faults.assign_returns == "new" else changed.secondaries
    return {"NetworkInterfaceId": row.id, "PrivateIpSet": [str(each) for each in shown]}


def unassign_private_ip_addresses(world: World, call: Call) -> Fields:
    """Take secondary addresses back; 400 InvalidPrivateIp.Malformed for one that the interface does not have."""
    row = interface_of(world, call)
    _changeable(world, row)
    going = {address("PrivateIpAddress", text) for text in call.listed("PrivateIpAddress")}
    if not going:
        raise missing("PrivateIpAddress.1")
    if strange := going - set(row.secondaries):
        raise ApiError("InvalidPrivateIp.Malformed", f"The interface has no secondary address {min(strange)}.")
    kept = tuple(each for each in row.secondaries if each not in going)
    world.interfaces.put(replace(row, secondaries=kept, updated=call.now))
    return {}


def _changeable(world: World, row: Interface) -> Subnet:
    """Return the subnet of an interface whose addresses may change now."""
    if row.service_managed:
        raise forbidden()
    if row.status not in ("Available", "InUse"):
        raise wrong_status()
    return world.subnets.rows[row.subnet_id]


ACTIONS = {
    "AssignPrivateIpAddresses": Action(
        assign_private_ip_addresses,
        "NetworkInterfaceId* PrivateIpAddress.N SecondaryPrivateIpAddressCount ClientToken",
        writes=True,
    ),
    "UnassignPrivateIpAddresses": Action(
        unassign_private_ip_addresses, "NetworkInterfaceId* PrivateIpAddress.N ClientToken", writes=True
    ),
}
