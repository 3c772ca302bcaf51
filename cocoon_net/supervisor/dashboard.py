"""All that can be seen of the service, in one place: the readings behind the metrics, health, the view of the node.

Whoever asks pays: everything is read when it is asked for, in the asker's thread, with a database connection of its
own. The view is the one document behind the status page, ``GET /v1/view`` and ``status --watch``.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cocoon_net import records
from cocoon_net.audit.finding import Finding, Kind
from cocoon_net.audit.register import Register
from cocoon_net.clock import Clock
from cocoon_net.engine.journal import Journal
from cocoon_net.errors import CocoonError
from cocoon_net.site import Site
from cocoon_net.store import open_database
from cocoon_net.supervisor import board, guests, view
from cocoon_net.supervisor.feed import Feed
from cocoon_net.supervisor.lifecycle import ANSWERING, Lifecycle
from cocoon_net.supervisor.metrics import Readings
from cocoon_net.supervisor.narrator import Narrator
from cocoon_net.supervisor.survey import Survey

if TYPE_CHECKING:
    from sqlite_utils import Database

    from cocoon_net.dhcp.server import Server

FRESH = 1.0
"""Seconds for which a view is shown again instead of being made anew, however many look at it."""


class Dashboard:
    """What is seen of one living service. ``pool`` and ``survey`` are asked for, since a reload replaces them."""

    def __init__(
        self,
        site: Site,
        clock: Clock,
        life: Lifecycle,
        server: Server,
        narrator: Narrator,
        feed: Feed,
        pool: Callable[[], records.Pool],
        survey: Callable[[], Survey | None],
        mended: Callable[[], Mapping[Kind, int]],
    ) -> None:
        self._site, self._clock, self._life, self._server = site, clock, life, server
        self._narrator, self._pool, self._survey, self._mended = narrator, pool, survey, mended
        self.feed = feed
        self._lock = threading.Lock()
        self._database: Database | None = None
        self._shown: tuple[float, dict[str, Any]] | None = None

    def close(self) -> None:
        """Give the connection back, and end the streams."""
        self.feed.close()
        with self._lock:
            if self._database is not None:
                self._database.close()
            self._database = None

    def readings(self) -> Readings:
        """Return what is measured right now."""
        with self._books() as (journal, register):
            return board.readings(
                self._narrator.acknowledged,
                self._life,
                self._server.snapshot(),
                self._survey(),
                journal.answers.read(),
                workflow=view.workflow(journal),
                room=view.room(journal, len(self._pool().addresses)),
                findings={**register.counts(), **Counter(finding.kind for finding in self._of_guests())},
                audited=register.last(),
                mended=self._mended(),
            )

    def view(self) -> dict[str, Any]:
        """Return the view of this node, a second old at most."""
        if (shown := self._fresh()) is not None:
            return shown
        with self._books() as (journal, register):
            if (shown := self._fresh()) is not None:  # somebody else asked for it while we waited
                return shown
            survey = self._survey()
            seen = view.assemble(
                journal,
                self._pool(),
                (*self._server.others(), *self._server.offers(), *self._server.leases()),
                daemon=view.Daemon(self._life.phase.value, self._life.reason),
                findings=[finding.as_json() for finding in (*register.open_findings(), *self._of_guests())],
                withdrawn=register.withdrawn(),
                wrong_links=survey.nics.wrong if survey else {},
                events=self.feed.latest(),
                now=self._clock.now(),
            )
            self._shown = time.monotonic(), seen
        return seen

    def _fresh(self) -> dict[str, Any] | None:
        shown = self._shown
        return shown[1] if shown is not None and time.monotonic() - shown[0] < FRESH else None

    def status(self) -> dict[str, Any]:
        """Return what ``GET /v1/status`` answers."""
        return board.status(self._life, self._pool(), self._server.snapshot(), self._survey(), self._server.findings())

    def findings(self) -> list[dict[str, Any]]:
        """Return what is wrong now: what audits found, the oldest first, then what guests do."""
        with self._books() as (_, register):
            return [finding.as_json() for finding in (*register.open_findings(), *self._of_guests())]

    def _of_guests(self) -> list[Finding]:
        return guests.findings(self._server.others(), self._server.findings(), self._clock.now())

    def unhealthy(self) -> str:
        """Return why the process should be restarted; empty while its DHCP loop does its work."""
        try:
            self._server.check()
        except CocoonError as error:
            return error.message
        return ""

    def unready(self) -> str:
        """Return why guests are not served; empty while they are."""
        if self._life.phase not in ANSWERING:
            return f"{self._life.phase.value}{f': {self._life.reason}' if self._life.reason else ''}"
        if not self._server.snapshot().serving:
            return f"the bridge {records.BRIDGE} is not there"
        return self.unhealthy()

    @contextlib.contextmanager
    def _books(self) -> Iterator[tuple[Journal, Register]]:
        with self._lock:
            if self._database is None:
                self._database = open_database(self._site.database)
            yield Journal(self._database), Register(self._database)
