"""Time as an argument: the real clock, and one that a test moves by hand."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What the rest of the code may know of time."""

    def now(self) -> datetime:
        """Return the wall clock, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back, for deadlines."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait; only the runner, the scheduler, the budget of API calls, the DHCP loop's crowd and the lab may."""
        ...


JUMP = 10.0
"""Seconds by which the wall clock must leave the monotonic one between two looks to have jumped; slewing is slower."""


class Jumps:
    """Notices when the wall clock jumped: somebody set it, or time synchronisation found it far off."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = self._seen = self._read()

    def look(self) -> float:
        """Return by how many seconds the wall clock jumped since the last ``accept``; 0 when it did not."""
        self._seen = self._read()
        by = self._seen - self._offset
        if abs(by) >= JUMP:
            return by
        self._offset = self._seen
        return 0.0

    def accept(self) -> None:
        """Take the wall clock as the last look saw it for right; what it did since is for the next one."""
        self._offset = self._seen

    def now(self) -> float:
        """Return the wall clock in Unix seconds as if it had not jumped since: a jump may come right after a look."""
        return self._clock.monotonic() + self._offset

    def _read(self) -> float:
        while True:
            before, wall, after = self._clock.monotonic(), self._clock.now().timestamp(), self._clock.monotonic()
            if after - before < 1.0:  # else we were held up in between, which is no jump
                return wall - after


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the wall clock, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return ``time.monotonic()``."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Sleep for real."""
        if seconds > 0:
            time.sleep(seconds)


class ManualClock:
    """A clock for tests: sleeping moves it, nothing waits."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = 0.0
        self._lock = threading.Lock()
        self.slept: list[float] = []

    def now(self) -> datetime:
        """Return the start plus what has been slept or advanced."""
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        """Return the seconds slept or advanced so far."""
        return self._elapsed

    def sleep(self, seconds: float) -> None:
        """Advance at once and note the wish in ``slept``."""
        self.slept.append(seconds)
        self.advance(seconds)

    def jump(self, seconds: float) -> None:
        """Set the wall clock, and only that, forward or back."""
        self._start += timedelta(seconds=seconds)

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        with self._lock:
            self._elapsed += max(0.0, seconds)
