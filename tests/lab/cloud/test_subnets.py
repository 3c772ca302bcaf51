"""Subnets: where they may lie, and what else must wait while one is made."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cocoon_net.clock import ManualClock


def test_the_vpc_is_pending_while_a_subnet_is_made_and_removed(start):
    clock = ManualClock(datetime.now(UTC))
    bench = start(clock=clock, faults={"state-latency": "5s"})
    key = bench.subnet()
    assert bench.call("DescribeSubnetAttributes", SubnetId=key)["Status"] == "Pending"
    assert bench.call("DescribeVpcAttributes", VpcId=bench.vpc)["Status"] == "Pending"
    second = {"VpcId": bench.vpc, "CidrBlock": "172.20.101.0/24", "ZoneId": "cn-hongkong-a"}
    assert bench.call.refusal("CreateSubnet", **second) == (400, "InvalidVpc.InvalidStatus")
    clock.advance(5)
    assert bench.call("DescribeSubnetAttributes", SubnetId=key)["Status"] == "Available"
    assert bench.call("DescribeVpcAttributes", VpcId=bench.vpc)["Status"] == "Available"
    bench.call("DeleteSubnet", SubnetId=key)
    assert bench.call("DescribeSubnetAttributes", SubnetId=key)["Status"] == "Pending"
    clock.advance(5)
    assert bench.call.refusal("DescribeSubnetAttributes", SubnetId=key) == (404, "InvalidSubnet.NotFound")
    assert bench.call.refusal("DeleteSubnet", SubnetId=key) == (404, "InvalidSubnet.NotFound")


@pytest.mark.parametrize(
    ("cidr", "code"),
    [
        ("172.20.1.0/24", "InvalidCidr.Conflict"),  # the hosts' subnet is 172.20.0.0/20
        ("172.21.0.0/24", "InvalidCidr.Malformed"),
        ("172.20.100.0/30", "InvalidCidr.Malformed"),
        ("172.20.100.1/24", "InvalidCidr.Malformed"),
        ("nonsense", "InvalidCidr.Malformed"),
    ],
)
def test_a_block_that_does_not_fit_is_refused(bench, cidr, code):
    refused = bench.call.refusal("CreateSubnet", VpcId=bench.vpc, CidrBlock=cidr, ZoneId="cn-hongkong-a")
    assert refused == (400, code)


def test_other_reasons_to_refuse(bench):
    block = {"CidrBlock": "172.20.100.0/24", "VpcId": bench.vpc, "ZoneId": "cn-hongkong-a"}
    assert bench.call.refusal("CreateSubnet", **{**block, "VpcId": "vpc-none"}) == (404, "InvalidVpc.NotFound")
    assert bench.call.refusal("CreateSubnet", **{**block, "ZoneId": "mars-a"}) == (404, "InvalidZone.NotFound")
    bench.fault(**{"subnet-quota": "1"})
    assert bench.call.refusal("CreateSubnet", **block) == (400, "QuotaExceeded.Subnet")


def test_a_subnet_with_interfaces_stays(bench):
    key = bench.subnet()
    interface = bench.interface(key)
    assert bench.call.refusal("DeleteSubnet", SubnetId=key) == (400, "InvalidSubnet.InUse")
    bench.call("DeleteNetworkInterface", NetworkInterfaceId=interface)
    bench.call("DeleteSubnet", SubnetId=key)
    assert bench.call("DescribeSubnets", SubnetIds=[key])["Subnets"] == []


def test_a_planted_subnet_is_listed_with_its_tags(bench):
    key = bench.admin.plant_subnet("172.20.100.0/24", tags={"owner": "them"})
    (row,) = bench.call("DescribeSubnets", TagFilters=[{"Key": "owner", "Values": ["them"]}])["Subnets"]
    assert (row["SubnetId"], row["CidrBlock"]) == (key, "172.20.100.0/24")
