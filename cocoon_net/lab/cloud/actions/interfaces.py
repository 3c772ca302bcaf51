"""Interfaces (ENIs): Create, Describe, Attach, Detach, Delete and Modify them."""

from __future__ import annotations

from dataclasses import replace

from cocoon_net.lab.cloud.actions.action import PAGING, TAG_FILTERS, Action
from cocoon_net.lab.cloud.actions.listing import among, matches, matches_tags, page, tag_fields
from cocoon_net.lab.cloud.actions.subnets import subnet_of, take_addresses
from cocoon_net.lab.cloud.actions.vpcs import vpc_of
from cocoon_net.lab.cloud.records import GONE, Instance, Interface
from cocoon_net.lab.cloud.wire import ApiError, Call, Fields, address, invalid, missing, stamp
from cocoon_net.lab.cloud.world import World, new_id

DETACHED_SECONDARIES = 49
"""Secondary addresses that an interface may have while it is not attached."""
GROUPS = 5
"""Security groups that an interface may be in."""

_NO_ADDRESS: Fields = {"AllocationId": "", "EipAddress": "", "ReleaseWithInstance": False}


def create_network_interface(world: World, call: Call) -> Fields:
    """Begin to make a secondary interface in a subnet that is Available."""
    subnet = subnet_of(world, call.required("SubnetId"))
    vpc_of(world, subnet.vpc_id)
    groups = _groups(world, call)
    if not groups:
        raise missing("SecurityGroupIds.1")
    if len(world.interfaces.rows) >= world.faults.interface_quota:
        raise ApiError("QuotaExceeded.Eni", "The account has as many network interfaces as it may have.")
    chosen = [address("PrivateIpAddress", text) for text in call.listed("PrivateIpAddress", DETACHED_SECONDARIES)]
    count = call.integer("SecondaryPrivateIpAddressCount", 1, DETACHED_SECONDARIES)
    if chosen and count is not None:
        raise invalid("SecondaryPrivateIpAddressCount", "not together with PrivateIpAddress")
    if text := call.text("PrimaryIpAddress"):
        primary, *secondaries = take_addresses(world, subnet, [address("PrimaryIpAddress", text), *chosen], count or 0)
    else:
        # A primary that nobody chose must not get one of the addresses chosen as secondary.
        named = take_addresses(world, subnet, chosen, 1 + (count or 0))
        primary, secondaries = named[len(chosen)], [*named[: len(chosen)], *named[len(chosen) + 1 :]]
    key = new_id("eni")
    world.interfaces.put(
        Interface(
            id=key,
            vpc_id=subnet.vpc_id,
            subnet_id=subnet.id,
            zone=subnet.zone,
            name=call.text("NetworkInterfaceName") or key,
            description=call.text("Description"),
            mac=world.new_mac(),
            primary=primary,
            secondaries=tuple(secondaries),
            groups=groups,
            created=call.now,
            updated=call.now,
            move=world.move("Available", call.now),
            port_security=call.flag("PortSecurityEnabled") or False,
            tags=call.tags(),
        )
    )
    return {"NetworkInterfaceId": key}


def describe_network_interfaces(world: World, call: Call) -> Fields:
    """List interfaces; a filter by PrivateIpAddresses needs the VpcId."""
    if call.listed("PrivateIpAddresses") and not call.text("VpcId"):
        raise missing("VpcId")
    rows = [
        row
        for row in world.interfaces.read()
        if among(call, "NetworkInterfaceIds", [row.id])
        and among(call, "PrimaryIpAddresses", [str(row.primary)])
        and among(call, "PrivateIpAddresses", map(str, row.addresses))
        and matches(
            call,
            InstanceId=row.instance_id,
            NetworkInterfaceName=row.name,
            Status=row.status,
            SubnetId=row.subnet_id,
            Type=row.kind,
            VpcId=row.vpc_id,
            ZoneId=row.zone,
        )
        and ("SecurityGroupId" not in call.parameters or call.text("SecurityGroupId") in row.groups)
        and matches_tags(call, row.tags)
    ]
    shown, paging = page(call, rows)
    return {"NetworkInterfaceSets": [_fields(world, row) for row in shown], **paging}


def describe_network_interface_attributes(world: World, call: Call) -> Fields:
    """Show one interface; 404 InvalidEniId.NotFound, or an empty result as some regions give."""
    wanted = call.required("NetworkInterfaceId")
    for row in world.interfaces.read():
        if row.id == wanted:
            return _fields(world, row)
    if world.faults.gone_describe == "empty":
        return {}
    raise _not_found()


def attach_network_interface(world: World, call: Call) -> Fields:
    """Begin to attach: the same VPC and zone, within the limits of the instance's type."""
    row = interface_of(world, call)
    instance = _instance_of(world, call)
    if row.status != "Available":
        raise wrong_status()
    if row.vpc_id != instance.vpc_id:
        raise ApiError("InvalidEni.VpcMismatch", "The interface and the instance are in different VPCs.")
    if row.zone != instance.zone:
        raise ApiError("InvalidEni.ZoneMismatch", "The interface and the instance are in different zones.")
    others = world.interfaces_of(instance.id)
    if len(others) >= world.interface_limit(instance):
        raise ApiError("LimitExceeded.EnisPerInstance", "The instance has as many interfaces as it may have.")
    if len(row.addresses) > world.address_limit(instance):
        raise ApiError("LimitExceeded.PrivateIpsPerEni", "The interface has more addresses than it may have there.")
    taken = {other.index for other in others}
    world.interfaces.put(
        replace(
            row,
            status="Attaching",
            move=world.move("InUse", call.now),
            instance_id=instance.id,
            index=next(index for index in range(len(taken) + 1) if index not in taken),
            delete_on_termination=call.flag("DeleteOnTermination") or False,
            updated=call.now,
        )
    )
    _spoil(world, row.id)
    return {}


def detach_network_interface(world: World, call: Call) -> Fields:
    """Begin to detach; the primary and service-managed interfaces stay (403 Forbidden)."""
    row = interface_of(world, call)
    instance = _instance_of(world, call)
    if row.instance_id != instance.id:
        raise ApiError("InvalidEni.InstanceMismatch", "The interface is not attached to the specified instance.")
    if row.kind == "primary" or row.service_managed:
        raise forbidden()
    if row.status != "InUse":
        raise wrong_status()
    move = world.move("Available", call.now)
    world.interfaces.put(replace(row, status="Detaching", move=move, updated=call.now))
    return {}


def delete_network_interface(world: World, call: Call) -> Fields:
    """Begin to delete an interface that is Available."""
    row = interface_of(world, call)
    if row.kind == "primary" or row.service_managed:
        raise forbidden()
    if row.status != "Available":
        raise wrong_status()
    world.interfaces.put(replace(row, status="Deleting", move=world.move(GONE, call.now), updated=call.now))
    return {}


def modify_network_interface_attributes(world: World, call: Call) -> Fields:
    """Change name, description, groups (the whole list) or port security."""
    row = interface_of(world, call)
    if row.service_managed:
        raise forbidden()
    port_security, termination = call.flag("PortSecurityEnabled"), call.flag("DeleteOnTermination")
    world.interfaces.put(
        replace(
            row,
            name=call.text("NetworkInterfaceName", row.name),
            description=call.text("Description", row.description),
            groups=_groups(world, call) or row.groups,
            port_security=row.port_security if port_security is None else port_security,
            delete_on_termination=row.delete_on_termination if termination is None else termination,
            updated=call.now,
        )
    )
    return {}


def _spoil(world: World, key: str) -> None:
    """Let this attach come to nothing, if a fault says so."""
    faults, row = world.faults, world.interfaces.rows[key]
    if faults.attach_stuck:
        world.faults = replace(faults, attach_stuck=faults.attach_stuck - 1)
        if faults.attach_stuck == 1:
            world.interfaces.put(replace(row, move=None))
            return
    if faults.attach_fail and row.move is not None:
        world.faults = replace(world.faults, attach_fail=faults.attach_fail - 1)
        world.interfaces.put(replace(row, move=replace(row.move, to="Available")))


def _groups(world: World, call: Call) -> tuple[str, ...]:
    groups = call.listed("SecurityGroupIds")
    if len(groups) > GROUPS:
        raise ApiError("QuotaExceeded.EniSecurityGroup", f"An interface may be in {GROUPS} security groups.")
    for key in groups:
        if world.groups.get(key) is None:
            raise ApiError("InvalidSecurityGroupId.NotFound", "The specified security group does not exist.", 404)
    return groups


def interface_of(world: World, call: Call) -> Interface:
    """Return the interface that the call names; 404 InvalidEniId.NotFound."""
    row = world.interfaces.get(call.required("NetworkInterfaceId"))
    if row is None:
        raise _not_found()
    return row


def _instance_of(world: World, call: Call) -> Instance:
    instance = world.instances.get(call.required("InstanceId"))
    if instance is None:
        raise ApiError("InvalidInstance.NotFound", "The specified instance does not exist.", 404)
    if instance.status not in ("RUNNING", "STOPPED"):
        raise ApiError("InvalidInstance.InvalidStatus", "The specified instance is not in the correct status.")
    return instance


def _not_found() -> ApiError:
    return ApiError("InvalidEniId.NotFound", "The specified elastic network interface does not exist.", 404)


def wrong_status() -> ApiError:
    """Return the refusal of an interface that is in another state than the call needs."""
    return ApiError(
        "InvalidEni.InvalidStatus",
        "The specified elastic network interface is not in the correct status for the request.",
    )


def forbidden() -> ApiError:
    """Return the refusal to touch what the instance or a service owns."""
    return ApiError("Forbidden", "Primary and service-managed interfaces cannot be changed in this way.", 403)


def _fields(world: World, row: Interface) -> Fields:
    vpc = world.vpcs.get(row.vpc_id)
    device = "" if row.service_managed else row.instance_id or ""
    return {
        "NetworkInterfaceId": row.id,
        "NetworkInterfaceName": row.name,
        "AccountId": world.account,
        "AssociatedElasticIp": dict(_NO_ADDRESS),
        "Attachment": {"DeleteOnTermination": row.delete_on_termination, "InstanceId": row.instance_id or ""},
        "DeviceId": device,
        "Description": row.description,
        "IPv6Sets": [],
        "MacAddress": row.mac,
        "PortSecurityEnabled": row.port_security,
        "PrimaryIpAddress": str(row.primary),
        "PrivateIpSets": {
            "PrivateIpSet": [
                {
                    "Primary": each == row.primary,
                    "PrivateIpAddress": str(each),
                    "AssociatedElasticIp": dict(_NO_ADDRESS),
                }
                for each in row.addresses
            ]
        },
        "ProjectName": "default",
        "SecurityGroupIds": list(row.groups),
        "ServiceManaged": row.service_managed,
        "Status": row.status,
        "SubnetId": row.subnet_id,
        "Tags": tag_fields(row.tags),
        "TcpClosedAndTimeWaitTimeout": 1,
        "TcpEstablishedTimeout": 900,
        "UdpTimeout": 60,
        "Type": row.kind,
        "VpcId": row.vpc_id,
        "VpcName": "" if vpc is None else vpc.name,
        "ZoneId": row.zone,
        "CreatedAt": stamp(row.created),
        "UpdatedAt": stamp(row.updated),
    }


_TIMEOUTS = "TcpClosedAndTimeWaitTimeout TcpEstablishedTimeout UdpTimeout"

ACTIONS = {
    "CreateNetworkInterface": Action(
        create_network_interface,
        "SubnetId* SecurityGroupIds.N ClientToken NetworkInterfaceName Description PrimaryIpAddress "
        "SecondaryPrivateIpAddressCount PrivateIpAddress.N Ipv6AddressCount Ipv6Address.N PortSecurityEnabled "
        f"ProjectName Tags.N.Key Tags.N.Value {_TIMEOUTS}",
        writes=True,
    ),
    "DescribeNetworkInterfaces": Action(
        describe_network_interfaces,
        "InstanceId Ipv6Addresses.N NetworkInterfaceIds.N NetworkInterfaceName PrimaryIpAddresses.N "
        "PrivateIpAddresses.N ProjectName SecurityGroupId Status SubnetId Type VpcId ZoneId "
        f"{TAG_FILTERS} {PAGING}",
    ),
    "DescribeNetworkInterfaceAttributes": Action(describe_network_interface_attributes, "NetworkInterfaceId*"),
    "AttachNetworkInterface": Action(
        attach_network_interface, "InstanceId* NetworkInterfaceId* DeleteOnTermination", writes=True
    ),
    "DetachNetworkInterface": Action(detach_network_interface, "InstanceId* NetworkInterfaceId*", writes=True),
    "DeleteNetworkInterface": Action(delete_network_interface, "NetworkInterfaceId*", writes=True),
    "ModifyNetworkInterfaceAttributes": Action(
        modify_network_interface_attributes,
        "NetworkInterfaceId* DeleteOnTermination Description NetworkInterfaceName PortSecurityEnabled "
        f"SecurityGroupIds.N {_TIMEOUTS}",
        writes=True,
    ),
}
