"""HTTP/1.1 over a Unix socket, the side that asks: of the control socket, and of the lab's cloud."""

from __future__ import annotations

import contextlib
import http.client
import socket
from pathlib import Path

PATIENCE = 10.0
"""Seconds for an answer to begin, and between two parts of it."""


class UnixConnection(http.client.HTTPConnection):
    """A connection to whoever listens at ``path``."""

    def __init__(self, path: Path, timeout: float = PATIENCE) -> None:
        super().__init__("cocoon-net", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the Unix socket in place of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(
    path: Path, method: str, target: str, body: bytes | None = None, *, timeout: float = PATIENCE
) -> tuple[int, bytes]:
    """Ask once, by a connection of its own; returns status and body. Raises OSError, HTTPException."""
    with contextlib.closing(UnixConnection(path, timeout)) as connection:
        connection.request(method, target, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
