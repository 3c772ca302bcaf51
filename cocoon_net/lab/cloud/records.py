"""The frozen records of the simulated cloud, and their JSON.

Addresses, networks and times are objects in here; they are text on disk, on the admin socket and on the wire.
"""

from __future__ import annotations

import functools
import json
import types
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

Tags = tuple[tuple[str, str], ...]
"""Pairs of key and value, sorted by key."""

GONE = "Gone"
"""The status of what is about to vanish from the world."""


class Record(Protocol):
    """Anything that lives in a table."""

    @property
    def id(self) -> str:
        """Return the key of the record."""
        ...


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Move:
    """A transition that is under way: the status ``to`` is reached at ``due``."""

    to: str
    due: datetime


@dataclass(frozen=True, slots=True)
class Vpc:
    """A virtual network. Status: Available, or Pending while a subnet of it is made or removed."""

    id: str
    cidr: IPv4Network
    name: str
    created: datetime
    updated: datetime
    status: str = "Available"
    move: Move | None = None
    tags: Tags = ()


@dataclass(frozen=True, slots=True)
class Subnet:
    """A block of a VPC in one zone. Status: Pending -> Available -> Pending -> gone."""

    id: str
    vpc_id: str
    zone: str
    cidr: IPv4Network
    name: str
    created: datetime
    updated: datetime
    description: str = ""
    status: str = "Available"
    move: Move | None = None
    tags: Tags = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of a security group; exactly one of ``cidr`` and ``source_group`` is set. Ports -1/-1: any."""

    id: str
    direction: str
    protocol: str
    port_start: int
    port_end: int
    cidr: IPv4Network | None
    source_group: str | None
    policy: str
    priority: int
    description: str
    created: datetime

    def same(self, other: Rule) -> bool:
        """Tell whether two rules stand for the same traffic and policy, whatever they are called."""
        return self._identity() == other._identity()

    def _identity(self) -> tuple[object, ...]:
        return (
            self.direction,
            self.protocol,
            self.port_start,
            self.port_end,
            self.cidr,
            self.source_group,
            self.policy,
            self.priority,
        )


@dataclass(frozen=True, slots=True)
class Group:
    """A security group with its rules of both directions. Status: Creating -> Available."""

    id: str
    vpc_id: str
    name: str
    created: datetime
    updated: datetime
    description: str = ""
    kind: str = "CustomSG"
    status: str = "Available"
    move: Move | None = None
    rules: tuple[Rule, ...] = ()
    tags: Tags = ()


@dataclass(frozen=True, slots=True)
class Interface:
    """An ENI. Creating -> Available -> Attaching -> InUse -> Detaching -> Available -> Deleting -> gone."""

    id: str
    vpc_id: str
    subnet_id: str
    zone: str
    name: str
    mac: str
    primary: IPv4Address
    groups: tuple[str, ...]
    created: datetime
    updated: datetime
    description: str = ""
    secondaries: tuple[IPv4Address, ...] = ()
    kind: str = "secondary"
    status: str = "Creating"
    move: Move | None = None
    instance_id: str | None = None
    index: int | None = None
    """The device number in the instance: 0 is the primary; the lowest free one is taken."""
    in_use_since: datetime | None = None
    service_managed: bool = False
    delete_on_termination: bool = False
    port_security: bool = False
    tags: Tags = ()

    @property
    def addresses(self) -> tuple[IPv4Address, ...]:
        """Return all its addresses, the primary one first."""
        return (self.primary, *self.secondaries)


@dataclass(frozen=True, slots=True)
class Instance:
    """A machine of the VPC; ``node`` is its short name in the lab."""

    id: str
    node: str
    vpc_id: str
    zone: str
    type_id: str
    created: datetime
    status: str = "RUNNING"
    role: str = "cocoon-net"
    tags: Tags = ()


@dataclass(frozen=True, slots=True)
class InstanceType:
    """A type of instance with its limits; both numbers count the primary interface and the primary address."""

    id: str
    interfaces: int
    addresses_per_interface: int


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A pair of access and secret key; one that belongs to a ``role`` has a session token and expires."""

    id: str
    secret: str
    token: str = ""
    expires: datetime | None = None
    role: str = ""


@dataclass(frozen=True, slots=True)
class Replay:
    """The answer that was given under a ClientToken; ``id`` is ``ACTION/TOKEN``."""

    id: str
    arguments: str
    """A digest of the other parameters."""
    result: str
    """The JSON of the ``Result``."""
    created: datetime


def to_json(record: object) -> str:
    """Write a record as JSON text, on one line."""
    return json.dumps(plain(record), separators=(",", ":"))


def plain(record: object) -> dict[str, object]:
    """Return a record as JSON values."""
    if not is_dataclass(record) or isinstance(record, type):
        raise TypeError(f"not a record: {record!r}")
    return {name: _plain(value) for name, value in asdict(record).items()}


def from_json(kind: type[R], text: str) -> R:
    """Read a record of class ``kind`` back from ``to_json``."""
    hints = _hints(kind)
    return kind(**{name: _revive(hints[name], value) for name, value in json.loads(text).items()})


def _plain(value: object) -> object:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case tuple() | list():
            return [_plain(item) for item in value]
        case dict():
            return {name: _plain(item) for name, item in value.items()}
        case datetime():
            return value.isoformat()
        case _:
            return str(value)


@functools.cache
def _hints(kind: type) -> dict[str, object]:
    return get_type_hints(kind)


def _revive(hint: object, value: object) -> object:
    if value is None:
        return None
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        (hint,) = (item for item in get_args(hint) if item is not type(None))
        return _revive(hint, value)
    if origin is tuple and isinstance(value, list):
        inner, *_ = get_args(hint)
        return tuple(_revive(inner, item) for item in value)
    if hint is datetime:
        return datetime.fromisoformat(str(value))
    if hint is IPv4Address:
        return IPv4Address(str(value))
    if hint is IPv4Network:
        return IPv4Network(str(value))
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, dict):
        hints = _hints(hint)
        return hint(**{name: _revive(hints[name], item) for name, item in value.items()})
    return value
