"""How long things took, in buckets: one observation per batch, however many messages share it."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Upper bounds in seconds; what took longer is in a bucket of its own."""


class Times(NamedTuple):
    """A histogram at one moment."""

    counts: tuple[int, ...]
    """Per bound, and one more for what took longer; not cumulated."""
    seconds: float

    def cumulated(self) -> list[tuple[str, int]]:
        """Return (upper bound, how many took at most so long), as Prometheus counts."""
        out, total = [], 0
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), self.counts, strict=True):
            total += count
            out.append((bound, total))
        return out


class Histogram:
    """Counts durations. One thread observes, any may read."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0

    def observe(self, seconds: float, count: int = 1) -> None:
        """Note that ``count`` things took ``seconds`` each."""
        self._counts[bisect_left(BOUNDS, seconds)] += count
        self._seconds += seconds * count

    def read(self) -> Times:
        """Return what was counted so far."""
        return Times(tuple(self._counts), self._seconds)


NOTHING = Times((0,) * (len(BOUNDS) + 1), 0.0)
