"""What keeps the node right while it serves: repairs, what an audit or a notice of the kernel means for what is served.

It lives in the service's main thread and acts through two others: the engine for the node's own side, the DHCP server
for routes, leases.json and the pool. What it could not put right it holds as ``reasons`` for an operator.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from loguru import logger

from cocoon_net import records, world
from cocoon_net.audit import comparison
from cocoon_net.audit.finding import Kind, Pass, Sighting
from cocoon_net.audit.register import Register
from cocoon_net.clock import Clock
from cocoon_net.dhcp.book import Book
from cocoon_net.dhcp.lease import State
from cocoon_net.engine.journal import Journal
from cocoon_net.engine.model import Change, Verb
from cocoon_net.engine.runner import describe
from cocoon_net.errors import CocoonError
from cocoon_net.locks import AUDIT, holder
from cocoon_net.node import netlink
from cocoon_net.node.bridge import plug
from cocoon_net.node.notices import Stir, Topic
from cocoon_net.site import Site
from cocoon_net.steps import NODE
from cocoon_net.store import trouble
from cocoon_net.supervisor import takeover
from cocoon_net.supervisor.auditor import lasting, report
from cocoon_net.supervisor.log import tell
from cocoon_net.supervisor.mender import Mended, steps_of

if TYPE_CHECKING:
    from sqlite_utils import Database

    from cocoon_net.dhcp.server import Server

ROUTES = frozenset({Kind.ROUTE_MISSING, Kind.ROUTE_STRAY})
"""What the DHCP server puts right by looking at the kernel's routes again."""


class Keeper:
    """Keeps one node. Whoever serves DHCP sets ``server`` once it is there."""

    def __init__(
        self, site: Site, database: Database, clock: Clock, pool: Callable[[], records.Pool], *, skip_firewall: bool
    ) -> None:
        self._site, self._database, self._clock = site, database, clock
        self._pool, self._skip_firewall = pool, skip_firewall
        self._register = Register(database)
        self._withdrawn = self._register.withdrawn()
        """Addresses of the pool that the cloud does not deliver to this node any more."""
        self._unsettled: dict[str, str] = {}
        """Step -> what keeps it from being right; tried again after each look."""
        self._unplugged: set[tuple[int, int]] = set()
        """Links that lost their bridge, and which one that was, by their numbers."""
        self._drift: tuple[str, ...] = ()
        self._differences: tuple[str, ...] = ()
        self.server: Server | None = None
        self.mended: Counter[Kind] = Counter()
        """How often a notice of the kernel led to a repair, by what was wrong."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is wrong and was not put right, a line each."""
        return (*self._unsettled.values(), *self._differences, *self._drift)

    def served(self, pool: records.Pool | None = None) -> records.Pool:
        """Return the pool without what is withdrawn; as it is where nothing would be left to serve."""
        pool = pool or self._pool()
        left = tuple(address for address in pool.addresses if address not in self._withdrawn)
        return replace(pool, addresses=left) if left else pool

    # The node's own side

    def come_up(self) -> None:
        """Put the node's side right before anybody is served; a bridge made anew has the ports that leases name.

        Made by us just now, or by somebody who ended before any guest was plugged in: it has no port at all.
        """
        changes = self.reassert()
        made = any(isinstance(change.want, records.Bridge) and change.verb is Verb.CREATE for change in changes)
        try:
            links = netlink.links()
            bridge = next((link.index for link in links if link.name == records.BRIDGE), 0)
            if bridge and not made and any(link.master == bridge for link in links):
                return
            ports = {lease.port for lease in Book(self._database).leases() if lease.state is State.BOUND}
            self._plug(Stir(unplugged=frozenset((link.index, 0) for link in links if link.name in ports)))
        except CocoonError as error:
            logger.error("the guests could not be plugged in again: {}", error.told)

    def reassert(self, only: Collection[str] = NODE) -> list[Change]:
        """Put the node's side right, all of it or some steps; returns what was changed. What fails is a reason."""
        changes: list[Change] = []
        tried = world.reassert(self._site, self._database, changes.append, skip_firewall=self._skip_firewall, only=only)
        for step, error in tried.items():
            if error is None:
                self._unsettled.pop(step, None)
                continue
            # Guests that could be served must not wait for a rule or a setting.
            if self._unsettled.get(step) != error.message:
                logger.error("the node could not be put right: {}", error.told)
            self._unsettled[step] = error.message
        for change in changes:
            logger.info("put right: {}", describe(change))
        return changes

    def mend(self, stir: Stir) -> Mended:
        """Put right what a notice of the kernel is about: routes in any case, the rest unless a run is at it."""
        sightings: list[Sighting] = []
        steps, at = steps_of(stir), self._clock.now()
        try:
            if self.server is not None and Topic.LOST in stir.topics:
                self.server.reconcile()
            elif self.server is not None and stir.routes:
                sightings += map(comparison.of_rerouted, self.server.reroute(stir.routes))
            later = bool(steps) and self._run_at_work()
            if steps and not later and not takeover.stands_as_found(self._database):
                changes = self.reassert(steps)
                sightings += map(comparison.of_mended, changes)
                self._plug(stir)
            if sightings:
                self._register.mended(sightings, at)
                self.mended.update(one.kind for one in sightings)
        except (CocoonError, sqlite3.Error) as error:
            logger.error("what changed could not be put right: {}", _told(error))
            return None
        return None if later else frozenset(f"{one.kind} {one.key}" for one in sightings)

    def _plug(self, stir: Stir) -> None:
        """Have the guests of a bridge that went plugged into the one that stands; kept in mind until one does."""
        self._unplugged |= stir.unplugged
        plugged = plug(self._unplugged) if self._unplugged else None
        if plugged is None:
            return
        self._unplugged.clear()
        tell("INFO", [f"put right: {name} is a port of {records.BRIDGE} again" for name in plugged])

    def _run_at_work(self) -> bool:
        """Whether a run acts or is not finished: then the node is not to be as the last one left it."""
        acting = holder(self._site.run_lock)
        if acting is not None and acting.owner != AUDIT:
            return True
        return Journal(self._database).unfinished() is not None

    # What others saw

    def surveyed(self, differences: tuple[str, ...]) -> None:
        """Take what a look at the kernel confirmed; what could not be put right is tried again."""
        if self._unsettled:
            self.reassert()
        self._differences = differences

    def audited(self, seen: Pass) -> bool:
        """Write down what a pass saw, and have the DHCP server do its part: routes, leases.json, the pool.

        Returns whether another pass should come at once, to see that something is over.
        """
        try:
            changed = self._register.record(seen)
            findings, withdrawn = self._register.open_findings(), self._register.withdrawn()
        except (CocoonError, sqlite3.Error) as error:
            logger.error("an audit could not be written down: {}", _told(error))
            return False
        report(changed, seen)
        self._drift = lasting(findings)
        kinds = {sighting.kind for sighting in seen.sightings}
        try:
            if self.server is not None and kinds & ROUTES:
                self.server.reconcile()
            if self.server is not None and Kind.LEASE_FILE in kinds:
                self.server.project()
            if withdrawn != self._withdrawn:
                self._withdraw(withdrawn)
        except CocoonError as error:
            logger.error("what an audit found could not be put right: {}", error.told)
        fresh = any(one.first_seen == one.last_seen and one.resolved is None for one in changed)
        return fresh and bool(seen.repaired or kinds & {*ROUTES, Kind.LEASE_FILE})

    def _withdraw(self, withdrawn: frozenset[IPv4Address]) -> None:
        """Serve the pool without the addresses that the cloud took away: their clients get a NAK and another one."""
        before, self._withdrawn = self._withdrawn, withdrawn
        if self.server is not None:
            try:
                self.server.reload(self.served())
            except CocoonError:
                self._withdrawn = before
                raise
        gone, back = sorted(withdrawn - before), sorted(before - withdrawn)
        tell("WARNING", [f"{address} is not leased any more: the cloud took it away" for address in gone])
        tell("INFO", [f"{address} is leased again: the cloud has it" for address in back])


def _told(error: CocoonError | sqlite3.Error) -> str:
    """Return what went wrong and what to do next."""
    return (error if isinstance(error, CocoonError) else trouble(error, "the database")).told
