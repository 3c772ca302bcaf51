"""A batch of decisions: routed, committed, and only then spoken; what could not be kept is undone as if never decided.

Order: routes of new leases, one durable commit, leases.json, replies; and for what ended: commit, then its route.
Killed in between, a route without a lease may be left, which the next start removes; never a lease without a route.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from cocoon_net.dhcp.book import Line
from cocoon_net.dhcp.decision import Decision, name
from cocoon_net.dhcp.lease import BOUND, Lease
from cocoon_net.dhcp.routes import PRESENT, Routes
from cocoon_net.dhcp.table import Table
from cocoon_net.errors import StoreError


class Ledger(Protocol):
    """Where a batch is made durable: the Book."""

    def commit(self, leases: Sequence[Lease], notes: Sequence[Line]) -> None:
        """Write all or nothing. Raises StoreError."""
        ...


class Settled(NamedTuple):
    """How a batch ended."""

    lost: frozenset[int] = frozenset()
    """Addresses whose changes were undone: nothing may be said about them."""
    error: StoreError | None = None
    """Why the commit failed, when it did."""

    def holds(self, decision: Decision) -> bool:
        """Whether ``decision`` may be spoken and told."""
        if not self.lost:
            return True
        return decision.address not in self.lost and not any(lease.address in self.lost for lease in decision.changes)


class Batch:
    """Decisions that share one commit. Each is applied to the table as it is taken, so that the next one sees it."""

    def __init__(self, table: Table, now: int) -> None:
        self._table = table
        self._now = now
        self._before: dict[int, Lease | None] = {}
        self._decisions: list[Decision] = []
        self._notes: list[tuple[Lease, Decision]] = []

    def take(self, decision: Decision) -> None:
        """Apply a decision to the table; whether it holds is known after ``settle``."""
        table = self._table
        if decision.offer is not None:
            table.offer(decision.offer, decision.seconds)
        elif decision.withdrawn:
            table.withdraw(decision.withdrawn)
        for lease in decision.changes:
            self._before.setdefault(lease.address, table.leases.get(lease.address))
            table.put(lease)
            self._notes.append((lease, decision))
        self._decisions.append(decision)

    def settle(self, routes: Routes, book: Ledger, changed: Callable[[Sequence[Lease]], None]) -> Settled:
        """Route, commit, tell ``changed`` what is durable, withdraw; or undo. Never raises for the world's refusals."""
        if not self._before:
            return Settled()
        table, lost = self._table, frozenset[int]()
        fresh = [
            address
            for address in self._before
            if table.leases[address].state is BOUND and routes.state(address) is not PRESENT
        ]
        unrouted = routes.install(fresh) if fresh else None
        if unrouted:
            lost = self._undo(unrouted)
        leases = [table.leases[address] for address in self._before]
        if leases:
            notes = [
                (self._now, lease.address, name(lease.mac), lease.state._value_, decision.reason._value_)
                for lease, decision in self._notes
            ]
            try:
                book.commit(leases, notes)
            except StoreError as error:
                lost |= self._undo(set(self._before))
                self._sweep(routes, fresh)
                return Settled(lost, error)
            changed(leases)
        # What ended, and what was routed for a change that was undone.
        self._sweep(routes, [*fresh, *(lease.address for lease in leases)])
        return Settled(lost)

    def _sweep(self, routes: Routes, addresses: Sequence[int]) -> None:
        leases = self._table.leases
        gone = [a for a in addresses if (lease := leases.get(a)) is None or lease.state is not BOUND]
        if gone:
            routes.withdraw(gone)

    def _undo(self, addresses: set[int]) -> frozenset[int]:
        """Undo all decisions that touch ``addresses``, and all that touch what those touched; returns what was."""
        size = -1
        while size != len(addresses):
            size = len(addresses)
            for decision in self._decisions:
                touched = {lease.address for lease in decision.changes}
                if touched & addresses:
                    addresses |= touched
        for address in addresses & self._before.keys():
            self._table.restore(address, self._before.pop(address))
        self._notes = [(lease, decision) for lease, decision in self._notes if lease.address not in addresses]
        return frozenset(addresses)
