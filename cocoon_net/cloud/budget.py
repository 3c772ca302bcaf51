"""The budget of API calls that a process allows itself: a token bucket whose rate yields when the cloud throttles.

A wait for a token comes before the call and is admission, not a retry: what was refused is asked again by the runner
alone, after it has looked again. All calls of the process share the one bucket, so a refusal slows all of them.

The rate moves by AIMD, as TCP's window does (Chiu and Jain, 1989): a refusal halves it, each answer adds a constant.
After a refusal nothing is sent for a random time of up to one interval of the new rate (full jitter), so that nodes
that were refused together do not come back together. Refusals of calls that were on their way at the first one say
nothing new and count once. How it behaves with 200 nodes: ``scripts/fleet``.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping

from cocoon_net.clock import Clock
from cocoon_net.errors import CloudNotAsked, SpecError
from cocoon_net.stop import TICK, Stop

RATE = 10.0
"""Calls per second in the long run. Other clients of this API allow themselves 4 (Terraform, cello), but only reads."""

BURST = 40.0
"""Calls at once after a rest: an init of seven interfaces takes about 40 and never waits for itself."""

SLOWEST = 0.1
"""Calls per second below which no refusal pushes us: 200 nodes at this rate make 20 calls per second together."""

RECOVERY = 0.01
"""The part of the full rate that each answer gives back: after a refusal it takes 50 answers, whatever the rate."""


class Bucket:
    """The arithmetic, with time as an argument. ``now`` is in monotonic seconds."""

    def __init__(self, rate: float, burst: float, rng: random.Random) -> None:
        self.rate = rate
        """Calls per second at this moment."""
        self._full_rate, self._full_burst = rate, burst
        self._tokens, self._since = burst, 0.0
        self._resume = self._refused_at = float("-inf")
        self._rng = rng

    def take(self, now: float) -> float:
        """Take a token and return 0, or return how many seconds to wait before asking again."""
        room = max(1.0, self._full_burst * self.rate / self._full_rate)
        self._tokens = min(room, self._tokens + max(0.0, now - self._since) * self.rate)
        self._since = now
        if now < self._resume:
            return self._resume - now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return max((1.0 - self._tokens) / self.rate, 0.001)

    def answered(self) -> None:
        """Speed up by a little: a call was not refused for coming too often."""
        self.rate = min(self._full_rate, self.rate + self._full_rate * RECOVERY)

    def throttled(self, sent: float, now: float) -> None:
        """Slow down: a call that was sent at ``sent`` was refused for coming too often."""
        if sent <= self._refused_at:
            return
        self.rate = max(min(SLOWEST, self._full_rate), self.rate / 2)
        self._tokens, self._since, self._refused_at = 0.0, now, now
        self._resume = now + self._rng.uniform(0.0, 1.0 / self.rate)


class Budget:
    """Admits the calls of one process, from any thread."""

    def __init__(
        self,
        clock: Clock,
        *,
        rate: float = RATE,
        burst: float = BURST,
        rng: random.Random | None = None,
        stop: Stop | None = None,
    ) -> None:
        self._clock = clock
        self._stop = stop or Stop()
        self._bucket = Bucket(rate, burst, rng or random.Random())
        self._lock = threading.Lock()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], clock: Clock, stop: Stop | None = None) -> Budget:
        """Read ``COCOON_NET_API_RATE`` (calls per second) and ``COCOON_NET_API_BURST``. Raises SpecError."""
        names = {"COCOON_NET_API_RATE": RATE, "COCOON_NET_API_BURST": BURST}
        problems, values = [], []
        for name, default in names.items():
            text = environ.get(name) or str(default)
            try:
                value = float(text)
            except ValueError:
                value = 0.0
            if not 0.01 <= value <= 10_000:
                problems.append(f"{name}: {text!r} is not a number of calls from 0.01 to 10000")
            values.append(value)
        if problems:
            raise SpecError(problems, hint=f"without them: {RATE:g} calls per second, {BURST:g} at once")
        return cls(clock, rate=values[0], burst=max(1.0, values[1]), stop=stop)

    def admit(self) -> float:
        """Wait until one call may be made; returns the moment, for ``answered``.

        Raises CloudNotAsked when we are asked to stop meanwhile: the call is not made.
        """
        while True:
            with self._lock:
                now = self._clock.monotonic()
                wait = self._bucket.take(now)
            if not wait:
                return now
            self._refuse_when_stopped()
            self._clock.sleep(min(TICK, wait))

    def _refuse_when_stopped(self) -> None:
        if self._stop.asked:
            raise CloudNotAsked(
                f"not asked: {self._stop.asked} came while the API was not to be asked so often",
                hint="give the same command again",
            )

    def answered(self, sent: float, *, throttled: bool) -> None:
        """Take note of how a call that was admitted at ``sent`` was answered."""
        with self._lock:
            if throttled:
                self._bucket.throttled(sent, self._clock.monotonic())
            else:
                self._bucket.answered()
