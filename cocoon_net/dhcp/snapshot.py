"""The server in numbers, at one moment: for status, metrics and findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cocoon_net.dhcp.histogram import Times


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Gauges of now, and counters since the start."""

    serving: bool
    """Whether the bridge is there and we hear it."""
    size: int
    """Addresses of the pool."""
    free: int
    """Of these, the ones that a client we never saw could get."""
    bound: int
    offered: int
    cooling: int
    quarantined: int
    routes: int
    commits: int
    commit_failures: int
    route_failures: int
    unsent: int
    """Replies that the kernel would not take."""
    muted: int
    """How often the kernel was told to drop what a port floods us with."""
    decided: Mapping[str, int]
    """How often each reason was the reason."""
    malformed: Mapping[str, int]
    """Datagrams that were not DHCP, by what was wrong first."""
    received: Mapping[str, int]
    """Message type -> messages that could be read and that the guard let in."""
    sent: Mapping[str, int]
    """Message type -> replies that the kernel took."""
    times: Mapping[str, Times]
    """How long it took: ``offer`` and ``ack`` from the batch's arrival to the last reply of its kind, each counted
    for every such reply of the batch; ``commit`` and ``netlink`` per batch."""
