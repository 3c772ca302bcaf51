"""The daemon's front door: be the only one, find the pool to serve, listen to signals, and live until told to stop.

::

    lock ─▶ database ─▶ (take over) ─▶ PID ─▶ links? ─▶ reassert ─▶ DHCP ─▶ control, metrics, survey ─▶ serving

Nothing heavy is imported before it is needed: ``daemon --help`` comes here for a default.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import TYPE_CHECKING

from cocoon_net.dhcp.limits import Limits
from cocoon_net.errors import SpecError
from cocoon_net.records import Pool
from cocoon_net.site import Site
from cocoon_net.supervisor.presence import alone, pid_written

if TYPE_CHECKING:
    from sqlite_utils import Database

    from cocoon_net.supervisor.service import Order


METRICS_ADDRESS = "127.0.0.1:9092"
"""Loopback unless told otherwise: docs/decisions/0012-who-may-look.md."""


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """What ``daemon`` was asked for besides the places."""

    skip_iptables: bool = False
    metrics_address: str = METRICS_ADDRESS
    """Empty turns the endpoint off."""
    control: bool = True
    """Whether there is a control socket; where it is, the site says."""
    look_every: float = 60.0
    """Seconds between two looks at the kernel."""
    audit_every: float = 180.0
    """Seconds between two audits; 0 has none."""
    check_conflicts: bool = False
    """Whether an address is asked about by ARP before it is first offered."""
    limits: Limits = field(default_factory=Limits)
    """What one port of the bridge may have of the DHCP server."""


def serve(site: Site, options: DaemonOptions) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the pool again.

    Raises Locked beside another daemon, SpecError when there is nothing to serve, Refused, StoreError, and what the
    DHCP server raises when it cannot go on.
    """
    from loguru import logger

    from cocoon_net.recovery import open_sound, recall
    from cocoon_net.supervisor import collector
    from cocoon_net.supervisor.service import Service
    from cocoon_net.supervisor.web import parse_address

    if options.metrics_address:
        parse_address(options.metrics_address)
    orders: SimpleQueue[Order] = SimpleQueue()
    with contextlib.ExitStack() as stack:
        stack.enter_context(collector.resting())
        stack.enter_context(_signals(orders))
        stack.enter_context(alone(site, logger.warning))
        database = stack.enter_context(
            contextlib.closing(open_sound(site, site.run_lock, logger.warning, f"daemon, pid {os.getpid()}"))
        )
        pool = _pool(site, database)
        for line in recall(site, database, pool, int(time.time())):
            logger.warning("{}", line)
        stack.enter_context(pid_written(site.pid_file))
        Service(site, options, database, pool, orders).live()


def _pool(site: Site, database: Database) -> Pool:
    """Return what there is to serve, taken over from the Go tool if need be. Raises SpecError when there is nothing."""
    from loguru import logger

    from cocoon_net.dhcp.book import Book
    from cocoon_net.engine.journal import Journal
    from cocoon_net.supervisor import takeover

    pool = Book(database).pool()
    if pool is not None and not takeover.pending(database):
        return pool
    taken = takeover.take_over(site, database, datetime.now(UTC))
    if taken is None:
        unfinished = Journal(database).unfinished()
        if unfinished is not None:
            raise SpecError(
                f"{unfinished.id} is not finished, so there is no pool to serve yet",
                hint=f"run `cocoon-net run {unfinished.workflow} --resume` first",
            )
        raise SpecError(f"there is no pool in {site.state_dir}", hint="run `cocoon-net init` first")
    for complaint in taken.complaints:
        logger.warning("{}", complaint)
    logger.info(
        "took over from the Go cocoon-net: {} addresses of {}, {} leases",
        len(taken.pool.addresses),
        taken.pool.subnet,
        taken.leases,
    )
    return taken.pool


@contextlib.contextmanager
def _signals(orders: SimpleQueue[Order]) -> Iterator[None]:
    """Turn SIGTERM, SIGINT and SIGHUP into orders; ``SimpleQueue.put`` may be called from a handler."""

    from cocoon_net.supervisor.service import Reload, Stop

    def stop(number: int, frame: object) -> None:
        orders.put(Stop(signal.Signals(number).name))

    def reload(number: int, frame: object) -> None:
        orders.put(Reload())

    before = {
        number: signal.signal(number, handler)
        for number, handler in ((signal.SIGHUP, reload), (signal.SIGTERM, stop), (signal.SIGINT, stop))
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
