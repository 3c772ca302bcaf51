"""DescribeVpcs and DescribeVpcAttributes."""

from __future__ import annotations

from cocoon_net.lab.cloud.actions.action import PAGING, TAG_FILTERS, Action
from cocoon_net.lab.cloud.actions.listing import among, matches, matches_tags, page, tag_fields
from cocoon_net.lab.cloud.records import Vpc
from cocoon_net.lab.cloud.wire import ApiError, Call, Fields, stamp
from cocoon_net.lab.cloud.world import World


def describe_vpcs(world: World, call: Call) -> Fields:
    """List VPCs."""
    rows = [
        row
        for row in world.vpcs.read()
        if among(call, "VpcIds", [row.id]) and matches(call, VpcName=row.name) and matches_tags(call, row.tags)
    ]
    shown, paging = page(call, rows)
    return {"Vpcs": [_fields(world, row) for row in shown], **paging}


def describe_vpc_attributes(world: World, call: Call) -> Fields:
    """Show one VPC; 404 InvalidVpc.NotFound."""
    wanted = call.required("VpcId")
    for row in world.vpcs.read():
        if row.id == wanted:
            return _fields(world, row)
    raise _not_found()


def vpc_of(world: World, vpc_id: str) -> Vpc:
    """Return a VPC that a child can be made in; 404, or 400 InvalidVpc.InvalidStatus while it is Pending."""
    vpc = world.vpcs.get(vpc_id)
    if vpc is None:
        raise _not_found()
    if vpc.status != "Available":
        raise ApiError("InvalidVpc.InvalidStatus", "The specified VPC is not in the correct status.")
    return vpc


def _not_found() -> ApiError:
    return ApiError("InvalidVpc.NotFound", "The specified VPC does not exist.", 404)


def _fields(world: World, vpc: Vpc) -> Fields:
    return {
        "VpcId": vpc.id,
        "VpcName": vpc.name,
        "AccountId": world.account,
        "CidrBlock": str(vpc.cidr),
        "SecondaryCidrBlocks": [],
        "UserCidrBlocks": [],
        "Ipv6CidrBlock": "",
        "Ipv6CidrBlocks": [],
        "Status": vpc.status,
        "Description": "",
        "IsDefault": False,
        "ProjectName": "default",
        "DnsServers": [],
        "NatGatewayIds": [],
        "AssociateCens": [],
        "NetworkAclNum": "0",
        "RouteTableIds": [f"vtb-{vpc.id.removeprefix('vpc-')}"],
        "SubnetIds": [row.id for row in world.subnets.all() if row.vpc_id == vpc.id],
        "SecurityGroupIds": [row.id for row in world.groups.all() if row.vpc_id == vpc.id],
        "Ipv4GatewayId": "",
        "SupportIpv4Gateway": False,
        "Tags": tag_fields(vpc.tags),
        "CreationTime": stamp(vpc.created),
        "UpdateTime": stamp(vpc.updated),
    }


ACTIONS = {
    "DescribeVpcs": Action(describe_vpcs, f"IsDefault ProjectName VpcIds.N VpcName VpcOwnerId {TAG_FILTERS} {PAGING}"),
    "DescribeVpcAttributes": Action(describe_vpc_attributes, "VpcId*"),
}
