"""HTTP/1.1 on one listening socket, TCP or Unix: a thread for each connection, one write for each reply.

One write, and no Nagle: headers and body in two segments cost 40 ms for each call against a delayed ACK.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from io import BufferedReader
from urllib.parse import parse_qsl, unquote, urlsplit

from cocoon_net.errors import NodeError
from cocoon_net.lab.cloud.gateway import Reply
from cocoon_net.lab.cloud.signature import Request

Listener = tuple[str, int] | socket.socket
"""An address to listen on, or a TCP socket that is bound already, perhaps in another network namespace."""

_LINE = 65_536
_HEADERS = 100
_PATIENCE = 0.5
_BODY = 4 << 20


class Door:
    """Listens from ``start`` to ``close`` and lets ``answer`` answer each request."""

    def __init__(self, listener: socket.socket, answer: Callable[[Request], Reply], name: str) -> None:
        self._listener = listener
        self._answer = answer
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._thread = threading.Thread(target=self._accept, name=f"{name}-door", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._listener.listen(256)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port of a TCP listener."""
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    def close(self) -> None:
        """Stop to listen and break all connections."""
        self._closing.set()
        _shut(self._listener)
        self._thread.join()
        self._listener.close()
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            _shut(connection)
        for thread in connections.values():
            # One that sleeps through an API latency finds the gateway closed when it wakes.
            thread.join(_PATIENCE)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, peer = self._listener.accept()
            except OSError:
                # The listener was shut by ``close``; anything else (too many open files) may pass.
                self._closing.wait(0.05)
                continue
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            source = str(peer[0]) if peer else "admin"
            thread = threading.Thread(target=self._serve, args=(connection, source), daemon=True)
            with self._lock:
                self._connections[connection] = thread
            thread.start()

    def _serve(self, connection: socket.socket, source: str) -> None:
        try:
            with connection, connection.makefile("rb") as stream:
                while not self._closing.is_set():
                    try:
                        request = read_request(stream, source)
                    except ValueError as error:
                        connection.sendall(_render(Reply(400, str(error).encode(), "text/plain"), keep=False))
                        return
                    if request is None or not self._reply(connection, request):
                        return
        except ConnectionError:
            return
        finally:
            with self._lock:
                self._connections.pop(connection, None)

    def _reply(self, connection: socket.socket, request: Request) -> bool:
        """Answer; return whether the connection stays open."""
        reply = self._answer(request)
        match reply.outcome:
            case "lost":
                self._closing.wait(reply.hang)
                return False
            case "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            case _:
                keep = request.headers.get("connection", "").lower() != "close"
                connection.sendall(_render(reply, keep))
                return keep


def open_listener(listener: Listener) -> socket.socket:
    """Return a bound TCP socket; raises ``NodeError`` when the address cannot be had."""
    if isinstance(listener, socket.socket):
        return listener
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(listener)
    except OSError as error:
        opened.close()
        raise NodeError(
            f"the lab's cloud cannot listen on {listener[0]}:{listener[1]}: {error.strerror}",
            hint="choose another address, or end the program that listens there",
        ) from None
    return opened


def read_request(stream: BufferedReader, source: str) -> Request | None:
    """Read one request, None at the end of the stream; raises ``ValueError`` for what is not HTTP/1.x."""
    line = stream.readline(_LINE)
    if not line:
        return None
    parts = line.decode("latin-1").split()
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise ValueError("malformed request line")
    headers: dict[str, str] = {}
    while (line := stream.readline(_LINE)) not in (b"\r\n", b"\n", b""):
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or len(headers) >= _HEADERS:
            raise ValueError("malformed header, or too many of them")
        headers[name.strip().lower()] = value.strip()
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers or not length.isdigit() or int(length) > _BODY:
        raise ValueError("the body needs a Content-Length of at most 4 MiB")
    target = urlsplit(parts[1])
    return Request(
        method=parts[0],
        path=unquote(target.path) or "/",
        query=tuple(parse_qsl(target.query, keep_blank_values=True)),
        headers=headers,
        body=stream.read(int(length)),
        source=source,
    )


def _render(reply: Reply, keep: bool) -> bytes:
    head = (
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n"
        f"Content-Type: {reply.content_type}\r\nContent-Length: {len(reply.body)}\r\n"
        f"Date: {formatdate(usegmt=True)}\r\nConnection: {'keep-alive' if keep else 'close'}\r\n\r\n"
    )
    return head.encode("latin-1") + reply.body


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        # Closed by the other side, or never connected: there is nothing left to shut.
        return
