"""The rule of a security group that lets the VPC's hosts reach the VMs. Keys: ``<group>/<cidr>``.

Nodes of one VPC share the group and therefore the rule: it counts as ours only while no other node's interfaces use
the group, so that the last node to go takes it away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from cocoon_net.cloud.volcengine import eni as enis
from cocoon_net.cloud.volcengine.client import Client, objects
from cocoon_net.cloud.volcengine.eni import instance_of
from cocoon_net.cloud.volcengine.fence import fence_rule
from cocoon_net.cloud.volcengine.tags import NODE, OURS, filters
from cocoon_net.engine.model import Busy, Call, Change, Context, Seen, Verb, Via
from cocoon_net.errors import CloudError, CloudGone, CloudTransient, InvariantError, Unsupported
from cocoon_net.records import IngressRule

PRIORITY = 1
"""Of the rules that we write: the highest."""

HIDDEN = "none"
"""The protocol that a rule of ours lets in while another one drops all of its traffic first."""

_DESCRIBE = "DescribeSecurityGroupAttributes"
_EVERYTHING = {"Protocol": "all", "PortStart": -1, "PortEnd": -1}


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule for all protocols and ports, which are the only ones that matter here."""

    networks: tuple[IPv4Network, ...]
    listed: bool
    """Whether its sources come from a prefix list instead of standing in the rule."""
    policy: str
    priority: int
    ours: bool


class Ingress:
    """Watches one security group: the spec's, else the first of the primary interface."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def observe(self, cx: Context) -> Seen:
        """Look: the group's rules, and, where one is marked as ours, whether other nodes use the group."""
        group, cidr = group_of(cx), instance_of(cx).vpc_cidr
        thing = self._described(group)
        if thing.get("Status") == "Creating":
            return {f"{group}/{cidr}": Busy(f"the security group {group} to become Available")}
        rules = list(_rules(thing))
        ours = {rule.networks[0] for rule in rules if rule.ours and rule.policy == "accept"}
        other = self._other(group, cx.spec.node_name) if ours else ""
        mark = bool(ours) and not other
        shared: dict[str, Any] = {"owner": other, "ours": mark}
        seen = {f"{group}/{network}": IngressRule(group, network, **shared) for network in ours if network != cidr}
        if cidr in ours:
            seen[f"{group}/{cidr}"] = IngressRule(group, cidr, protocol=HIDDEN, **shared)
        if covers := _covering(rules, cidr):
            exact = any(rule.networks == (cidr,) and not rule.listed for rule in covers)
            # A wider rule is not ours to remove; one just like ours but without its mark is the ledger's to judge.
            unmarked = None if exact else False
            own = shared if cidr in ours else {"ours": unmarked}
            seen[f"{group}/{cidr}"] = IngressRule(group, cidr, **own)
        return seen

    def calls(self, change: Change, cx: Context) -> tuple[Call, ...]:
        """Write or remove one rule; nothing can be done about one that another hides."""
        match change.verb, change.want, change.seen:
            case Verb.CREATE, IngressRule() as want, _:
                params = {**_params(want, PRIORITY), "Description": f"{OURS} VPC internal"}
                return (Call(Via.CLOUD, "AuthorizeSecurityGroupIngress", params),)
            case Verb.DELETE, _, IngressRule() as seen:
                return (_revoke(seen, PRIORITY),)
            case _:
                return ()

    def apply(self, change: Change, token: str, cx: Context) -> Mapping[str, str]:
        """Write or remove one rule."""
        match change.verb, change.want, change.seen:
            case Verb.CREATE, IngressRule() as want, _:
                (call,) = self.calls(change, cx)
                return self._authorize(call, want, token)
            case Verb.UPDATE, IngressRule() as want, _:
                self._refuse_hidden(want)
                return {"id": want.group}
            case Verb.DELETE, _, IngressRule() as seen:
                return self._revoke(change.key, seen, cx)
        raise InvariantError(f"the inventory of ingress rules cannot {change.verb} {change.want or change.seen!r}")

    def _authorize(self, call: Call, want: IngressRule, token: str) -> Mapping[str, str]:
        """AuthorizeSecurityGroupIngress; a rule that is there already is success. Unsupported behind a drop."""
        self._refuse_hidden(want)
        try:
            result = self._client.perform(call, token=token)
        except CloudError as error:
            if error.code == "InvalidSecurityRule.Conflict":
                return {"id": want.group}
            raise
        return {"id": want.group, "request_id": str(result.get("RequestId", ""))}

    def _refuse_hidden(self, want: IngressRule) -> None:
        """Raise Unsupported if a rule of the operator's drops what ours would let in."""
        for rule in _rules(self._described(want.group)):
            if _hides(rule, want.cidr, PRIORITY):
                raise Unsupported(
                    f"the security group {want.group} drops what comes from {', '.join(map(str, rule.networks))} "
                    f"(priority {rule.priority}), so that {want.cidr} cannot be let in",
                    hint="remove that rule, or name another group with --security-group",
                )

    def _revoke(self, key: str, seen: IngressRule, cx: Context) -> Mapping[str, str]:
        """RevokeSecurityGroupIngress of the rule as it stands there now; a missing one is success.

        CloudTransient when another node began to use it since we looked: the next look then spares it.
        """
        try:
            same = [r for r in _rules(self._described(seen.group)) if r.networks == (seen.cidr,) and not r.listed]
            accepting = [rule for rule in same if rule.policy == "accept"]
            if not accepting:
                return {"id": seen.group}
            rule = next((r for r in accepting if r.ours), accepting[0])
            fence_rule(rule.ours, key, cx)
            if self._other(seen.group, cx.spec.node_name):
                raise CloudTransient(f"another node has begun to use the rule {key}", code="Shared")
            result = self._client.perform(_revoke(seen, rule.priority))
        except CloudGone:
            return {"id": seen.group}
        return {"id": seen.group, "request_id": str(result.get("RequestId", ""))}

    def _described(self, group: str) -> dict[str, Any]:
        return self._client.call(_DESCRIBE, {"SecurityGroupId": group, "Direction": "ingress"})

    def _other(self, group: str, node: str) -> str:
        """Return another node of this product that has interfaces in the group that are to stay; one is enough.

        No page is asked for after that: in a VPC of 200 nodes there are 14.
        """
        members = enis.listing(self._client, SecurityGroupId=group, TagFilters=filters())
        theirs = (each for each in members if each.ours(node) is False and each.status != "Deleting")
        return next((name for each in theirs if (name := each.tags.get(NODE, ""))), "")


def _params(rule: IngressRule, priority: int) -> dict[str, object]:
    where = {"SecurityGroupId": rule.group, **_EVERYTHING, "CidrIp": str(rule.cidr)}
    return {**where, "Policy": "accept", "Priority": priority}


def _revoke(seen: IngressRule, priority: int) -> Call:
    return Call(Via.CLOUD, "RevokeSecurityGroupIngress", _params(seen, priority))


def group_of(cx: Context) -> str:
    """Return the security group that VM traffic passes. Raises CloudError where there is none."""
    groups = (cx.spec.security_group,) if cx.spec.security_group else instance_of(cx).security_groups
    if not groups:
        raise CloudError("the primary interface is in no security group", hint="name one with --security-group")
    return groups[0]


def _rules(thing: Mapping[str, Any]) -> Iterator[_Rule]:
    """Read the ingress rules for everything; a rule whose source is another group says nothing about the VPC."""
    for item in objects(thing, "Permissions", _DESCRIBE):
        ports = (str(item.get("PortStart", -1)), str(item.get("PortEnd", -1)))
        if item.get("Direction", "ingress") != "ingress" or item.get("Protocol") != "all" or ports != ("-1", "-1"):
            continue
        cidr = item.get("CidrIp") or ""
        sources = [cidr] if cidr else item.get("PrefixListCidrs") or []
        networks = tuple(network for text in sources if (network := _network(text)) is not None)
        if networks:
            yield _Rule(
                networks=networks,
                listed=not cidr,
                policy=str(item.get("Policy") or "accept"),
                priority=int(item.get("Priority") or PRIORITY),
                ours=bool(cidr) and str(item.get("Description") or "").startswith(OURS),
            )


def _covering(rules: list[_Rule], cidr: IPv4Network) -> list[_Rule]:
    """Return the rules that let all of ``cidr`` in, with nothing before them that drops some of it."""
    return [
        rule
        for rule in rules
        if rule.policy == "accept"
        and any(cidr.subnet_of(network) for network in rule.networks)
        and not any(_hides(other, cidr, rule.priority) for other in rules)
    ]


def _hides(rule: _Rule, cidr: IPv4Network, priority: int) -> bool:
    """Say whether a rule drops part of ``cidr`` before one of ``priority`` accepts it; at a tie, drop wins."""
    overlaps = any(network.overlaps(cidr) for network in rule.networks)
    return rule.policy == "drop" and rule.priority <= priority and overlaps


def _network(text: object) -> IPv4Network | None:
    """Read a source; None for IPv6."""
    try:
        return IPv4Network(text, strict=False) if isinstance(text, str) else None
    except ValueError:
        return None
