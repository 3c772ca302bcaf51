"""Tell systemd how the service is doing: a datagram to ``$NOTIFY_SOCKET`` (sd_notify(3)); nothing where it is unset."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


def notify(*assignments: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send ``READY=1``, ``STATUS=...``, ``STOPPING=1``; returns whether there was somebody to tell.

    ``@name`` is an abstract address. A manager that is gone or does not listen is no error of ours: False.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    # A line break inside a value would begin another assignment.
    message = "\n".join(" ".join(assignment.splitlines()) for assignment in assignments)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.settimeout(1.0)
        try:
            channel.sendto(message.encode(), address)
        except OSError:
            return False
    return True


class Pulse:
    """Feeds systemd's watchdog, from whichever thread is not to hang: it is called with the monotonic time, often.

    systemd kills a service that is silent for ``$WATCHDOG_USEC`` and starts it again (sd_watchdog_enabled(3)); half of
    that is between two signs of life. Without it, nothing is sent.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        asked = environ.get("WATCHDOG_USEC", "")
        meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._every = int(asked) / 2e6 if asked.isascii() and asked.isdigit() and meant else 0.0
        self._environ = environ
        self._last = float("-inf")

    def __call__(self, now: float) -> None:
        """Give a sign of life if one is due at ``now``."""
        if self._every and now - self._last >= self._every:
            self._last = now
            notify("WATCHDOG=1", environ=self._environ)
