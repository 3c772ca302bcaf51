"""The VPC's network: a router with one veth pair for each interface, in a namespace of its own.

The namespace ``<lab>-vpc`` holds the router. Of each port's veth pair one end, ``<node>-eth<index>``, is there and
its alias is the interface's id; the other end is ``eth<index>`` in the instance's namespace and has the interface's
MAC. The router sends a packet for any address of an interface to that MAC, as a VPC does: nobody asks by ARP. To
the nodes it answers ARP for whatever it has a route to through another link (proxy ARP), so that an on-link
neighbour is reached through it too. The gateways of the subnets, the metadata service and the API are addresses
of its ``lo``.

``Fabric.sync`` looks at the kernel and changes what differs from the view. A link gets its alias last: one without
is a half-made one of a killed process, and is made again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocoon_net.errors import NodeError
from cocoon_net.lab import filters, namespace
from cocoon_net.lab.view import Port, View

if TYPE_CHECKING:
    from pyroute2 import IPRoute

METADATA = IPv4Address("100.96.0.96")
OPENAPI = IPv4Address("100.96.0.97")

_PROTOCOL = 89
"""The routes' ``rtm_protocol``, by which we know ours (rtnetlink(7); not taken in rt_protos)."""

_LOOPBACK = 1
_SCOPE_LINK, _SCOPE_UNIVERSE = 253, 0
_TABLE_MAIN = 254
_NUD_PERMANENT = 0x80

_SYSCTLS = {
    "ipv4/ip_forward": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/conf/default/proxy_arp": "1",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    "ipv6/conf/default/disable_ipv6": "1",
}
"""Set before the first link is made: new links inherit ``default``."""


@dataclass(frozen=True, slots=True)
class _Link:
    name: str
    index: int
    interface_id: str
    mtu: int


@dataclass(frozen=True, slots=True)
class _Route:
    """To one address. ``gateway`` is the primary address of the interface, None for the primary itself."""

    address: IPv4Address
    link: int
    gateway: IPv4Address | None


class Fabric:
    """The router and the links of one lab. Not thread-safe: one thread calls ``sync``."""

    def __init__(self, lab: str, mark: str, *, strict_source: bool = False) -> None:
        self._lab = lab
        self._mark = mark
        self._vpc = f"{lab}-vpc"
        self._strict_source = strict_source
        # Nobody else writes the filters of our namespace, and a new process writes them once; reading them back
        # would cost more than writing them.
        self._filters = ""

    def prepare(self) -> None:
        """Make sure of the router, with the addresses of metadata and API at least; raises ``NodeError``."""
        with _kernel(f"make the router {self._vpc}"):
            namespace.create(self._vpc, self._mark)
            with self._router() as route:
                for path, value in _SYSCTLS.items():
                    _write_sysctl(path, value)
                self._sync_addresses(route, {METADATA, OPENAPI, *_addresses(route)})

    def sync(self, view: View) -> int:
        """Make the network look like the view; returns how many changes that took, 0 if none.

        Instances are never removed, their namespaces end with the lab. Raises ``NodeError``.
        """
        with _kernel(f"show the VPC in {self._vpc}"):
            nodes = {host.instance_id: host.node for host in view.hosts}
            fresh = {node for node in nodes.values() if namespace.create(self.place(node), self._mark)}
            changes = len(fresh)
            ports = {_link_name(nodes[port.instance_id], port): port for port in view.ports}
            with self._router() as route:
                gateways = {next(subnet.hosts()) for subnet in view.subnets}
                changes += self._sync_addresses(route, {METADATA, OPENAPI, *gateways})
                links, linked = self._sync_links(route, ports, nodes, fresh)
                changes += linked
                changes += self._sync_filters(view)
                changes += _sync_routes(route, ports, links)
                changes += _sync_neighbours(route, ports, links)
        return changes

    def place(self, node: str) -> str:
        """Return the name of the namespace of a node."""
        return f"{self._lab}-{node}"

    @contextlib.contextmanager
    def _router(self) -> Iterator[IPRoute]:
        from pyroute2 import IPRoute

        with namespace.inside(self._vpc), IPRoute() as route:
            yield route

    def _sync_addresses(self, route: IPRoute, wanted: set[IPv4Address]) -> int:
        seen = _addresses(route)
        for address in seen - wanted:
            route.addr("del", index=_LOOPBACK, address=str(address), prefixlen=32)
        for address in wanted - seen:
            route.addr("add", index=_LOOPBACK, address=str(address), prefixlen=32)
        return len(seen ^ wanted)

    def _sync_links(
        self, route: IPRoute, ports: dict[str, Port], nodes: dict[str, str], fresh: set[str]
    ) -> tuple[dict[str, _Link], int]:
        """Return the links by name, and how many were removed or made.

        A link to a ``fresh`` namespace is one into its predecessor, about to vanish with it.
        """
        seen = {link.name: link for link in _links(route)}
        kept = {
            name: seen[name]
            for name, port in ports.items()
            if name in seen and _shows(seen[name], port) and nodes[port.instance_id] not in fresh
        }
        for name in seen.keys() - kept.keys():
            with _tolerating(errno.ENODEV):
                route.link("del", index=seen[name].index)
        missing = [(name, port) for name, port in ports.items() if name not in kept]
        for name, port in missing:
            self._add_port(route, name, port, self.place(nodes[port.instance_id]))
        links = {link.name: link for link in _links(route)} if missing else kept
        return links, len(missing) + len(seen.keys() - kept.keys())

    def _add_port(self, route: IPRoute, name: str, port: Port, node: str) -> None:
        fd = os.open(namespace.RUN / node, os.O_RDONLY | os.O_CLOEXEC)
        try:
            peer = {"ifname": f"eth{port.index}", "address": port.mac, "mtu": port.mtu, "net_ns_fd": fd}
            route.link("add", ifname=name, kind="veth", mtu=port.mtu, peer=peer)
        finally:
            os.close(fd)
        if port.index == 0:
            _boot(node, port)
        # Else each proxied answer waits for up to 0.8 s (arp(7)); links do not inherit this one.
        _write_sysctl(f"ipv4/neigh/{name}/proxy_delay", "0")
        (index,) = route.link_lookup(ifname=name)
        route.link("set", index=index, state="up", ifalias=port.interface_id)

    def _sync_filters(self, view: View) -> int:
        nodes = {host.instance_id: host.node for host in view.hosts}
        links = {port.interface_id: _link_name(nodes[port.instance_id], port) for port in view.ports}
        text = filters.render(view, links, strict_source=self._strict_source)
        if text == self._filters:
            return 0
        _run_nft(text)
        self._filters = text
        return 1


def _link_name(node: str, port: Port) -> str:
    return f"{node}-eth{port.index}"


def _shows(link: _Link, port: Port) -> bool:
    return link.interface_id == port.interface_id and link.mtu == port.mtu


def _addresses(route: IPRoute) -> set[IPv4Address]:
    """Return the router's own addresses, without that of the loopback network."""
    messages = route.get_addr(family=2, index=_LOOPBACK)
    return {IPv4Address(message.get("local")) for message in messages if message["prefixlen"] == 32}


def _links(route: IPRoute) -> Iterator[_Link]:
    """Yield the ends of ports in the router's namespace."""
    for message in route.get_links():
        if message["index"] != _LOOPBACK:
            yield _Link(message.get("ifname"), message["index"], message.get("ifalias") or "", message.get("mtu"))


def _boot(node: str, port: Port) -> None:
    """Configure the primary interface of an instance, as its image would do at boot."""
    from pyroute2 import IPRoute

    with namespace.inside(node), IPRoute() as route:
        (index,) = route.link_lookup(ifname=f"eth{port.index}")
        route.addr("add", index=index, address=str(port.primary_address), prefixlen=port.subnet.prefixlen)
        route.link("set", index=index, state="up")
        route.route("add", dst="default", gateway=str(next(port.subnet.hosts())))


def _sync_routes(route: IPRoute, ports: dict[str, Port], links: dict[str, _Link]) -> int:
    wanted = {
        _Route(address, links[name].index, None if address == port.primary_address else port.primary_address)
        for name, port in ports.items()
        for address in port.addresses
    }
    seen = set(_routes(route))
    # A gateway must be reachable while a route through it is made: direct routes first.
    for stale in sorted(seen - wanted, key=lambda r: r.gateway is None):
        # The kernel takes a route away together with the one to its gateway.
        with _tolerating(errno.ESRCH):
            route.route("del", **_route_arguments(stale))
    for missing in sorted(wanted - seen, key=lambda r: r.gateway is not None):
        route.route("replace", **_route_arguments(missing))
    return len(seen ^ wanted)


def _routes(route: IPRoute) -> Iterator[_Route]:
    for message in route.get_routes(family=2, table=_TABLE_MAIN):
        if message["proto"] == _PROTOCOL:
            gateway = message.get("gateway")
            yield _Route(
                IPv4Address(message.get("dst")), message.get("oif"), None if gateway is None else IPv4Address(gateway)
            )


def _route_arguments(wanted: _Route) -> dict[str, Any]:
    arguments: dict[str, Any] = {"dst": f"{wanted.address}/32", "oif": wanted.link, "proto": _PROTOCOL}
    if wanted.gateway is None:
        return {**arguments, "scope": _SCOPE_LINK}
    return {**arguments, "scope": _SCOPE_UNIVERSE, "gateway": str(wanted.gateway)}


def _sync_neighbours(route: IPRoute, ports: dict[str, Port], links: dict[str, _Link]) -> int:
    """Fix the MAC behind each primary address; those of a removed link went with it."""
    wanted = {(links[name].index, str(port.primary_address), port.mac) for name, port in ports.items()}
    seen = {
        (message["ifindex"], message.get("dst"), message.get("lladdr"))
        for message in route.get_neighbours(family=2)
        if message["state"] & _NUD_PERMANENT
    }
    for link, address, mac in wanted - seen:
        route.neigh("replace", ifindex=link, dst=address, lladdr=mac, state=_NUD_PERMANENT)
    return len(wanted - seen)


def _write_sysctl(path: str, value: str) -> None:
    """Set a sysctl of this thread's network namespace; a kernel without IPv6 has none of its."""
    with contextlib.suppress(FileNotFoundError):
        Path("/proc/sys/net", path).write_text(value)


def _run_nft(text: str) -> None:
    try:
        done = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        raise NodeError("the lab needs the program nft", hint="apt-get install nftables") from None
    if done.returncode != 0:
        raise NodeError(f"nft refused the security groups: {done.stderr.strip()}")


@contextlib.contextmanager
def _tolerating(*numbers: int) -> Iterator[None]:
    from pyroute2 import NetlinkError

    try:
        yield
    except NetlinkError as error:
        if error.code not in numbers:
            raise


@contextlib.contextmanager
def _kernel(aim: str) -> Iterator[None]:
    """Say what was wanted when the kernel refuses."""
    from pyroute2 import NetlinkError

    try:
        yield
    except NetlinkError as error:
        raise NodeError(f"cannot {aim}: {os.strerror(error.code)}", code=errno.errorcode.get(error.code, "")) from error
    except OSError as error:
        raise NodeError(f"cannot {aim}: {error}") from error
