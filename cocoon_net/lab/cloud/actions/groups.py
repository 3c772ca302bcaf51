"""Security groups: Describe them, and Authorize or Revoke a rule."""

from __future__ import annotations

from dataclasses import replace

from cocoon_net.lab.cloud.actions.action import PAGING, TAG_FILTERS, Action
from cocoon_net.lab.cloud.actions.listing import among, matches, matches_tags, page, tag_fields
from cocoon_net.lab.cloud.records import Group, Rule
from cocoon_net.lab.cloud.wire import ApiError, Call, Fields, invalid, missing, network, stamp
from cocoon_net.lab.cloud.world import World, new_id

_RULE = "SecurityGroupId* Protocol* PortStart* PortEnd* CidrIp SourceGroupId PrefixListId Policy Priority Description"


def describe_security_groups(world: World, call: Call) -> Fields:
    """List security groups; the account's default group comes first, whoever uses it."""
    rows = [
        row
        for row in world.groups.read()
        if among(call, "SecurityGroupIds", [row.id])
        and among(call, "SecurityGroupNames", [row.name])
        and matches(call, VpcId=row.vpc_id)
        and matches_tags(call, row.tags)
    ]
    shown, paging = page(call, rows)
    return {"SecurityGroups": [_fields(world, row) for row in shown], **paging}


def describe_security_group_attributes(world: World, call: Call) -> Fields:
    """Show one security group with its rules; 404 InvalidSecurityGroupId.NotFound."""
    wanted = call.required("SecurityGroupId")
    for row in world.groups.read():
        if row.id == wanted:
            rules = [
                _rule_fields(rule)
                for rule in row.rules
                if matches(
                    call,
                    Direction=rule.direction,
                    Protocol=rule.protocol,
                    CidrIp=str(rule.cidr) if rule.cidr is not None else None,
                    SourceGroupId=rule.source_group,
                )
            ]
            return {**_fields(world, row), "Permissions": rules}
    raise _not_found()


def authorize_security_group_ingress(world: World, call: Call) -> Fields:
    """Add one ingress rule; 409 InvalidSecurityRule.Conflict if it is there."""
    group = _group_of(world, call.required("SecurityGroupId"))
    rule = _parse_rule(world, call)
    if any(rule.same(other) for other in group.rules):
        raise ApiError("InvalidSecurityRule.Conflict", "The specified security group rule exists already.", 409)
    world.groups.put(replace(group, rules=(*group.rules, rule), updated=call.now))
    return {}


def revoke_security_group_ingress(world: World, call: Call) -> Fields:
    """Remove one ingress rule, given by its content; 404 InvalidSecurityRule.NotFound if it is not there."""
    group = _group_of(world, call.required("SecurityGroupId"))
    rule = _parse_rule(world, call)
    kept = tuple(other for other in group.rules if not rule.same(other))
    if len(kept) == len(group.rules):
        raise ApiError("InvalidSecurityRule.NotFound", "The specified security group rule does not exist.", 404)
    world.groups.put(replace(group, rules=kept, updated=call.now))
    return {}


def _parse_rule(world: World, call: Call) -> Rule:
    protocol = call.required("Protocol").lower()
    match protocol:
        case "tcp" | "udp":
            start, end = call.integer("PortStart", 1, 65535), call.integer("PortEnd", 1, 65535)
        case "icmp" | "icmpv6" | "all":
            start, end = call.integer("PortStart", -1, -1), call.integer("PortEnd", -1, -1)
        case _:
            raise invalid("Protocol", "tcp, udp, icmp, icmpv6 or all")
    if start is None or end is None or start > end:
        raise invalid("PortStart", "a number that is not above PortEnd")
    policy = call.text("Policy", "accept")
    if policy not in ("accept", "drop"):
        raise invalid("Policy", "accept or drop")
    cidr, source = call.text("CidrIp"), call.text("SourceGroupId")
    if not cidr and not source:
        raise missing("CidrIp")
    if not cidr and world.groups.get(source) is None:
        raise _not_found()
    return Rule(
        id=new_id("sgr"),
        direction="ingress",
        protocol=protocol,
        port_start=start,
        port_end=end,
        cidr=network("CidrIp", cidr) if cidr else None,
        source_group=None if cidr else source,
        policy=policy,
        priority=call.integer("Priority", 1, 100) or 1,
        description=call.text("Description"),
        created=call.now,
    )


def _group_of(world: World, group_id: str) -> Group:
    group = world.groups.get(group_id)
    if group is None:
        raise _not_found()
    if group.status != "Available":
        raise ApiError("InvalidSecurityGroup.InvalidStatus", "The security group is not in the correct status.")
    return group


def _not_found() -> ApiError:
    return ApiError("InvalidSecurityGroupId.NotFound", "The specified security group does not exist.", 404)


def _fields(world: World, group: Group) -> Fields:
    members = [row for row in world.interfaces.all() if group.id in row.groups]
    addresses = sum(len(row.addresses) for row in members)
    return {
        "SecurityGroupId": group.id,
        "SecurityGroupName": group.name,
        "VpcId": group.vpc_id,
        "AccountId": world.account,
        "Description": group.description,
        "ProjectName": "default",
        "Status": group.status,
        "Type": group.kind,
        "ServiceManaged": False,
        "UsedIpCount": addresses,
        "AvailableIpCount": max(0, 2000 - addresses),
        "UsedNetworkInterfaceCount": len(members),
        "AvailableNetworkInterfaceCount": max(0, 2000 - len(members)),
        "Tags": tag_fields(group.tags),
        "CreationTime": stamp(group.created),
        "UpdateTime": stamp(group.updated),
    }


def _rule_fields(rule: Rule) -> Fields:
    return {
        "SecurityGroupRuleId": rule.id,
        "Direction": rule.direction,
        "Protocol": rule.protocol,
        "PortStart": rule.port_start,
        "PortEnd": rule.port_end,
        "CidrIp": str(rule.cidr) if rule.cidr is not None else "",
        "SourceGroupId": rule.source_group or "",
        "PrefixListId": "",
        "PrefixListCidrs": [],
        "Policy": rule.policy,
        "Priority": rule.priority,
        "Description": rule.description,
        "CreationTime": stamp(rule.created),
        "UpdateTime": stamp(rule.created),
    }


ACTIONS = {
    "DescribeSecurityGroups": Action(
        describe_security_groups,
        f"ProjectName SecurityGroupIds.N SecurityGroupNames.N VpcId {TAG_FILTERS} {PAGING}",
    ),
    "DescribeSecurityGroupAttributes": Action(
        describe_security_group_attributes,
        "SecurityGroupId* CidrIp Direction PrefixListId Protocol SourceGroupId",
    ),
    "AuthorizeSecurityGroupIngress": Action(authorize_security_group_ingress, f"{_RULE} ClientToken", writes=True),
    "RevokeSecurityGroupIngress": Action(revoke_security_group_ingress, _RULE, writes=True),
}
