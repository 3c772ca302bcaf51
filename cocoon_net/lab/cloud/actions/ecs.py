"""The few actions of other services: instances and their types (ecs), and who is calling (sts)."""

from __future__ import annotations

from cocoon_net.lab.cloud.actions.action import TAG_FILTERS, Action
from cocoon_net.lab.cloud.actions.listing import among, matches, matches_tags, page, tag_fields
from cocoon_net.lab.cloud.records import Instance, InstanceType
from cocoon_net.lab.cloud.wire import Call, Fields, stamp
from cocoon_net.lab.cloud.world import World


def describe_instances(world: World, call: Call) -> Fields:
    """List instances with their interfaces."""
    rows = [
        row
        for row in world.instances.read()
        if among(call, "InstanceIds", [row.id])
        and matches(call, VpcId=row.vpc_id, ZoneId=row.zone, Status=row.status, InstanceName=row.node)
        and matches_tags(call, row.tags)
    ]
    shown, paging = page(call, rows)
    return {"Instances": [_instance_fields(world, row) for row in shown], **paging}


def describe_instance_types(world: World, call: Call) -> Fields:
    """List types of instances; up to 10 ids are looked at, further ones are ignored."""
    wanted = (call.listed("InstanceTypeIds") or call.listed("InstanceTypes"))[:10]
    rows = [row for row in world.types.read() if not wanted or row.id in wanted]
    shown, paging = page(call, rows, most=1000)
    return {"InstanceTypes": [_type_fields(world, row) for row in shown], **paging}


def get_caller_identity(world: World, call: Call) -> Fields:
    """Say which account the key belongs to."""
    return {
        "AccountId": world.account,
        "IdentityType": "Account",
        "IdentityId": world.account,
        "Trn": f"trn:iam::{world.account}:root",
    }


def _instance_fields(world: World, instance: Instance) -> Fields:
    interfaces = sorted(world.interfaces_of(instance.id), key=lambda row: (row.index or 0, row.id))
    return {
        "InstanceId": instance.id,
        "InstanceName": instance.node,
        "Hostname": instance.node,
        "InstanceTypeId": instance.type_id,
        "Status": instance.status,
        "VpcId": instance.vpc_id,
        "ZoneId": instance.zone,
        "ProjectName": "default",
        "NetworkInterfaces": [
            {
                "NetworkInterfaceId": row.id,
                "MacAddress": row.mac,
                "PrimaryIpAddress": str(row.primary),
                "SubnetId": row.subnet_id,
                "VpcId": row.vpc_id,
                "SecurityGroupIds": list(row.groups),
                "Type": row.kind,
                "Ipv6Addresses": [],
            }
            for row in interfaces
            if row.status == "InUse"
        ],
        "MetadataOptions": {"HttpTokens": world.faults.metadata_token},
        "Tags": tag_fields(instance.tags),
        "CreatedAt": stamp(instance.created),
        "UpdatedAt": stamp(instance.created),
    }


def _type_fields(world: World, kind: InstanceType) -> Fields:
    faults = world.faults
    return {
        "InstanceTypeId": kind.id,
        "InstanceTypeFamily": kind.id.rpartition(".")[0],
        "Network": {
            "MaximumNetworkInterfaces": kind.interfaces if faults.instance_quota is None else faults.instance_quota,
            "MaximumPrivateIpv4AddressesPerNetworkInterface": (
                kind.addresses_per_interface if faults.ips_per_eni is None else faults.ips_per_eni
            ),
            "BaselineBandwidthMbps": 25_000,
            "MaximumBandwidthMbps": 25_000,
            "MaximumQueuesPerNetworkInterface": 16,
            "MaximumThroughputKpps": 6_000,
        },
    }


ACTIONS = {
    "DescribeInstances": Action(
        describe_instances,
        f"InstanceIds.N InstanceName VpcId ZoneId Status ProjectName MaxResults NextToken {TAG_FILTERS}",
    ),
    "DescribeInstanceTypes": Action(
        describe_instance_types, "InstanceTypeIds.N InstanceTypes.N ImageId MaxResults NextToken"
    ),
}

STS_ACTIONS = {"GetCallerIdentity": Action(get_caller_identity, "")}
