"""The service: the parts that hold a node's pool and promises, and how they live together.

The main thread waits for orders and moves the lifecycle; DHCP has a thread of its own that nobody else's work can
hold up. Everything is undone in reverse order; being killed is a normal way to stop, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address
from queue import SimpleQueue
from typing import TYPE_CHECKING

from loguru import logger

from cocoon_net import records, world
from cocoon_net.audit.finding import Pass
from cocoon_net.clock import SystemClock
from cocoon_net.dhcp.book import PATIENCE, Book
from cocoon_net.engine.journal import Journal
from cocoon_net.engine.model import Context
from cocoon_net.errors import CocoonError, NodeError, SpecError
from cocoon_net.events import Bus, Event
from cocoon_net.node.notices import Notices, Stir
from cocoon_net.recovery import keep
from cocoon_net.site import Site
from cocoon_net.steps.node import settled_links
from cocoon_net.store import open_database
from cocoon_net.supervisor import collector, log, takeover
from cocoon_net.supervisor.auditor import Auditor, command
from cocoon_net.supervisor.dashboard import Dashboard
from cocoon_net.supervisor.feed import Feed
from cocoon_net.supervisor.keeper import Keeper
from cocoon_net.supervisor.lifecycle import Lifecycle, Phase, announce
from cocoon_net.supervisor.mender import Mended, Mender
from cocoon_net.supervisor.narrator import Narrator
from cocoon_net.supervisor.notify import Pulse
from cocoon_net.supervisor.status import DAEMON_NOTE
from cocoon_net.supervisor.survey import Survey, require_links
from cocoon_net.supervisor.timetable import timetable

if TYPE_CHECKING:
    from sqlite_utils import Database

    from cocoon_net.dhcp.server import Server
    from cocoon_net.dhcp.settings import Settings
    from cocoon_net.supervisor.daemon import DaemonOptions

SWITCH_AFTER = 0.0005
"""Seconds that another thread may keep the DHCP loop waiting after a commit; Python's own number is ten times it."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Drain and end."""

    why: str


@dataclass(frozen=True, slots=True)
class Reload:
    """Read the pool again."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The DHCP server's loop came to an end by itself."""

    result: Future[None]


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A look at the kernel is done; what it confirmed, a line each."""

    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Audited:
    """A pass of the audit is done."""

    seen: Pass


@dataclass(frozen=True, slots=True)
class Stirred:
    """The kernel told of changes; somebody waits for what comes of it."""

    stir: Stir
    outcome: Future[Mended]


Order = Stop | Reload | Ended | Surveyed | Audited | Stirred


class Service:
    """The parts of the service and how they live together. One per process; ``live`` is called once."""

    def __init__(
        self, site: Site, options: DaemonOptions, database: Database, pool: records.Pool, orders: SimpleQueue[Order]
    ) -> None:
        self._site, self._options, self._database, self._orders = site, options, database, orders
        self._pool = pool
        self._clock = SystemClock()
        self._life = Lifecycle(announce, _log, self._persist)
        self._bus = Bus(on_error=_complain)
        self._feed = Feed()
        self._narrator = Narrator(self._bus, verbose=log.verbose(), feed=self._feed)
        self._server: Server | None = None
        self._survey: Survey | None = None
        self._auditor: Auditor | None = None
        self._notices: Notices | None = None
        self._keeper = Keeper(site, database, self._clock, lambda: self._pool, skip_firewall=options.skip_iptables)

    def live(self) -> None:
        """Come up, obey orders until one says stop, and go down again. Raises what kept it from serving."""
        why = ""
        with contextlib.ExitStack() as parts:
            try:
                self._life.reconcile()
                self._reconcile(parts)
                self._open(parts)
                takeover.served(self._database)
                self._life.serve(self._serving())
                self._judge()
                collector.settle()
                why = self._obey()
            except CocoonError as error:
                why = error.message
                raise
            finally:
                self._life.drain(why)
                parts.close()
                self._back_up()
                self._life.stop()

    # Coming up

    def _reconcile(self, parts: contextlib.ExitStack) -> None:
        """See whether the pool's links are there at all, and put the node's own side right."""
        context = self._context()
        if context is not None:
            node = world.World(self._site, context.spec, self._database).node
            self._survey = Survey(node, context, self._bound)
            nics = self._survey.look_at_links()
            for line in nics.lines:
                logger.warning("{}", line)
            require_links(nics)
            self._notices = self._listen(parts)
        if takeover.stands_as_found(self._database):
            logger.info("the bridge is the one that the Go cocoon-net made: the node stays as it is")
        else:
            self._keeper.come_up()

    def _listen(self, parts: contextlib.ExitStack) -> Notices | None:
        """Hear from now on what changes in the kernel, so that nothing falls between the first look and serving."""
        try:
            notices = Notices(self._links, self._pool.subnet)
        except CocoonError as error:
            logger.warning("what changes in the kernel is seen by audits only: {}", error.told)
            return None
        parts.callback(notices.close)
        return notices

    def _open(self, parts: contextlib.ExitStack) -> None:
        self._narrator.start()
        parts.callback(self._narrator.stop)
        self._server = self._keeper.server = self._open_dhcp(parts)
        seen = Dashboard(
            self._site,
            self._clock,
            self._life,
            self._server,
            self._narrator,
            self._feed,
            lambda: self._pool,
            lambda: self._survey,
            lambda: self._keeper.mended,
        )
        parts.callback(seen.close)
        if self._options.control:
            self._open_control(parts, self._server, seen)
        if self._options.metrics_address:
            self._open_metrics(parts, seen)
        # Before the listeners go: a stream would keep them waiting.
        parts.callback(self._feed.close)
        if self._notices is not None:
            mender = Mender(self._notices, self._ask_to_mend)
            mender.start()
            parts.callback(mender.stop)
        if self._survey is not None:
            self._open_scheduler(parts, self._survey)

    def _open_dhcp(self, parts: contextlib.ExitStack) -> Server:
        """Serve DHCP in a thread of its own; returns once it answers. Raises what kept it from that."""
        from cocoon_net.dhcp.projection import LeaseFile
        from cocoon_net.dhcp.server import Server

        # A connection of its own: nobody else's transaction can hold a promise up.
        own = parts.enter_context(contextlib.closing(open_database(self._site.database)))
        own.execute("PRAGMA cache_size = -2000")  # SQLite's own number: each lease writes
        own.execute(f"PRAGMA busy_timeout = {PATIENCE}")
        server = Server(
            Book(own),
            self._keeper.served(),
            settings=self._settings(),
            limits=self._options.limits,
            check_conflicts=self._options.check_conflicts,
            clock=self._clock,
            bus=self._bus,
            lease_file=LeaseFile(self._site.lease_file),
            beat=Pulse(),
        )
        stop = threading.Event()
        sys.setswitchinterval(SWITCH_AFTER)
        loop = parts.enter_context(ThreadPoolExecutor(1, thread_name_prefix="dhcp"))
        parts.callback(server.wake)
        parts.callback(stop.set)
        result = loop.submit(server.run, stop)
        while not server.wait(0.02):
            if result.done():
                result.result()
        result.add_done_callback(lambda ended: self._orders.put(Ended(ended)))
        return server

    def _open_control(self, parts: contextlib.ExitStack, server: Server, seen: Dashboard) -> None:
        from cocoon_net.supervisor import control
        from cocoon_net.supervisor.desk import LiveDesk

        route = control.routes(LiveDesk(self._site, server, lambda: server.reload(self._keeper.served())), seen)
        socket = control.ControlSocket(self._site.control_socket, route)
        socket.start()
        parts.callback(socket.stop)

    def _open_metrics(self, parts: contextlib.ExitStack, seen: Dashboard) -> None:
        """Open the endpoint; a port that is taken is complained about: DHCP matters more."""
        from cocoon_net.supervisor import web

        try:
            endpoint, _ = web.listen(self._options.metrics_address, web.routes(seen), lambda: self._pool)
        except OSError as error:
            logger.warning("no metrics: {} cannot be had: {}", self._options.metrics_address, error.strerror or error)
            return
        endpoint.start()
        parts.callback(endpoint.stop)

    def _open_scheduler(self, parts: contextlib.ExitStack, survey: Survey) -> None:
        """Have the looks, the audits and the backups at their times."""
        scheduler = timetable()
        every = self._options.look_every
        scheduler.add_job(
            lambda: self._orders.put(Surveyed(survey.look())), "interval", seconds=every, jitter=every / 10
        )
        scheduler.add_job(self._back_up, "interval", hours=1, jitter=60)
        # Twenty audits are an hour; where they come sooner, more is left behind.
        scheduler.add_job(collector.collect, "interval", seconds=20 * self._options.audit_every or 3600.0)
        if self._options.audit_every:
            words, environment = command(self._site, skip_firewall=self._options.skip_iptables)
            self._auditor = Auditor(words, environment, lambda seen: self._orders.put(Audited(seen)))
            self._auditor.enter(scheduler, self._options.audit_every)
            parts.callback(self._auditor.stop)
        scheduler.start()
        parts.callback(scheduler.shutdown, wait=False)

    def _ask_to_mend(self, stir: Stir, stopping: threading.Event) -> Mended:
        """Have the main thread mend, and wait for it; called by the mender's thread."""
        outcome: Future[Mended] = Future()
        self._orders.put(Stirred(stir, outcome))
        while not stopping.is_set():
            with contextlib.suppress(TimeoutError):
                return outcome.result(0.2)
        return None

    def _back_up(self) -> None:
        keep(self._site.database, lambda line: logger.warning("{}", line))

    # Serving

    def _obey(self) -> str:
        """Carry out orders until one says stop; returns why."""
        while True:
            match self._orders.get():
                case Stop(why):
                    return why
                case Reload():
                    self._life.reload()
                    self._reload()
                    self._judge()
                case Surveyed(differences):
                    self._keeper.surveyed(differences)
                    self._judge()
                case Audited(seen):
                    if self._keeper.audited(seen) and self._auditor is not None:
                        self._auditor.hurry()
                    self._judge()
                    collector.release()
                case Stirred(stir, outcome):
                    outcome.set_result(self._keeper.mend(stir))
                    self._judge()
                case Ended(result):
                    result.result()
                    return "the DHCP server ended"

    def _reload(self) -> None:
        """Take pool, reservations and settings as they are now; keep the old ones where one of them cannot be had."""
        try:
            pool = Book(self._database).pool()
            if pool is None:
                raise SpecError("the database holds no pool any more", hint="stop this daemon")
            if self._server is not None:
                self._server.reload(self._keeper.served(pool), self._settings())
            context = self._context()
            if self._survey is not None and context is not None:
                self._survey.context = context
        except CocoonError as error:
            logger.error("the pool was not read again: {}", error.told)
            return
        self._pool = pool
        logger.info("the pool was read again: {} addresses of {}", len(pool.addresses), pool.subnet)

    def _settings(self) -> Settings:
        """Read what the operator set about DHCP. Raises SpecError, NodeError."""
        from cocoon_net.dhcp.settings import Settings, parse

        path = self._site.dhcp_settings
        try:
            return parse(path.read_text(encoding="utf-8"), str(path))
        except FileNotFoundError:
            if self._site.dhcp_settings_override is None:
                return Settings()
            raise SpecError(f"{path} is not there", hint="make it, or leave --dhcp-settings out") from None
        except (OSError, UnicodeDecodeError) as error:
            raise NodeError(f"{path} cannot be read: {error}") from error

    def _links(self) -> tuple[str, ...]:
        context = self._survey.context if self._survey is not None else None
        return settled_links(context) if context is not None else ()

    def _serving(self) -> str:
        return f"{len(self._pool.addresses)} addresses of {self._pool.subnet}"

    def _judge(self) -> None:
        """Be degraded while something is wrong that an operator should look at."""
        reasons = self._keeper.reasons
        if reasons:
            more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
            reason = f"{reasons[0]}{more}"
            if reason != self._life.reason or self._life.phase is not Phase.DEGRADED:
                self._life.degrade(reason)
        elif self._life.phase is not Phase.SERVING:
            self._life.recover(self._serving())

    # What is known

    def _context(self) -> Context | None:
        """Return what the engine knows of this node; None when no run of ours ended here."""
        journal = Journal(self._database)
        run = journal.latest("init", "adopt")
        if run is None:
            return None
        return Context(run.spec, run.instance, journal.ledger(), run.lineage, self._clock.now())

    def _bound(self) -> set[IPv4Address]:
        return {IPv4Address(lease.address) for lease in self._server.leases()} if self._server else set()

    def _persist(self, phase: Phase, reason: str) -> None:
        note = {
            "phase": phase.value,
            "reason": reason,
            "since": self._clock.now().isoformat(timespec="seconds"),
            "pid": os.getpid(),
        }
        try:
            self._database.table("meta").upsert({"name": DAEMON_NOTE, "value": json.dumps(note)}, pk="name")
        except sqlite3.Error as error:
            logger.warning("the phase could not be written down: {}", error)


def _log(phase: Phase, reason: str) -> None:
    level = "WARNING" if phase is Phase.DEGRADED else "INFO"
    logger.log(level, "{}{}", phase.value, f": {reason}" if reason else "")


def _complain(event: Event, error: Exception) -> None:
    logger.opt(exception=error).error("a listener failed on {}", event)
