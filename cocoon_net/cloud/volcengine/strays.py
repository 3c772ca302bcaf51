"""Interfaces and subnets that carry a node's mark and that nobody looks after, and how the interfaces are collected."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from cocoon_net.clock import Clock
from cocoon_net.cloud.garbage import LookedAfter, Stray
from cocoon_net.cloud.volcengine import eni as enis
from cocoon_net.cloud.volcengine.client import Client
from cocoon_net.cloud.volcengine.eni import Eni
from cocoon_net.cloud.volcengine.fence import garbage_refusal
from cocoon_net.cloud.volcengine.tags import KEY, LINEAGE, filters, ours, tags_of
from cocoon_net.errors import CloudGone


class Strays:
    """Looks for what carries the mark of ``node`` in one VPC and is not ``known``."""

    def __init__(self, client: Client, clock: Clock, node: str, vpc_id: str, known: LookedAfter) -> None:
        self._client = client
        self._clock = clock
        self._node = node
        self._vpc = vpc_id
        self._known = known

    def interfaces(self) -> Iterator[Stray]:
        """List those that are attached to nothing (DescribeNetworkInterfaces)."""
        listed = enis.listing(self._client, VpcId=self._vpc, TagFilters=filters(self._node), Status="Available")
        for each in listed:
            if each.id not in self._known.ids:
                yield self._stray(each)

    def subnets(self) -> Iterator[Stray]:
        """List those without any interface (DescribeSubnets, and a listing for each); they are only reported."""
        params = {"VpcId": self._vpc, "TagFilters": filters(self._node)}
        for thing in self._client.pages("DescribeSubnets", params, "Subnets"):
            tags, identifier = tags_of(thing), str(thing.get("SubnetId") or "")
            expected = (tags.get(LINEAGE, ""), tags.get(KEY, "")) in self._known.expected
            if not ours(tags, self._node) or identifier in self._known.ids or expected:
                continue
            if not any(True for _ in enis.listing(self._client, SubnetId=identifier)):
                where, why = str(thing.get("CidrBlock") or ""), "subnets are only reported: delete it by hand"
                yield Stray("subnet", identifier, tags.get(KEY, ""), where, None, why)

    def collect(self, stray: Stray) -> str:
        """Read an interface anew and delete it if it is garbage still; return why it stays, or nothing."""
        there = enis.read(self._client, stray.id)
        if there is None:
            return ""
        if why := self._stray(there).stays:
            return why
        try:
            self._client.call("DeleteNetworkInterface", {"NetworkInterfaceId": stray.id})
        except CloudGone:
            return ""
        return ""

    def _stray(self, each: Eni) -> Stray:
        seconds = _age(each.updated, self._client.date(), self._clock.now())
        stays = garbage_refusal(each, self._node, self._known, seconds)
        return Stray("interface", each.id, each.key, str(each.primary), seconds, stays)


def _age(updated: datetime | None, theirs: datetime | None, mine: datetime) -> float | None:
    """Return for how many seconds a thing has not changed, by the clock that says less; None where one is silent.

    The API's clock (Date of its answer) may be a proxy's, and ours may be off.
    """
    if updated is None or theirs is None:
        return None
    return min((theirs - updated).total_seconds(), (mine - updated).total_seconds())
