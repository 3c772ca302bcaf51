"""Being asked to stop: a signal leaves a note, and whoever is about to begin or to wait reads it.

Nothing is torn out of its work: a call that is under way ends by itself, bounded by its own timeout, and what came of
it is written down. The second signal does not wait: the process ends in the handler. Whatever is in the journal then is
true, and the next run looks at the world.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a service manager, and a terminal that went away."""


TICK = 0.1
"""Seconds after which whoever waits has noticed that we were asked to stop."""


class Stop:
    """Whether we were asked to stop, and by what: ``SIGTERM``; empty while nobody asked."""

    def __init__(self) -> None:
        self.asked = ""

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Note the first signal, end at once by the second (exit code 75); a signal that is ignored stays so."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            _tell("stopped at once; what was under way is pending in the journal, and the next run looks at it")
            os._exit(os.EX_TEMPFAIL)
        self.asked = signal.Signals(number).name
        _tell(f"{self.asked}: stopping as soon as the call under way has ended; once more stops at once")


def _tell(text: str) -> None:
    """Write one line past all buffers: a handler may have interrupted a print; shows the cursor of a terminal again."""
    start = "\r\x1b[K\x1b[?25h" if os.isatty(2) else ""
    try:
        os.write(2, f"{start}{text}\n".encode())
    except OSError:
        return  # the terminal is gone, which may be why we stop
