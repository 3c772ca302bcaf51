"""What the simulated cloud tells the fabric: the whole wanted picture, as frozen values.

The cloud side (``lab.cloud``) computes a ``View`` from its state; the fabric (``lab.fabric``) makes the
namespaces, links, routes and filters look like it. The data flows one way only.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network


@dataclass(frozen=True, slots=True)
class Host:
    """An instance of the VPC; ``node`` is its short name ("node1", "host"), its namespace is ``<lab>-<node>``."""

    node: str
    instance_id: str


@dataclass(frozen=True, slots=True)
class Port:
    """An interface (ENI) that is attached to an instance and whose link should be visible there.

    ``index`` is the device number in the instance: 0 is the primary (eth0, gets its address configured by the
    fabric, as the image's cloud-init would), others appear as eth1, eth2, ... without any address, down.
    """

    interface_id: str
    instance_id: str
    index: int
    mac: str
    primary_address: IPv4Address
    addresses: tuple[IPv4Address, ...]
    """All addresses the VPC delivers to this interface, the primary one included, sorted."""
    subnet: IPv4Network
    security_groups: tuple[str, ...]
    mtu: int = 1500


@dataclass(frozen=True, slots=True)
class Rule:
    """An accepting or dropping ingress rule of a security group. Ports are inclusive; -1/-1 means any."""

    protocol: str
    """tcp | udp | icmp | all"""
    port_start: int
    port_end: int
    cidr: IPv4Network | None
    source_group: str | None
    policy: str
    """accept | drop"""
    priority: int


@dataclass(frozen=True, slots=True)
class Group:
    """A security group: its ingress rules, smaller priority first."""

    group_id: str
    ingress: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class View:
    """The VPC as the fabric should show it."""

    vpc_cidr: IPv4Network
    subnets: tuple[IPv4Network, ...]
    """The VPC's router answers for the first host of each."""
    hosts: tuple[Host, ...]
    ports: tuple[Port, ...]
    groups: tuple[Group, ...]
