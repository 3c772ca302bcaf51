"""Lease events as log lines, written by a thread of its own: a line costs as much as a lease.

Under a storm the lines that cannot be kept up with are counted, not written: the log stays bounded, and so does
memory.
"""

from __future__ import annotations

import threading
from queue import Empty, Full, Queue

from loguru import logger

from cocoon_net.events import (
    Bus,
    Event,
    LeaseBound,
    LeaseDeclined,
    LeaseExpired,
    LeaseReleased,
    LeaseRenewed,
    PoolExhausted,
    RouteFailed,
    RouteInstalled,
    RouteWithdrawn,
)

PENDING = 1000
"""Events that wait for their line at most."""

QUIET = 60.0
"""Seconds between two complaints that the pool is exhausted."""


class Narrator:
    """Listens to a bus, counts the promises, and tells what happened."""

    def __init__(self, bus: Bus) -> None:
        self.acknowledged = 0
        """Leases bound or renewed since the start."""
        self._queue: Queue[Event | None] = Queue(PENDING)
        self._unwritten = 0
        self._exhausted_at = 0.0
        self._thread = threading.Thread(target=self._run, name="narrator", daemon=True)
        bus.subscribe(Event, self._take)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is pending, for a moment at most."""
        try:
            self._queue.put(None, timeout=0.2)
        except Full:
            return
        self._thread.join(timeout=0.3)

    def _take(self, event: Event) -> None:
        if isinstance(event, LeaseBound | LeaseRenewed):
            self.acknowledged += 1
        try:
            self._queue.put_nowait(event)
        except Full:
            self._unwritten += 1

    def _run(self) -> None:
        while True:
            try:
                event = self._queue.get(timeout=None if not self._unwritten else 0.5)
            except Empty:
                logger.warning("{} lease events came too fast and were not written here", self._unwritten)
                self._unwritten = 0
                continue
            if event is None:
                return
            self._tell(event)

    def _tell(self, event: Event) -> None:
        match event:
            case LeaseBound(_, address, mac, expires, hostname):
                until = expires.strftime("%Y-%m-%dT%H:%M:%SZ")
                logger.bind(address=address, mac=mac, until=until, hostname=hostname).info("lease bound")
            case LeaseRenewed(_, address, mac, expires):
                until = expires.strftime("%Y-%m-%dT%H:%M:%SZ")
                logger.bind(address=address, mac=mac, until=until).debug("lease renewed")
            case LeaseReleased(_, address, mac, by):
                logger.bind(address=address, mac=mac, by=by).info("lease released")
            case LeaseExpired(_, address, mac):
                logger.bind(address=address, mac=mac).info("lease expired")
            case LeaseDeclined(_, address, mac, until):
                fields = logger.bind(address=address, mac=mac, until=until.strftime("%Y-%m-%dT%H:%M:%SZ"))
                fields.warning("address declined: somebody else uses it")
            case PoolExhausted(at, mac):
                if at.timestamp() - self._exhausted_at >= QUIET:
                    self._exhausted_at = at.timestamp()
                    logger.bind(mac=mac).warning("no address is free in the pool")
            case RouteFailed(_, address, code):
                logger.bind(address=address, errno=code).error("the kernel refused a route")
            case RouteInstalled(_, address):
                logger.bind(address=address).debug("route installed")
            case RouteWithdrawn(_, address):
                logger.bind(address=address).debug("route withdrawn")
            case _:
                logger.debug("{}", event)
