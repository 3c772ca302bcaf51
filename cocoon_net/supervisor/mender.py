"""What changes in the kernel is put right at once: the kernel's notices wake the service, not the next audit.

::

    notice ─▶ gather for a moment ─▶ order to the main thread ─▶ look at the steps concerned, repair ─▶ rest ─▶ …

A thread of its own waits for the notices; it decides nothing but when.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from loguru import logger

from cocoon_net.errors import CocoonError
from cocoon_net.node.notices import Notices, Stir, Topic

GATHER = 0.05
"""Seconds that are waited for what belongs to the same change: taking a link down is told in several notices."""

REST = 0.2
"""Seconds between two looks at the least."""

TUG, WITHIN, TRUCE = 20, 60.0, 15.0
"""So many repairs within so many seconds are a tug-of-war with somebody: from then on one each 15 s."""

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


class Outcome(StrEnum):
    """What came of a look."""

    RIGHT = "right"
    MENDED = "mended"
    LATER = "later"


def steps_of(stir: Stir) -> frozenset[str]:
    """Return the steps to look at. Pure."""
    return frozenset().union(*(CONCERNS[topic] for topic in stir.topics))


def rest(mended: Sequence[float], now: float) -> float:
    """Return how many seconds to rest after a look, from the moments of the last repairs. Pure."""
    return TRUCE if len([at for at in mended if now - at < WITHIN]) >= TUG else REST


class Mender:
    """Waits for notices and has ``mend`` look, one at a time; ``mend`` may take as long as it wants, until ``stop``.

    The notices are closed by whoever opened them.
    """

    def __init__(self, notices: Notices, mend: Callable[[Stir, threading.Event], Outcome]) -> None:
        self._notices, self._mend = notices, mend
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mender", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Listen no more; what is under way is ended by whoever does it."""
        self._stopping.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        left, mended = Stir(), deque[float](maxlen=TUG)
        while not self._stopping.is_set():
            try:
                stir = left | self._notices.wait(AGAIN if left else 0.5)
                if not stir:
                    continue
                self._stopping.wait(GATHER)
                left = stir | self._notices.wait(0.0)
                outcome = self._mend(left, self._stopping)
            except CocoonError as error:
                logger.warning("{}", error.message)
                self._stopping.wait(AGAIN)
                continue
            now = time.monotonic()
            match outcome:
                case Outcome.LATER:
                    self._stopping.wait(AGAIN)
                    continue
                case Outcome.MENDED:
                    mended.append(now)
            left = Stir()
            pause = rest(mended, now)
            if pause == TRUCE:
                logger.warning("somebody undoes what is put right: from now on once each {:g} s", TRUCE)
            self._stopping.wait(pause)
