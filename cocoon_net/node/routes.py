"""The host routes of leases as the engine sees them: every /32 that carries our protocol number.

The DHCP server makes them, by ``routewire``, as leases come and go; here they are listed, repaired and removed.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from ipaddress import IPv4Address

from cocoon_net.engine.model import Call, Change, Context, Seen, Verb, Via
from cocoon_net.errors import InvariantError, NodeTransient
from cocoon_net.node import netlink, routewire
from cocoon_net.node.routewire import RouteWire
from cocoon_net.records import ROUTE_PROTOCOL, Route


class Routes:
    """Keys are ``<address>/32``; what carries another protocol number is somebody else's and not seen."""

    def observe(self, cx: Context) -> Seen:
        """List our routes, on whatever link they are. Raises NodeError."""
        found = routewire.routes(ROUTE_PROTOCOL)
        names = {link.index: link.name for link in netlink.links()} if found else {}
        return {
            f"{address}/32": Route(address, names.get(index, f"link {index}"), ROUTE_PROTOCOL, ours=True)
            for address, index in ((IPv4Address(number), index) for number, index in found)
        }

    def calls(self, change: Change, cx: Context) -> tuple[Call, ...]:
        """Install or remove the route."""
        route = change.want or change.seen
        if not isinstance(route, Route):
            raise InvariantError(f"routes cannot apply {route!r}")
        verb = "del" if change.verb is Verb.DELETE else "replace"
        where = f"{route.destination}/32 dev {route.link} proto {route.protocol}"
        return (Call(Via.KERNEL, f"ip route {verb} {where}"),)

    def apply(self, change: Change, token: str, cx: Context) -> Mapping[str, str]:
        """Install or remove one route; one that went with its link is removed. Raises NodeError, Refused."""
        route = change.seen if change.verb is Verb.DELETE else change.want
        if not isinstance(route, Route):
            raise InvariantError(f"routes cannot apply {route!r}")
        link = netlink.link(route.link)
        if link is None:
            if change.verb is Verb.DELETE:
                return {}
            message = f"cannot route {route.destination} to {route.link}: there is no such link"
            raise NodeTransient(message, hint="`ip link` shows those that are; `cocoon-net audit` says what is missing")
        address = int(route.destination)
        with RouteWire(link.index, route.protocol) as wire:
            deleting = change.verb is Verb.DELETE
            failures = wire.change(() if deleting else (address,), (address,) if deleting else ())
        code = failures.get(address, 0)
        if code and not (deleting and code == errno.ENODEV):
            what = "remove the route of" if deleting else "route"
            raise netlink.refusal(code, f"{what} {route.destination} to {route.link}")
        return {}
