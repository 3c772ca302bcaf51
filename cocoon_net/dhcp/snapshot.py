"""The server in numbers, at one moment: for status, metrics and findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cocoon_net.dhcp.histogram import Times
from cocoon_net.dhcp.lease import State
from cocoon_net.dhcp.options import ASKED, SAID

if TYPE_CHECKING:
    from cocoon_net.dhcp.book import Book
    from cocoon_net.dhcp.exchange import Exchange
    from cocoon_net.dhcp.guard import Guard
    from cocoon_net.dhcp.routes import Routes
    from cocoon_net.dhcp.table import Table


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


def take(serving: bool, table: Table, routes: Routes, book: Book, exchange: Exchange, guard: Guard) -> Snapshot:
    """Read the counts of this moment, from any thread; cheap."""
    counts = dict(table.counts)
    return Snapshot(
        serving=serving,
        size=len(table.pool.members),
        free=table.free,
        bound=counts[State.BOUND],
        offered=counts[State.OFFERED],
        cooling=counts[State.COOLING],
        quarantined=counts[State.QUARANTINED],
        routes=len(routes),
        commits=book.commits,
        commit_failures=exchange.commit_failures,
        route_failures=routes.failures,
        unsent=exchange.unsent,
        muted=guard.muted,
        decided={str(reason): count for reason, count in list(exchange.decided.items())},
        malformed={str(reason): count for reason, count in list(exchange.malformed.items())},
        received={kind.name.lower(): exchange.received[kind] for kind in ASKED},
        sent={kind.name.lower(): exchange.sent[kind] for kind in SAID},
        times={
            "offer": exchange.offer_times.read(),
            "ack": exchange.ack_times.read(),
            "commit": book.times.read(),
            "netlink": routes.times.read(),
        },
    )
