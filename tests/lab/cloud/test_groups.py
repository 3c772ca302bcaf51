"""Security groups: the first one listed is not ours, and the rule for the VPC has to be asked for."""

from __future__ import annotations

VPC_RULE = {"Protocol": "all", "PortStart": -1, "PortEnd": -1, "CidrIp": "172.20.0.0/16"}


def test_the_first_group_listed_is_a_decoy(bench):
    rows = bench.call("DescribeSecurityGroups", VpcId=bench.vpc, PageSize=1)["SecurityGroups"]
    assert [row["SecurityGroupName"] for row in rows] == ["Default"]
    primaries = bench.call("DescribeNetworkInterfaces", Type="primary")["NetworkInterfaceSets"]
    assert {group for row in primaries for group in row["SecurityGroupIds"]} == {bench.group}


def test_at_first_only_ssh_is_let_in(bench):
    shown = bench.call("DescribeSecurityGroupAttributes", SecurityGroupId=bench.group, Direction="ingress")
    rules = [(row["Protocol"], row["PortStart"], row["PortEnd"], row["CidrIp"]) for row in shown["Permissions"]]
    assert rules == [("tcp", 22, 22, "0.0.0.0/0")]


def test_a_rule_is_added_once_and_revoked_once(bench):
    rule = {"SecurityGroupId": bench.group, **VPC_RULE}
    bench.call("AuthorizeSecurityGroupIngress", **rule, Description="VPC internal all")
    assert bench.call.refusal("AuthorizeSecurityGroupIngress", **rule) == (409, "InvalidSecurityRule.Conflict")
    found = bench.call("DescribeSecurityGroupAttributes", SecurityGroupId=bench.group, CidrIp="172.20.0.0/16")
    assert [row["Description"] for row in found["Permissions"]] == ["VPC internal all"]
    bench.call("RevokeSecurityGroupIngress", **rule)
    assert bench.call.refusal("RevokeSecurityGroupIngress", **rule) == (404, "InvalidSecurityRule.NotFound")


def test_a_rule_that_makes_no_sense_is_refused(bench):
    rule = {"SecurityGroupId": bench.group, **VPC_RULE}
    for change, answer in [
        ({"Protocol": "gre"}, (400, "InvalidParameter")),
        ({"PortStart": 1}, (400, "InvalidParameter")),
        ({"Protocol": "tcp"}, (400, "InvalidParameter")),
        ({"CidrIp": "everything"}, (400, "InvalidCidr.Malformed")),
        ({"CidrIp": None}, (400, "MissingParameter")),
        ({"SecurityGroupId": "sg-none"}, (404, "InvalidSecurityGroupId.NotFound")),
    ]:
        assert bench.call.refusal("AuthorizeSecurityGroupIngress", **{**rule, **change}) == answer
