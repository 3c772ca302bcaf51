from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from cocoon_net.engine.model import Change, Origin, Row, Verb
from cocoon_net.engine.workflow import load
from cocoon_net.errors import CloudError, CloudGone, CloudTransient, Unsupported
from cocoon_net.records import IngressRule, Interface, Subnet
from cocoon_net.steps import STEPS

VPC = IPv4Network("172.20.0.0/16")


@pytest.fixture
def node(node_of):
    return node_of()


def group(node):
    return node.instance.security_groups[0]


def key(node):
    return f"{group(node)}/{VPC}"


def wanted(node):
    return {key(node): IngressRule(group(node), VPC)}


def write(node, cidr=str(VPC), policy="accept", priority=1, description="", protocol="all", port=-1):
    """Write a rule as an operator would in the console."""
    node.inventories["ingress"]._client.call(
        "AuthorizeSecurityGroupIngress",
        {
            "SecurityGroupId": group(node),
            "Protocol": protocol,
            "PortStart": port,
            "PortEnd": port,
            "CidrIp": cidr,
            "Policy": policy,
            "Priority": priority,
            **({"Description": description} if description else {}),
        },
    )


def rules(node):
    (mine,) = [each for each in node.cloud.admin.state()["groups"] if each["id"] == group(node)]
    return [rule for rule in mine["rules"] if rule["direction"] == "ingress"]


def test_it_is_written_with_our_mark_and_goes_again(node):
    before = rules(node)
    assert node.look("ingress") == {}
    assert node.reach("ingress", wanted(node))[key(node)].ours is True
    (added,) = [rule for rule in rules(node) if rule not in before]
    assert added["description"].startswith("cocoon-net")
    assert (added["cidr"], added["protocol"], added["policy"]) == (str(VPC), "all", "accept")
    drop = Change("ingress", key(node), Verb.DELETE, None, IngressRule(group(node), VPC, ours=True))
    node.apply(drop)
    assert rules(node) == before
    assert node.apply(drop) == {"id": group(node)}  # a missing one is success


def test_one_that_was_written_meanwhile_is_success(node):
    create = Change("ingress", key(node), Verb.CREATE, wanted(node)[key(node)], None)
    write(node)
    assert node.apply(create) == {"id": group(node)}  # InvalidSecurityRule.Conflict


def test_a_lost_reply_writes_one_rule(node):
    node.cloud.admin.set_faults({"lose": "AuthorizeSecurityGroupIngress"})
    create = Change("ingress", key(node), Verb.CREATE, wanted(node)[key(node)], None)
    with pytest.raises(CloudTransient):
        node.apply(create)
    node.apply(create)
    assert [rule["cidr"] for rule in rules(node)].count(str(VPC)) == 1


@pytest.mark.parametrize(("cidr", "ours"), [("0.0.0.0/0", False), ("172.16.0.0/12", False), (str(VPC), None)])
def test_a_rule_of_the_operator_s_that_covers_ours_is_enough(node, cidr, ours):
    write(node, cidr)
    seen = node.reach("ingress", wanted(node))
    assert seen[key(node)].ours is ours
    assert sum(rule["protocol"] == "all" and rule["cidr"] == cidr for rule in rules(node)) == 1


@pytest.mark.parametrize("odd", [{"cidr": "172.20.0.0/17"}, {"protocol": "tcp", "port": 3389}])
def test_a_narrower_rule_is_not_enough(node, odd):
    write(node, **odd)
    assert node.look("ingress") == {}
    node.reach("ingress", wanted(node))


def test_the_operator_s_rule_is_never_removed(node):
    write(node)
    claim = Change("ingress", key(node), Verb.DELETE, None, IngressRule(group(node), VPC, ours=True))
    with pytest.raises(CloudError, match="carries no mark"):
        node.apply(claim)
    assert str(VPC) in {rule["cidr"] for rule in rules(node)}
    node.ledger["ingress", key(node)] = Row("ingress", key(node), Origin.FOUND, IngressRule(group(node), VPC))
    with pytest.raises(CloudError, match="carries no mark"):
        node.apply(claim)
    # ... but one that the ledger says we wrote, and that only lost its description, is.
    node.ledger["ingress", key(node)] = Row("ingress", key(node), Origin.CREATED, IngressRule(group(node), VPC))
    node.apply(claim)
    assert str(VPC) not in {rule["cidr"] for rule in rules(node)}


def test_our_rule_goes_and_the_operator_s_wider_one_stays(node):
    node.reach("ingress", wanted(node))
    write(node, "0.0.0.0/0")
    seen = node.look("ingress")[key(node)]
    assert seen.ours is True
    node.apply(Change("ingress", key(node), Verb.DELETE, None, seen))
    assert node.look("ingress")[key(node)].ours is False


@pytest.mark.parametrize("cidr", [str(VPC), "0.0.0.0/0", "172.20.5.0/24"])
def test_a_drop_before_ours_is_told_and_left_alone(node, cidr):
    write(node, cidr, policy="drop")
    with pytest.raises(Unsupported, match=f"drops what comes from {cidr}") as caught:
        node.reach("ingress", wanted(node))
    assert "--security-group" in caught.value.hint
    assert str(VPC) not in {rule["cidr"] for rule in rules(node) if rule["policy"] == "accept"}


def test_a_drop_that_came_later_is_drift_and_does_not_keep_our_rule_from_going(node):
    node.reach("ingress", wanted(node))
    write(node, policy="drop")
    seen = node.look("ingress")[key(node)]
    assert seen != wanted(node)[key(node)] and seen.ours is True
    with pytest.raises(Unsupported):
        node.reach("ingress", wanted(node))
    node.reach("ingress", {})
    assert {rule["policy"] for rule in rules(node) if rule["cidr"] == str(VPC)} == {"drop"}


def test_a_drop_behind_an_accept_does_not_matter(node):
    write(node, policy="drop", priority=50)
    assert node.reach("ingress", wanted(node))[key(node)].ours is True


def test_two_nodes_share_the_rule_and_the_last_one_out_removes_it(node, node_of):
    node, other = two_nodes(node, node_of)
    assert node.look("ingress")[key(node)].ours is False  # the other one's interface is in the group
    assert other.look("ingress")[key(node)].ours is False
    assert (node.look("ingress")[key(node)].owner, other.look("ingress")[key(node)].owner) == ("other", "pool")
    node.reach("enis", {})
    assert node.look("ingress")[key(node)].ours is False
    assert other.look("ingress")[key(node)].ours is True
    other.reach("ingress", {})
    assert str(VPC) not in {rule["cidr"] for rule in rules(node)}


def two_nodes(node, node_of):
    """Return two nodes that have an interface each in the group, and the rule that they share."""
    other = node_of("node2", "other", "172.20.101.0/24")
    for each in (node, other):
        each.reach("subnet", {"subnet": Subnet(each.spec.subnet, each.instance.zone)})
        each.reach("enis", {"eni-1": Interface(each.spec.subnet, tuple(each.instance.security_groups))})
    node.reach("ingress", wanted(node))
    return node, other


def leave(each):
    """Take the step ``ingress`` of a teardown: remove the rule where it is ours alone."""
    each.reach("ingress", {key: record for key, record in each.look("ingress").items() if not record.ours})


def test_two_nodes_torn_down_at_one_moment_leave_no_rule(node, node_of):
    """Both delete their interfaces before they look for those of others, in the order of the workflow."""
    nodes = two_nodes(node, node_of)
    steps = [stage.name for stage in load("teardown", STEPS).stages if stage.name in ("enis", "ingress")]
    together = threading.Barrier(len(nodes))

    def tear_down(each):
        for step in steps:
            together.wait(5)
            each.reach("enis", {}) if step == "enis" else leave(each)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(tear_down, nodes))
    assert str(VPC) not in {rule["cidr"] for rule in rules(node)}


def test_one_whose_interfaces_are_about_to_go_keeps_the_rule_for_nobody(node, node_of):
    node, other = two_nodes(node, node_of)
    node.reach("enis", {})
    other.cloud.admin.set_faults({"state-latency": "30s"})
    other.apply(Change("enis", "eni-1", Verb.DELETE, None, other.ledger["enis", "eni-1"].record))
    assert node.look("ingress")[key(node)].ours is True


def test_a_node_that_came_between_look_and_act_keeps_the_rule(node, node_of):
    node, other = two_nodes(node, node_of)
    for each in (node, other):
        each.reach("enis", {})
    seen = node.look("ingress")[key(node)]
    assert seen.ours is True
    other.reach("enis", {"eni-2": Interface(other.spec.subnet, tuple(other.instance.security_groups))})
    with pytest.raises(CloudTransient, match="another node has begun"):
        node.apply(Change("ingress", key(node), Verb.DELETE, None, seen))
    leave(node)
    assert str(VPC) in {rule["cidr"] for rule in rules(node)}


def test_a_rule_of_ours_for_another_block_is_seen_too(node):
    write(node, "10.0.0.0/8", description="cocoon-net VPC internal")
    assert node.look("ingress") == {f"{group(node)}/10.0.0.0/8": IngressRule(group(node), IPv4Network("10.0.0.0/8"))}


def test_a_group_that_does_not_exist_is_no_group_without_rules(node_of):
    node = node_of()
    node.instance = replace(node.instance, security_groups=("sg-x",))
    with pytest.raises(CloudGone):
        node.look("ingress")


def test_no_group_at_all(node):
    node.instance = replace(node.instance, security_groups=())
    with pytest.raises(CloudError, match="in no security group"):
        node.look("ingress")


def test_a_look_costs_one_call_and_a_second_where_the_rule_is_ours(node):
    node.calls()
    node.look("ingress")
    assert node.calls() == {"DescribeSecurityGroupAttributes": 1}
    node.reach("ingress", wanted(node))
    node.calls()
    node.look("ingress")
    assert node.calls() == {"DescribeNetworkInterfaces": 1, "DescribeSecurityGroupAttributes": 1}


def test_one_other_node_is_enough_among_hundreds_of_interfaces(node):
    """A group that 200 nodes share has 1400 members: a look must not page through them."""
    node.reach("ingress", wanted(node))
    node.instance = replace(node.instance, security_groups=(default_group(node),))
    tags = {"cocoon-net:product": "cocoon-net", "cocoon-net:node": "other"}
    node.cloud.admin.plant_interface(count=250, tags=tags)
    node.reach("ingress", wanted(node))
    node.calls()
    assert node.look("ingress")[key(node)].ours is False
    assert node.calls()["DescribeNetworkInterfaces"] == 1


def default_group(node):
    """Return the group that planted interfaces are in."""
    (found,) = [each["id"] for each in node.cloud.admin.state()["groups"] if each["kind"] == "DefaultSG"]
    return found
