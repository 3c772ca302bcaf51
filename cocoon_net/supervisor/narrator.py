"""Lease events as log lines, written by a thread of its own: a line costs as much as a lease.

Only the first event after a silence wakes the thread, and it goes back to sleep at once: while the DHCP loop is in a
system call, every other running thread keeps it from coming back for as long as the interpreter lets it
(``service.SWITCH_AFTER``). So it gathers for a moment, and writes a bounded number of lines; under a storm the rest is
counted, and told as one line. While nothing happens it sleeps.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque

from loguru import logger

from cocoon_net.events import (
    AddressInUse,
    Bus,
    Event,
    LeaseBound,
    LeaseDeclined,
    LeaseExpired,
    LeaseReleased,
    LeaseRenewed,
    PoolExhausted,
    PortRefused,
    RouteFailed,
    RouteInstalled,
    RouteWithdrawn,
)
from cocoon_net.records import BRIDGE
from cocoon_net.supervisor.feed import Feed
from cocoon_net.supervisor.refusals import Refusals, meaning

PENDING = 200
"""Events that wait for their line at most: a boot storm of a node is told line by line."""

LINES = 50
"""Lines a second once those are used up."""

EVERY = 0.1
"""Seconds between two looks at what has happened, once something has."""

AT_ONCE, APART = 5, 0.005
"""Lines in one go, and seconds before the next ones: a line holds the DHCP loop up for as long as it takes, 0.1 ms."""

QUIET = 60.0
"""Seconds between two complaints that the pool is exhausted."""


class Narrator:
    """Listens to a bus, counts the promises, and tells what happened; ``verbose``: also what is only for debugging.

    What it tells it hands to ``feed``, too; renewals only while somebody listens there.

    Lines that the log's level leaves out are not even thought of: they would use up those that matter.
    """

    def __init__(self, bus: Bus, *, verbose: bool = False, feed: Feed | None = None) -> None:
        self.acknowledged = 0
        """Leases bound or renewed since the start."""
        self._pending: deque[Event] = deque()
        self._unwritten: Counter[str] = Counter()
        self._refusals = Refusals()
        self._exhausted_at = 0.0
        self._stop = threading.Event()
        self._happened = threading.Event()
        self._asleep = False
        self._thread = threading.Thread(target=self._run, name="narrator", daemon=True)
        self._verbose = verbose
        self._feed = feed or Feed()
        for kind in (Event,) if verbose else _TOLD:
            bus.subscribe(kind, self._take)
        for promise in (LeaseBound, LeaseRenewed):
            bus.count(promise, self._wanted)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is pending, for a moment at most."""
        self._stop.set()
        self._happened.set()
        self._thread.join(timeout=0.5)

    def _take(self, event: Event) -> None:
        kind = type(event)
        if kind is LeaseBound or kind is LeaseRenewed:
            if not self._wanted(kind, 1):
                return
            self.acknowledged += 1
        if isinstance(event, RouteFailed):
            if self._refusals.note(event, time.monotonic()):
                self._pending.append(event)  # however many wait: there is one for each reason
        elif len(self._pending) < PENDING:
            self._pending.append(event)
        else:
            self._unwritten[_KINDS.get(kind, kind.__name__)] += 1
        self._wake()

    def _wanted(self, kind: type[Event], count: int) -> int:
        """Return how many of so many promises may get a line; the others are counted: they need not be made events."""
        if kind is LeaseRenewed and not (self._verbose or self._feed.heard):
            self.acknowledged += count
            return 0
        wanted = min(count, max(0, PENDING - len(self._pending)))
        if wanted < count:
            self.acknowledged += count - wanted
            self._unwritten[_KINDS[kind]] += count - wanted
            self._wake()
        return wanted

    def _wake(self) -> None:
        if self._asleep:
            self._asleep = False
            self._happened.set()

    def _run(self) -> None:
        allowed, then = float(PENDING), time.monotonic()
        while not self._stop.wait(EVERY):
            self._sleep()
            now = time.monotonic()
            allowed, then = min(float(PENDING), allowed + (now - then) * LINES), now
            allowed -= self._write(int(allowed))
            if line := self._refusals.tell(now):
                logger.warning("{}", line)
        self._write(PENDING)

    def _sleep(self) -> None:
        """Sleep until something happens, if nothing is left to be told; then for a moment, for what comes with it."""
        self._happened.clear()
        self._asleep = True  # before the look: who comes after it sees that we are to be woken
        if self._pending or self._unwritten or self._refusals.pending or self._stop.is_set():
            self._asleep = False
            return
        self._happened.wait()
        self._stop.wait(EVERY)

    def _write(self, most: int) -> int:
        """Write up to ``most`` lines, and how many could not be kept up with; returns how many were written."""
        written = 0
        while self._pending and written < most:
            if written and written % AT_ONCE == 0:
                self._stop.wait(APART)
            event = self._pending.popleft()
            self._tell(event)
            self._feed.publish(event)
            written += 1
        if not self._pending and self._unwritten:
            unwritten, self._unwritten = self._unwritten, Counter()
            told = ", ".join(f"{count} {kind}" for kind, count in sorted(unwritten.items()))
            logger.warning("too fast to be written one by one: {}", told)
        return written

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
            case AddressInUse(_, address, mac, until):
                fields = logger.bind(address=address, mac=mac, until=until.strftime("%Y-%m-%dT%H:%M:%SZ"))
                fields.warning("address in use without a lease")
            case PoolExhausted(at, mac):
                if at.timestamp() - self._exhausted_at >= QUIET:
                    self._exhausted_at = at.timestamp()
                    logger.bind(mac=mac).warning("no address is free in the pool")
            case PortRefused(_, port, reason, mac, count):  # the guard says it once a minute
                logger.bind(port=port, mac=mac, count=count).warning("not answered: {}", reason)
            case RouteFailed(_, address, code):
                said, advice = meaning(code)
                fields = logger.bind(address=address, link=BRIDGE, errno=code)
                fields.error("the kernel refused a route: {}; {}", said, advice)
            case RouteInstalled(_, address):
                logger.bind(address=address).debug("route installed")
            case RouteWithdrawn(_, address):
                logger.bind(address=address).debug("route withdrawn")
            case _:
                logger.debug("{}", event)


_KINDS: dict[type[Event], str] = {
    LeaseBound: "leases bound",
    LeaseRenewed: "leases renewed",
    LeaseReleased: "leases released",
    LeaseExpired: "leases expired",
    LeaseDeclined: "addresses declined",
    PoolExhausted: "asked in vain",
    RouteInstalled: "routes installed",
    RouteWithdrawn: "routes withdrawn",
}
"""What an event that got no line of its own is counted as."""

_TOLD: tuple[type[Event], ...] = (
    LeaseBound,
    LeaseRenewed,
    LeaseReleased,
    LeaseExpired,
    LeaseDeclined,
    AddressInUse,
    PoolExhausted,
    PortRefused,
    RouteFailed,
)
"""What is heard at the usual level; of renewals only the number. Routes that come and go are for debugging."""
