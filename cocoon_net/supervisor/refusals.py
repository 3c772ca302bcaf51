"""Routes that the kernel refused, as a few lines: one for each reason, one a minute, one when it is over.

A bridge that is made anew refuses the routes of all its leases at once, and each of them is tried again every second.
"""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass, field

from cocoon_net.events import RouteFailed
from cocoon_net.node.netlink import refusal
from cocoon_net.records import BRIDGE

OVER = 5.0
"""Seconds without a refusal after which it is over: the route of a lease that has none is asked for every second."""

REMIND = 60.0
"""Seconds between two lines while it goes on."""

_ABSENT = frozenset((errno.ENODEV, errno.ENXIO, errno.ENETDOWN, errno.ENETUNREACH))


def meaning(code: int) -> tuple[str, str]:
    """Return an errno as text with its name, and what to do next. Pure."""
    said = f"{os.strerror(code)} ({errno.errorcode.get(code, code)})"
    match code:
        case _ if code in _ABSENT:
            return said, (
                f"{BRIDGE} is not there or down, which the daemon puts right; "
                f"if no line says soon that this is over: `ip -d link show {BRIDGE}`, `cocoon-net audit`"
            )
        case errno.EIO:
            return said, f"the kernel did not answer, and is asked what it has; `ip route show dev {BRIDGE}` shows it"
        case _:
            error = refusal(code, "route")
            again = f"it is tried again every second; `ip route show dev {BRIDGE}` shows what is there"
            return said, again if error.retryable else error.hint


@dataclass(slots=True)
class _Episode:
    """Refusals that follow each other; times in monotonic seconds."""

    began: float
    last: float
    told: float
    count: int = 0
    addresses: set[int] = field(default_factory=set)
    codes: set[int] = field(default_factory=set)


class Refusals:
    """Noted by the thread that changes routes, told by another one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._episode: _Episode | None = None

    @property
    def pending(self) -> bool:
        """Whether a line is still to come."""
        return self._episode is not None

    def note(self, event: RouteFailed, now: float) -> bool:
        """Note a refusal; returns whether it is the first one for its reason, and so deserves a line of its own."""
        with self._lock:
            episode = self._episode = self._episode or _Episode(now, now, now)
            episode.last = now
            episode.count += 1
            episode.addresses.add(int(event.address))
            first = event.errno not in episode.codes
            episode.codes.add(event.errno)
            return first

    def tell(self, now: float) -> str:
        """Return the line that is due: that it goes on, or that it is over; empty when none is."""
        with self._lock:
            episode = self._episode
            if episode is None:
                return ""
            spent = f"{episode.count} refusals within {episode.last - episode.began:.1f} s"
            many = len(episode.addresses)
            these = f"the routes of {many} addresses" if many > 1 else "the route of one address"
            if now - episode.last >= OVER:
                self._episode = None
                return f"the kernel refuses no route any more: it had refused {these}, {spent}"
            if now - episode.told >= REMIND:
                episode.told = now
                return f"the kernel goes on refusing {these}, {spent}"
            return ""
