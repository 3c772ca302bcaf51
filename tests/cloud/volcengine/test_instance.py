from __future__ import annotations

from dataclasses import replace

import pytest

from cocoon_net.cloud.volcengine.instance import describe
from cocoon_net.cloud.volcengine.metadata import Metadata
from cocoon_net.errors import CloudError, CloudTransient, Refused
from cocoon_net.records import Subnet

OURS = {"cocoon-net:product": "cocoon-net", "cocoon-net:node": "pool"}
THEIRS = {"cocoon-net:product": "cocoon-net", "cocoon-net:node": "another"}


@pytest.fixture
def node(node_of):
    return node_of()


def client(node):
    return node.inventories["enis"]._client


def identity(node):
    return Metadata(node.cloud.metadata_url).identity()


def test_the_facts_of_a_fresh_node_take_two_calls_and_a_third_where_metadata_tells_less(node):
    node.calls()
    facts = node.platform.describe(node.spec)
    state = node.cloud.admin.state()
    (primary,) = [e for e in state["interfaces"] if e["instance_id"] == facts.instance_id]
    assert facts.instance_id == node.cloud.instance_id("node1")
    assert (facts.region, facts.zone) == ("cn-hongkong", "cn-hongkong-a")
    assert str(facts.vpc_cidr) == "172.20.0.0/16"
    assert (facts.primary_mac, facts.primary_interface_id) == (primary["mac"], primary["id"])
    assert str(facts.primary_address) == "172.20.9.230"
    assert facts.security_groups == tuple(primary["groups"])
    assert (facts.max_interfaces, facts.max_addresses, facts.used_interfaces) == (8, 21, 1)
    assert node.calls() == {
        "DescribeInstanceTypes": 1,
        "DescribeNetworkInterfaces": 1,
    }
    node.cloud.admin.set_faults({"metadata-trees": "hyphen"})
    assert node.platform.describe(node.spec).vpc_cidr == facts.vpc_cidr
    assert node.calls()["DescribeVpcs"] == 1


@pytest.mark.parametrize("told", ["", "10.0.0.0/33", "999.0.0.0/8", "10.0.0.1/8"])
def test_a_block_that_metadata_does_not_tell_is_asked_of_the_api(node, told):
    facts = describe(client(node), replace(identity(node), vpc_cidr=told), node.spec)
    assert str(facts.vpc_cidr) == "172.20.0.0/16"


def test_the_default_group_lists_first_and_is_not_taken(node):
    groups = {each["id"]: each for each in node.cloud.admin.state()["groups"]}
    (group,) = node.platform.describe(node.spec).security_groups
    assert groups[group]["kind"] != "DefaultSG"


def test_room_is_what_others_leave(node):
    node.reach("subnet", {"subnet": Subnet(node.spec.subnet, node.instance.zone)})
    plant = node.cloud.admin.plant_interface
    plant(instance="node1", name="in the hosts' subnet")
    plant(subnet="172.20.100.0/24", instance="node1", service_managed=True)
    plant(subnet="172.20.100.0/24", instance="node1", tags=THEIRS)
    plant(subnet="172.20.100.0/24", instance="node1", tags=OURS)
    plant(subnet="172.20.100.0/24", instance="node1", name="made by hand, may become ours")
    assert node.platform.describe(node.spec).used_interfaces == 4


def test_a_type_that_metadata_does_not_tell_is_asked_of_the_api(node):
    asked = replace(identity(node), instance_type="")
    facts = describe(client(node), asked, node.spec)
    assert facts.instance_type == "ecs.ebmg3.lab"
    assert facts.max_interfaces == 8


@pytest.mark.parametrize("hidden", ["DescribeInstanceTypes", "DescribeInstances"])
def test_limits_that_we_may_not_read_are_the_guide_s_with_a_warning(node, warnings, hidden):
    node.cloud.admin.set_faults({"instance-quota": "3", f"fail.{hidden}": "AccessDenied@403"})
    asked = replace(identity(node), instance_type="" if hidden == "DescribeInstances" else "ecs.ebmg3.lab")
    facts = describe(client(node), asked, node.spec)
    assert (facts.max_interfaces, facts.max_addresses) == (8, 21)
    assert "assuming 8 interfaces of 21 addresses" in "".join(warnings)


def test_limits_of_an_unknown_type_are_the_guide_s_with_a_warning(node, warnings):
    facts = describe(client(node), replace(identity(node), instance_type="ecs.new.type"), node.spec)
    assert facts.max_interfaces == 8
    assert "does not tell those of ecs.new.type" in "".join(warnings)


def test_trouble_while_reading_limits_is_not_taken_for_an_answer(node, warnings):
    node.cloud.admin.set_faults({"fail.DescribeInstanceTypes": "InternalError@500"})
    with pytest.raises(CloudTransient):
        node.platform.describe(node.spec)
    assert warnings == []


def test_an_instance_that_the_api_does_not_know_is_told_with_its_region(node):
    asked = replace(identity(node), instance_id="i-of-another-account")
    with pytest.raises(CloudError, match="knows no primary interface of i-of-another-account") as caught:
        describe(client(node), asked, node.spec)
    assert "VOLCENGINE_REGION" in caught.value.hint


def test_a_vpc_that_the_api_does_not_know(node):
    with pytest.raises(CloudError, match="does not know the VPC vpc-nowhere"):
        describe(client(node), replace(identity(node), vpc_id="vpc-nowhere", vpc_cidr=""), node.spec)


def test_without_permission_nothing_is_guessed(node):
    node.cloud.admin.set_faults({"fail.DescribeNetworkInterfaces": "LackPolicy@403"})
    with pytest.raises(Refused, match="LackPolicy"):
        node.platform.describe(node.spec)
