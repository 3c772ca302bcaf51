"""Frozen records of things in the world; what a step wants and what an inventory observes are the same type.

Two records of one key are compared with ``!=`` to find a difference. Facts that only the world knows (ids, MACs,
states) are fields that do not compare. ``ours`` says what can be seen from outside of the owner:

* ``True``   it carries our mark (tag, alias, comment, protocol number): we may change and delete it;
* ``False``  it is somebody else's: never deleted, and changed only where a step is about just that (a link set up);
* ``None``   it cannot carry a mark: the ledger decides.
"""

from __future__ import annotations

import hashlib
import typing
from dataclasses import dataclass, field, fields
from functools import cache
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from socket import AF_INET, inet_pton
from types import NoneType, UnionType
from typing import Any

from cocoon_net.errors import InvariantError

ROUTE_PROTOCOL = 174
"""The rtnetlink protocol number of every route that we install (``ip route show proto 174``)."""

BRIDGE = "cni0"
"""The bridge that cocoon and its CNI conflist know by name."""

IP_FORWARD = "net.ipv4.ip_forward"
"""The setting without which the node carries nobody else's packets (ip-sysctl.txt)."""


def rp_filter(link: str) -> str:
    """Return the name of a link's reverse-path setting; a dot inside the link's name is written ``/``."""
    return f"net.ipv4.conf.{link.replace('.', '/')}.rp_filter"


def _fact(default: Any = "") -> Any:
    """A field that only the world knows: kept, shown, never compared."""
    return field(default=default, compare=False)


def _mark() -> Any:
    return field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Instance:
    """The machine we run on, as its cloud describes it; the facts that every step may read."""

    platform: str
    instance_id: str
    instance_type: str
    region: str
    zone: str
    vpc_id: str
    vpc_cidr: IPv4Network
    primary_mac: str
    primary_address: IPv4Address
    primary_interface_id: str
    security_groups: tuple[str, ...]
    """Of the primary interface, in its order."""
    max_interfaces: int
    """Interfaces the instance type takes, the primary one included."""
    max_addresses: int
    """IPv4 addresses per interface, its primary one included."""
    used_interfaces: int = 1
    """Attached right now that are not ours, the primary one included."""
    primary_link: str = ""
    """The kernel's name of the primary interface's link."""


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet of the VPC. Key: ``subnet``."""

    cidr: IPv4Network
    zone: str
    id: str = _fact()
    available: int = _fact(0)
    """Addresses that are still free in it."""
    owner: str = _fact()
    """The node that it is marked for; empty without a mark."""
    ours: bool | None = _mark()


@dataclass(frozen=True, slots=True)
class Interface:
    """A secondary network interface (ENI). Key: ``eni-1`` ... ``eni-N``; observed whether attached or not."""

    subnet: IPv4Network
    security_groups: tuple[str, ...]
    """Sorted."""
    id: str = _fact()
    mac: str = _fact()
    """Lower case, colons."""
    primary_address: IPv4Address | None = _fact(None)
    instance_id: str = _fact()
    """Where it is attached; empty when nowhere."""
    owner: str = _fact()
    """The other instance that has it; empty where none does."""
    ours: bool | None = _mark()


@dataclass(frozen=True, slots=True)
class IngressRule:
    """One rule of a security group that lets the VPC reach the VMs. Key: ``<group>/<cidr>``."""

    group: str
    cidr: IPv4Network
    protocol: str = "all"
    owner: str = _fact()
    """Who else needs it: other nodes of this product with interfaces in the group."""
    ours: bool | None = _mark()


@dataclass(frozen=True, slots=True)
class Attachment:
    """That an interface is attached to this instance. Key: that of its interface."""

    instance_id: str
    interface_id: str = _fact()
    ours: bool | None = _mark()


@dataclass(frozen=True, slots=True)
class AddressSet:
    """The secondary addresses of one interface. Key: that of its interface; absent when there is none."""

    count: int
    addresses: tuple[IPv4Address, ...] = _fact(())
    """Sorted; which ones is the cloud's choice."""
    interface_id: str = _fact()
    added: tuple[IPv4Address, ...] = _fact(())
    """Those of them that we assigned, sorted."""
    ours: bool | None = _mark()


@dataclass(frozen=True, slots=True)
class Link:
    """The kernel's link of one interface, found by MAC. Key: that of its interface."""

    up: bool
    name: str = _fact()
    index: int = _fact(0)
    mac: str = _fact()
    mtu: int = _fact(0)
    ours: bool | None = _mark()


@dataclass(frozen=True, slots=True)
class Bridge:
    """The bridge that guests are plugged into. Key: its name."""

    name: str
    address: IPv4Interface
    mac: str
    mtu: int
    up: bool = True
    index: int = _fact(0)
    ours: bool | None = _mark()


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A kernel setting. Key: its dotted name, a dot inside a link's name written as ``/``."""

    name: str
    value: str
    ours: bool | None = _mark()


@dataclass(frozen=True, slots=True)
class Route:
    """A /32 host route of one lease. Key: ``<address>/32``."""

    destination: IPv4Address
    link: str
    protocol: int = ROUTE_PROTOCOL
    ours: bool | None = _mark()


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All of our iptables rules: own chains and the jumps to them. Key: ``iptables``."""

    filter_rules: tuple[str, ...]
    """The body of our filter chain, one iptables rule specification each, without ``-A CHAIN``."""
    nat_rules: tuple[str, ...]
    """The body of our nat chain."""
    forward_jump: int = 1
    """The position in FORWARD of the jump to our chain; 0 means absent."""
    postrouting_jump: int = 1
    ours: bool | None = _mark()


@dataclass(frozen=True, slots=True)
class File:
    """A file with exactly this content. Key: its base name."""

    path: str
    content: str
    mode: int = 0o644
    ours: bool | None = _mark()


@dataclass(frozen=True, slots=True)
class Pool:
    """What the DHCP server may lease, and what it tells the guests. Key: ``pool``."""

    subnet: IPv4Network
    gateway: IPv4Address
    dns: tuple[IPv4Address, ...]
    addresses: tuple[IPv4Address, ...]
    """Sorted; never the gateway, never an interface's primary address."""
    mtu: int
    ours: bool | None = _mark()


Record = (
    Subnet | Interface | IngressRule | Attachment | AddressSet | Link | Bridge | Sysctl | Route | Ruleset | File | Pool
)
"""Everything that a step can want."""

_TYPES: dict[str, type[Any]] = {t.__name__: t for t in (*typing.get_args(Record), Instance)}


def pinned_mac(node_name: str, subnet: IPv4Network) -> str:
    """Return the bridge's MAC: locally administered, stable for a node, so that guests never lose their gateway."""
    digest = hashlib.sha256(f"cocoon-net {node_name} {subnet}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))


def encode(record: Record | Instance) -> dict[str, Any]:
    """Render a record as JSON-ready values, its type under ``"is"``; ``decode`` reads it back exactly."""
    out: dict[str, Any] = {"is": type(record).__name__}
    for f in fields(record):
        out[f.name] = _plain(getattr(record, f.name))
    return out


def decode(data: dict[str, Any]) -> Any:
    """Read a record back from ``encode``; fields that are missing take their defaults, unknown ones are an error.

    Raises InvariantError for a type or a field that this version does not know.
    """
    kind = _TYPES.get(data.get("is", ""))
    if kind is None:
        raise InvariantError(f"a stored record is of unknown type {data.get('is')!r}")
    hints = _hints(kind.__name__)
    unknown = set(data) - set(hints) - {"is"}
    if unknown:
        raise InvariantError(f"a stored {kind.__name__} has unknown fields {sorted(unknown)}")
    return kind(**{name: _typed(hints[name], value) for name, value in data.items() if name != "is"})


@cache
def _hints(name: str) -> dict[str, Any]:
    return typing.get_type_hints(_TYPES[name])


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case tuple():
            return [_plain(item) for item in value]
        case _:
            return str(value)


def _address(text: str) -> IPv4Address:
    """Read an address in a fifth of the time: a daemon starts with a pool of up to 60,000."""
    try:
        return IPv4Address(int.from_bytes(inet_pton(AF_INET, text)))
    except (OSError, TypeError):
        return IPv4Address(text)  # says what is wrong with it


def _typed(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    origin = typing.get_origin(hint)
    if origin is UnionType or origin is typing.Union:
        (inner,) = (arg for arg in typing.get_args(hint) if arg is not NoneType)
        return _typed(inner, value)
    if origin is tuple:
        item = typing.get_args(hint)[0]
        if item is IPv4Address:
            return tuple(map(_address, value))
        return tuple(_typed(item, v) for v in value)
    return hint(value)
