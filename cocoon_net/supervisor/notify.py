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
