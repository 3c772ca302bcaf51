"""The life of an interface, through the real SDK."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from cocoon_net.clock import ManualClock
from cocoon_net.lab.cloud import Seed


def test_all_states_are_passed_when_transitions_take_time(start):
    clock = ManualClock(datetime.now(UTC))
    bench = start(clock=clock, faults={"state-latency": "10s"})
    subnet = bench.subnet()
    refused = bench.call.refusal("CreateNetworkInterface", SubnetId=subnet, SecurityGroupIds=[bench.group])
    assert refused == (400, "InvalidSubnet.InvalidStatus")
    clock.advance(10)
    key = bench.interface(subnet)
    where = {"NetworkInterfaceId": key, "InstanceId": bench.node1}
    assert bench.status(key) == "Creating"
    assert bench.call.refusal("AttachNetworkInterface", **where) == (400, "InvalidEni.InvalidStatus")
    clock.advance(10)
    assert bench.status(key) == "Available"
    bench.call("AttachNetworkInterface", **where)
    assert bench.status(key) == "Attaching"
    assert bench.call.refusal("DetachNetworkInterface", **where) == (400, "InvalidEni.InvalidStatus")
    assert bench.call.refusal("AssignPrivateIpAddresses", NetworkInterfaceId=key, SecondaryPrivateIpAddressCount=1) == (
        400,
        "InvalidEni.InvalidStatus",
    )
    clock.advance(10)
    assert bench.status(key) == "InUse"
    assert bench.show(key)["DeviceId"] == bench.node1
    bench.call("DetachNetworkInterface", **where)
    assert bench.status(key) == "Detaching"
    assert bench.call.refusal("DeleteNetworkInterface", NetworkInterfaceId=key) == (400, "InvalidEni.InvalidStatus")
    clock.advance(10)
    assert bench.status(key) == "Available"
    assert bench.show(key)["DeviceId"] == ""
    bench.call("DeleteNetworkInterface", NetworkInterfaceId=key)
    assert bench.status(key) == "Deleting"
    clock.advance(10)
    gone = ("DescribeNetworkInterfaceAttributes", "DeleteNetworkInterface")
    assert [bench.call.refusal(action, NetworkInterfaceId=key) for action in gone] == [
        (404, "InvalidEniId.NotFound")
    ] * 2
    bench.fault(**{"gone-describe": "empty"})
    assert set(bench.show(key)) == {"RequestId"}


def test_without_latency_the_next_describe_sees_the_end_of_each_transition(bench):
    subnet = bench.subnet()
    assert bench.call("DescribeVpcs")["Vpcs"][0]["Status"] == "Available"
    key = bench.interface(subnet)
    assert bench.status(key) == "Available"
    bench.call("AttachNetworkInterface", NetworkInterfaceId=key, InstanceId=bench.node1)
    assert bench.status(key) == "InUse"


def test_the_guides_node_gets_seven_interfaces_and_140_addresses_and_not_one_more(bench):
    subnet = bench.subnet()
    pool = set()
    for _ in range(7):
        key = bench.attached(subnet)
        assign = {"NetworkInterfaceId": key, "SecondaryPrivateIpAddressCount": 20}
        answer = bench.call("AssignPrivateIpAddresses", **assign)
        pool |= set(answer["PrivateIpSet"])
        assert bench.call.refusal("AssignPrivateIpAddresses", **{**assign, "SecondaryPrivateIpAddressCount": 1}) == (
            400,
            "LimitExceeded.PrivateIpsPerEni",
        )
    assert len(pool) == 140
    assert not {"172.20.100.0", "172.20.100.1", "172.20.100.255"} & pool
    spare = bench.interface(subnet)
    refused = bench.call.refusal("AttachNetworkInterface", NetworkInterfaceId=spare, InstanceId=bench.node1)
    assert refused == (400, "LimitExceeded.EnisPerInstance")
    shown = bench.call("DescribeSubnetAttributes", SubnetId=subnet)
    assert (shown["TotalIpv4Count"], shown["AvailableIpAddressCount"]) == (253, 253 - 148)
    (instance,) = bench.call("DescribeInstances", "ecs", InstanceIds=[bench.node1])["Instances"]
    assert (instance["Status"], len(instance["NetworkInterfaces"])) == ("RUNNING", 8)
    (kind,) = bench.call("DescribeInstanceTypes", "ecs", InstanceTypeIds=[instance["InstanceTypeId"]])["InstanceTypes"]
    assert kind["Network"]["MaximumNetworkInterfaces"] == 8
    assert kind["Network"]["MaximumPrivateIpv4AddressesPerNetworkInterface"] == 21


def test_a_smaller_quota_is_both_said_and_enforced(bench):
    bench.fault(**{"instance-quota": "2", "ips-per-eni": "3"})
    subnet = bench.subnet()
    crowded = bench.interface(subnet, SecondaryPrivateIpAddressCount=3)
    refused = bench.call.refusal("AttachNetworkInterface", NetworkInterfaceId=crowded, InstanceId=bench.node1)
    assert refused == (400, "LimitExceeded.PrivateIpsPerEni")
    bench.attached(subnet)
    spare = bench.interface(subnet)
    refused = bench.call.refusal("AttachNetworkInterface", NetworkInterfaceId=spare, InstanceId=bench.node1)
    assert refused == (400, "LimitExceeded.EnisPerInstance")
    (kind,) = bench.call("DescribeInstanceTypes", "ecs")["InstanceTypes"]
    assert kind["Network"]["MaximumNetworkInterfaces"] == 2


def test_a_detached_interface_holds_49_secondary_addresses(bench):
    key = bench.interface(bench.subnet(), SecondaryPrivateIpAddressCount=49)
    refused = bench.call.refusal("AssignPrivateIpAddresses", NetworkInterfaceId=key, SecondaryPrivateIpAddressCount=1)
    assert refused == (400, "LimitExceeded.PrivateIpsPerEni")


def test_addresses_can_be_chosen_and_given_back(bench):
    subnet = bench.subnet()
    key = bench.interface(subnet, PrimaryIpAddress="172.20.100.50", PrivateIpAddress=["172.20.100.2", "172.20.100.60"])
    listed = bench.show(key)["PrivateIpSets"]["PrivateIpSet"]
    assert [(each["PrivateIpAddress"], each["Primary"]) for each in listed] == [
        ("172.20.100.50", True),
        ("172.20.100.2", False),
        ("172.20.100.60", False),
    ]
    for taken, code in [
        ("172.20.100.1", "InvalidPrivateIp.InUse"),
        ("172.20.100.60", "InvalidPrivateIp.InUse"),
        ("172.20.101.5", "InvalidPrivateIp.Malformed"),
        ("nonsense", "InvalidPrivateIp.Malformed"),
    ]:
        refused = bench.call.refusal("AssignPrivateIpAddresses", NetworkInterfaceId=key, PrivateIpAddress=[taken])
        assert refused == (400, code)
    bench.call("UnassignPrivateIpAddresses", NetworkInterfaceId=key, PrivateIpAddress=["172.20.100.60"])
    assert [each["PrivateIpAddress"] for each in bench.show(key)["PrivateIpSets"]["PrivateIpSet"]] == [
        "172.20.100.50",
        "172.20.100.2",
    ]
    for address in ("172.20.100.60", "172.20.100.50"):
        assert bench.call.refusal("UnassignPrivateIpAddresses", NetworkInterfaceId=key, PrivateIpAddress=[address]) == (
            400,
            "InvalidPrivateIp.Malformed",
        )


def test_an_unchosen_primary_never_takes_a_chosen_secondary(bench):
    key = bench.interface(bench.subnet(), PrivateIpAddress=["172.20.100.2"])
    assert bench.show(key)["PrimaryIpAddress"] == "172.20.100.3"


def test_a_full_subnet_says_so_and_nothing_is_taken(bench):
    small = bench.subnet("172.20.100.0/29")
    key = bench.interface(small, SecondaryPrivateIpAddressCount=3)
    refused = bench.call.refusal("AssignPrivateIpAddresses", NetworkInterfaceId=key, SecondaryPrivateIpAddressCount=2)
    assert refused == (400, "InsufficientIpInSubnet")
    assert bench.call("DescribeSubnetAttributes", SubnetId=small)["AvailableIpAddressCount"] == 1
    bench.fault(**{"subnet-free": "4"})
    refused = bench.call.refusal("CreateNetworkInterface", SubnetId=small, SecurityGroupIds=[bench.group])
    assert refused == (400, "InsufficientIpInSubnet")


def test_what_belongs_to_the_instance_or_to_a_service_stays(bench):
    interfaces = bench.call("DescribeNetworkInterfaces", InstanceId=bench.node1)["NetworkInterfaceSets"]
    (primary,) = [row["NetworkInterfaceId"] for row in interfaces if row["Type"] == "primary"]
    (managed,) = bench.admin.plant_interface(instance="node1", service_managed=True)
    for key in (primary, managed):
        where = {"NetworkInterfaceId": key, "InstanceId": bench.node1}
        assert bench.call.refusal("DetachNetworkInterface", **where) == (403, "Forbidden")
        assert bench.call.refusal("DeleteNetworkInterface", NetworkInterfaceId=key) == (403, "Forbidden")
    assert bench.show(managed)["DeviceId"] == ""


def test_attach_and_detach_look_where(bench):
    subnet = bench.subnet()
    elsewhere = bench.call("CreateSubnet", VpcId=bench.vpc, CidrBlock="172.20.101.0/24", ZoneId="cn-hongkong-b")
    stranger = bench.interface(elsewhere["SubnetId"])
    refused = bench.call.refusal("AttachNetworkInterface", NetworkInterfaceId=stranger, InstanceId=bench.node1)
    assert refused == (400, "InvalidEni.ZoneMismatch")
    refused = bench.call.refusal("AttachNetworkInterface", NetworkInterfaceId=stranger, InstanceId="i-none")
    assert refused == (404, "InvalidInstance.NotFound")
    key = bench.attached(subnet)
    other = bench.cloud.instance_id("node2")
    refused = bench.call.refusal("DetachNetworkInterface", NetworkInterfaceId=key, InstanceId=other)
    assert refused == (400, "InvalidEni.InstanceMismatch")


@pytest.mark.parametrize(
    ("parameters", "answer"),
    [
        ({}, (400, "MissingParameter")),
        ({"SubnetId": "subnet-none", "SecurityGroupIds": ["sg"]}, (404, "InvalidSubnet.NotFound")),
    ],
)
def test_create_refuses_what_it_cannot_place(bench, parameters, answer):
    assert bench.call.refusal("CreateNetworkInterface", **parameters) == answer


def test_create_wants_known_security_groups(bench):
    subnet = bench.subnet()
    assert bench.call.refusal("CreateNetworkInterface", SubnetId=subnet) == (400, "MissingParameter")
    refused = bench.call.refusal("CreateNetworkInterface", SubnetId=subnet, SecurityGroupIds=["sg-none"])
    assert refused == (404, "InvalidSecurityGroupId.NotFound")
    refused = bench.call.refusal("CreateNetworkInterface", SubnetId=subnet, SecurityGroupIds=[bench.group] * 6)
    assert refused == (400, "QuotaExceeded.EniSecurityGroup")


def test_a_client_token_makes_one_interface_however_often_it_is_sent(bench):
    subnet = bench.subnet()
    first = bench.interface(subnet, ClientToken="t", NetworkInterfaceName="one")
    assert bench.interface(subnet, ClientToken="t", NetworkInterfaceName="one") == first
    refused = bench.call.refusal(
        "CreateNetworkInterface",
        SubnetId=subnet,
        SecurityGroupIds=[bench.group],
        ClientToken="t",
        NetworkInterfaceName="two",
    )
    assert refused == (400, "IdempotentParameterMismatch")
    assign = {"NetworkInterfaceId": first, "SecondaryPrivateIpAddressCount": 5, "ClientToken": "a"}
    once, twice = (bench.call("AssignPrivateIpAddresses", **assign)["PrivateIpSet"] for _ in range(2))
    assert once == twice
    assert len(bench.show(first)["PrivateIpSets"]["PrivateIpSet"]) == 6


def test_a_refused_call_does_not_use_its_token_up(bench):
    bench.fault(**{"fail.CreateSubnet": "InternalError@500,1"})
    arguments = {"VpcId": bench.vpc, "CidrBlock": "172.20.100.0/24", "ZoneId": "cn-hongkong-a", "ClientToken": "t"}
    assert bench.call.refusal("CreateSubnet", **arguments) == (500, "InternalError")
    assert bench.call("CreateSubnet", **arguments)["SubnetId"]


def test_filters_find_what_is_tagged_named_or_attached(bench):
    subnet = bench.subnet()
    ours = bench.interface(subnet, Tags=[{"Key": "owner", "Value": "us"}], NetworkInterfaceName="ours")
    bench.admin.plant_interface(tags={"owner": "them"}, count=2)

    def found(**filters: object) -> list[str]:
        rows = bench.call("DescribeNetworkInterfaces", **filters)["NetworkInterfaceSets"]
        return [row["NetworkInterfaceId"] for row in rows]

    assert found(TagFilters=[{"Key": "owner", "Values": ["us"]}]) == [ours]
    assert len(found(TagFilters=[{"Key": "owner", "Values": ["us", "them"]}])) == 3
    assert found(TagFilters=[{"Key": "owner"}, {"Key": "nothing"}]) == []
    assert found(SubnetId=subnet) == found(NetworkInterfaceName="ours") == [ours]
    assert found(VpcId=bench.vpc, PrivateIpAddresses=["172.20.100.2"]) == [ours]
    assert bench.call.refusal("DescribeNetworkInterfaces", PrivateIpAddresses=["172.20.100.2"])[0] == 400
    assert len(found(InstanceId=bench.node1)) == 1


def test_tags_come_and_go(bench):
    key = bench.interface(bench.subnet())
    bench.call("TagResources", ResourceType="eni", ResourceIds=[key], Tags=[{"Key": "a", "Value": "1"}, {"Key": "b"}])
    listed = bench.call("ListTagsForResources", ResourceType="eni", ResourceIds=[key])["ResourceTags"]
    assert [(row["TagKey"], row["TagValue"]) for row in listed] == [("a", "1"), ("b", "")]
    bench.call("UntagResources", ResourceType="eni", ResourceIds=[key], TagKeys=["a"])
    assert bench.show(key)["Tags"] == [{"Key": "b", "Value": ""}]
    refused = bench.call.refusal("TagResources", ResourceType="eni", ResourceIds=["eni-none"], Tags=[{"Key": "a"}])
    assert refused[0] == 404


def test_a_mistyped_parameter_is_ignored_and_remembered(bench):
    bench.call("DescribeNetworkInterfaces", InstanceID=bench.node1, TagFilters=[{"Key": "a"}])
    assert bench.admin.calls()[-1]["unknown"] == ["InstanceID"]


def test_eight_threads_make_forty_interfaces_with_addresses_of_their_own(bench, sdk):
    subnet = bench.subnet()

    def make(number: int) -> str:
        own = sdk(bench.cloud.endpoint, bench.cloud.access_key, bench.cloud.secret_key)
        return own(
            "CreateNetworkInterface",
            SubnetId=subnet,
            SecurityGroupIds=[bench.group],
            SecondaryPrivateIpAddressCount=2,
            NetworkInterfaceName=f"n{number}",
        )["NetworkInterfaceId"]

    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(make, range(40)))
    rows = [row for row in bench.admin.state()["interfaces"] if row["id"] in keys]
    addresses = [address for row in rows for address in (row["primary"], *row["secondaries"])]
    assert len(set(keys)) == 40
    assert len(addresses) == len(set(addresses)) == 120
    assert len({row["mac"] for row in rows}) == 40


def test_another_region_is_empty(bench, sdk):
    far = sdk(bench.cloud.endpoint, bench.cloud.access_key, bench.cloud.secret_key, region="cn-beijing")
    assert far("DescribeVpcs")["Vpcs"] == []
    assert far.refusal("DescribeVpcAttributes", VpcId=bench.vpc) == (404, "InvalidVpc.NotFound")


def test_unknown_services_and_actions_are_refused(bench):
    assert bench.call.refusal("DescribeVpcs", "nosuch") == (404, "ServiceNotFound")
    assert bench.call.refusal("DescribeNothing") == (404, "InvalidActionOrVersion")
    assert bench.call("GetCallerIdentity", "sts")["AccountId"]


def test_more_than_a_page_of_interfaces_is_listed_page_by_page(start):
    bench = start(seed=Seed(other_interfaces=230, other_subnets=120))
    seen, token, pages = [], "", 0
    while token or not pages:
        more = {"NextToken": token} if token else {}
        answer = bench.call("DescribeNetworkInterfaces", MaxResults=100, **more)
        seen += [row["NetworkInterfaceId"] for row in answer["NetworkInterfaceSets"]]
        token, pages = answer["NextToken"], pages + 1
    assert (len(seen), len(set(seen)), pages) == (233, 233, 3)
    legacy = [len(bench.call("DescribeSubnets", PageNumber=number, PageSize=50)["Subnets"]) for number in (1, 2, 3, 4)]
    assert legacy == [50, 50, 21, 0]
    assert len(bench.call("DescribeSubnets")["Subnets"]) == 10
    assert bench.call.refusal("DescribeSubnets", MaxResults=101) == (400, "InvalidParameter")
    assert bench.call.refusal("DescribeSubnets", NextToken="%%%") == (400, "InvalidParameter")


def test_an_object_that_vanishes_between_pages_hides_no_other(bench):
    bench.admin.plant_interface(count=20)
    first = bench.call("DescribeNetworkInterfaces", MaxResults=10)
    seen = [row["NetworkInterfaceId"] for row in first["NetworkInterfaceSets"]]
    doomed = next(row for row in first["NetworkInterfaceSets"] if row["Status"] == "Available")
    bench.call("DeleteNetworkInterface", NetworkInterfaceId=doomed["NetworkInterfaceId"])
    rest = bench.call("DescribeNetworkInterfaces", MaxResults=100, NextToken=first["NextToken"])
    seen += [row["NetworkInterfaceId"] for row in rest["NetworkInterfaceSets"]]
    assert len(seen) == len(set(seen)) == 23


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "application/json"])
def test_a_post_is_understood_too(bench, content_type):
    tags = [{"Key": "owner", "Value": "us"}]
    created = bench.call(
        "CreateSubnet",
        method="POST",
        content_type=content_type,
        VpcId=bench.vpc,
        CidrBlock="172.20.100.0/24",
        ZoneId="cn-hongkong-a",
        Tags=tags,
    )
    assert bench.call("DescribeSubnetAttributes", SubnetId=created["SubnetId"])["Tags"] == tags
