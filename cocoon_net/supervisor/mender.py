"""What changes in the kernel is put right at once: the kernel's notices wake the service, not the next audit.

::

    notice ─▶ gather for a moment ─▶ order to the main thread ─▶ look at the steps concerned, repair ─▶ rest ─▶ …

A thread of its own waits for the notices; it decides nothing but when.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping

from loguru import logger

from cocoon_net.errors import CocoonError
from cocoon_net.node.notices import Notices, Stir, Topic

GATHER = 0.05
"""Seconds that are waited for what belongs to the same change: taking a link down is told in several notices."""

LEAVING, LONGEST = 0.01, 1.0
"""Seconds without another port that left its bridge until all have, and how long that is waited for at most.

The kernel takes 60 ms for 250 ports of a bridge that is deleted."""

REST = 0.2
"""Seconds between two looks at the least."""

TUG, WITHIN, TRUCE = 20, 60.0, 15.0
"""So many repairs of one thing within so many seconds are a tug-of-war with somebody: from then on one each 15 s."""

REMEMBERED = 2_000
"""Repairs, so that thousands of routes at once take no more memory than that."""

IDLE = 60.0
"""Seconds between two looks at the clock while nothing is told."""

AGAIN = 1.0
"""Seconds until it is tried again when a run is in the way, or a look failed."""

CONCERNS: Mapping[Topic, frozenset[str]] = {
    Topic.LINK: frozenset(("links", "bridge", "sysctl", "firewall")),  # rules and settings name links
    Topic.ADDRESS: frozenset(("bridge",)),
    Topic.ROUTE: frozenset(),
    Topic.SETTING: frozenset(("sysctl",)),
    Topic.RULES: frozenset(("firewall",)),
    Topic.LOST: frozenset(("links", "bridge", "sysctl", "firewall")),
}
"""Topic -> the steps that want something of it. Routes are the DHCP server's."""


Mended = frozenset[str] | None
"""What came of a look: what was put right, by name; None where it has to be done later."""


def steps_of(stir: Stir) -> frozenset[str]:
    """Return the steps to look at. Pure."""
    return frozenset().union(*(CONCERNS[topic] for topic in stir.topics))


def rest(mended: Iterable[tuple[float, str]], now: float) -> float:
    """Return how many seconds to rest after a look, from the last repairs: when, and of what. Pure."""
    often = Counter(what for at, what in mended if now - at < WITHIN)
    return TRUCE if max(often.values(), default=0) >= TUG else REST


class Mender:
    """Waits for notices and has ``mend`` look, one at a time; ``mend`` may take as long as it wants, until ``stop``.

    The notices are closed by whoever opened them.
    """

    def __init__(self, notices: Notices, mend: Callable[[Stir, threading.Event], Mended]) -> None:
        self._notices, self._mend = notices, mend
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mender", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Listen no more; what is under way is ended by whoever does it."""
        self._stopping.set()
        self._notices.wake()
        self._thread.join(5.0)

    def _run(self) -> None:
        left, mended = Stir(), deque[tuple[float, str]](maxlen=REMEMBERED)
        while not self._stopping.is_set():
            try:
                stir = left | self._notices.wait(AGAIN if left else IDLE)
                if not stir:
                    continue
                left = self._gathered(stir)
                done = self._mend(left, self._stopping)
            except CocoonError as error:
                logger.warning("{}", error.told)
                self._stopping.wait(AGAIN)
                continue
            if done is None:
                self._stopping.wait(AGAIN)
                continue
            now = time.monotonic()
            mended += ((now, what) for what in done)
            left = Stir()
            pause = rest(mended, now)
            if pause == TRUCE:
                logger.warning("somebody undoes what is put right: from now on once each {:g} s", TRUCE)
            self._stopping.wait(pause)

    def _gathered(self, stir: Stir) -> Stir:
        """Return a change with what belongs to it; ports that leave a bridge are to be plugged in again together."""
        self._stopping.wait(GATHER)
        now = until = time.monotonic()
        longest = now + LONGEST
        while True:
            more = self._notices.wait(max(until - now, 0.0))
            now = time.monotonic()
            stir |= more
            if more.unplugged:
                until = min(now + LEAVING, longest)
            if now >= until:
                return stir
