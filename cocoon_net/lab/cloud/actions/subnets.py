"""CreateSubnet, DeleteSubnet, DescribeSubnets and DescribeSubnetAttributes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from cocoon_net.lab.cloud.actions.action import PAGING, TAG_FILTERS, Action
from cocoon_net.lab.cloud.actions.listing import among, matches, matches_tags, page, tag_fields
from cocoon_net.lab.cloud.actions.vpcs import vpc_of
from cocoon_net.lab.cloud.records import GONE, Subnet, Vpc
from cocoon_net.lab.cloud.wire import ApiError, Call, Fields, network, stamp
from cocoon_net.lab.cloud.world import RESERVED, World, new_id


def create_subnet(world: World, call: Call) -> Fields:
    """Begin to make a subnet: inside the VPC, overlapping none, /29 or larger. The VPC is Pending meanwhile."""
    vpc = vpc_of(world, call.required("VpcId"))
    cidr = network("CidrBlock", call.required("CidrBlock"))
    if cidr.prefixlen > 29 or not cidr.subnet_of(vpc.cidr):
        raise ApiError("InvalidCidr.Malformed", f"The CIDR block must lie in {vpc.cidr} and be /29 or larger.")
    siblings = [row for row in world.subnets.all() if row.vpc_id == vpc.id]
    if any(cidr.overlaps(row.cidr) for row in siblings):
        raise ApiError("InvalidCidr.Conflict", "The CIDR block overlaps with that of another subnet.")
    if len(siblings) >= world.faults.subnet_quota:
        raise ApiError("QuotaExceeded.Subnet", "The VPC has as many subnets as it may have.")
    zone = call.required("ZoneId")
    if zone not in (f"{world.region}-a", f"{world.region}-b"):
        raise ApiError("InvalidZone.NotFound", "The specified zone does not exist.", 404)
    key = new_id("subnet")
    world.subnets.put(
        Subnet(
            id=key,
            vpc_id=vpc.id,
            zone=zone,
            cidr=cidr,
            name=call.text("SubnetName") or key,
            description=call.text("Description"),
            created=call.now,
            updated=call.now,
            status="Pending",
            move=world.move("Available", call.now),
            tags=call.tags(),
        )
    )
    _make_pending(world, vpc, call)
    return {"SubnetId": key}


def delete_subnet(world: World, call: Call) -> Fields:
    """Begin to remove a subnet; refused while there are interfaces in it (InvalidSubnet.InUse)."""
    subnet = subnet_of(world, call.required("SubnetId"))
    vpc = vpc_of(world, subnet.vpc_id)
    if world.inhabitants(subnet.id):
        raise ApiError("InvalidSubnet.InUse", "There are network interfaces in the specified subnet.")
    world.subnets.put(replace(subnet, status="Pending", move=world.move(GONE, call.now), updated=call.now))
    _make_pending(world, vpc, call)
    return {}


def describe_subnets(world: World, call: Call) -> Fields:
    """List subnets; there is no filter by CIDR block."""
    rows = [
        row
        for row in world.subnets.read()
        if among(call, "SubnetIds", [row.id])
        and matches(call, VpcId=row.vpc_id, ZoneId=row.zone, SubnetName=row.name)
        and matches_tags(call, row.tags)
    ]
    shown, paging = page(call, rows)
    return {"Subnets": [_fields(world, row) for row in shown], **paging}


def describe_subnet_attributes(world: World, call: Call) -> Fields:
    """Show one subnet; 404 InvalidSubnet.NotFound."""
    wanted = call.required("SubnetId")
    for row in world.subnets.read():
        if row.id == wanted:
            return _fields(world, row)
    raise _not_found()


def subnet_of(world: World, subnet_id: str) -> Subnet:
    """Return a subnet that is Available; 404, or 400 InvalidSubnet.InvalidStatus."""
    subnet = world.subnets.get(subnet_id)
    if subnet is None:
        raise _not_found()
    if subnet.status != "Available":
        raise ApiError("InvalidSubnet.InvalidStatus", "The specified subnet is not in the correct status.")
    return subnet


def take_addresses(world: World, subnet: Subnet, chosen: list[IPv4Address], count: int) -> list[IPv4Address]:
    """Return the chosen addresses and then the ``count`` lowest free ones."""
    used = world.used(subnet)
    for each in chosen:
        if each not in subnet.cidr:
            raise ApiError("InvalidPrivateIp.Malformed", f"The address {each} is not in the subnet {subnet.cidr}.")
        if each in used:
            raise ApiError("InvalidPrivateIp.InUse", f"The address {each} is in use or reserved.")
        used.add(each)
    if len(chosen) + count > world.free_count(subnet):
        raise ApiError("InsufficientIpInSubnet", "There are not enough free addresses in the specified subnet.")
    free = (each for each in subnet.cidr.hosts() if each not in used)
    return [*chosen, *(next(free) for _ in range(count))]


def _not_found() -> ApiError:
    return ApiError("InvalidSubnet.NotFound", "The specified subnet does not exist.", 404)


def _make_pending(world: World, vpc: Vpc, call: Call) -> None:
    world.vpcs.put(replace(vpc, status="Pending", move=world.move("Available", call.now), updated=call.now))


def _fields(world: World, subnet: Subnet) -> Fields:
    return {
        "SubnetId": subnet.id,
        "SubnetName": subnet.name,
        "VpcId": subnet.vpc_id,
        "ZoneId": subnet.zone,
        "AccountId": world.account,
        "CidrBlock": str(subnet.cidr),
        "Ipv6CidrBlock": "",
        "TotalIpv4Count": subnet.cidr.num_addresses - RESERVED,
        "AvailableIpAddressCount": world.free_count(subnet),
        "Status": subnet.status,
        "Description": subnet.description,
        "IsDefault": False,
        "ProjectName": "default",
        "NetworkAclId": "",
        "RouteTable": {"RouteTableId": f"vtb-{subnet.vpc_id.removeprefix('vpc-')}", "RouteTableType": "System"},
        "Tags": tag_fields(subnet.tags),
        "CreationTime": stamp(subnet.created),
        "UpdateTime": stamp(subnet.updated),
    }


ACTIONS = {
    "CreateSubnet": Action(
        create_subnet,
        "CidrBlock* VpcId* ZoneId* ClientToken Description SubnetName Ipv6CidrBlock VpcIpv6CidrBlock "
        "Tags.N.Key Tags.N.Value",
        writes=True,
    ),
    "DeleteSubnet": Action(delete_subnet, "SubnetId*", writes=True),
    "DescribeSubnets": Action(
        describe_subnets,
        f"IsDefault ProjectName RouteTableId SubnetIds.N SubnetName SubnetOwnerId VpcId ZoneId {TAG_FILTERS} {PAGING}",
    ),
    "DescribeSubnetAttributes": Action(describe_subnet_attributes, "SubnetId*"),
}
