"""A small HTTP listener for the control socket and for metrics: one route function, bounded threads, bounded waits."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, cast

from loguru import logger

from cocoon_net.errors import CocoonError

AT_ONCE = 16
"""Requests served at the same time; whoever comes beyond them is hung up on."""

PATIENCE = 5.0
"""Seconds that a client may take to send its request or to read the answer; vk-cocoon's own timeout."""

STREAM_PATIENCE = 30.0
"""Seconds for which the reader of a stream may read nothing at all."""

BODY_LIMIT = 65536
"""Octets of a request's body that are read and thrown away; no request of ours has one."""

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route says; it becomes one HTTP response."""

    status: int
    body: bytes = b""
    kind: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: Iterator[bytes] | None = None
    """The body in pieces, for as long as it yields them; it is closed when the client is gone."""


Route = Callable[[str, str], Answer]
"""(method, target as in the request line) -> Answer. Called from several threads."""


def document(data: Any, status: int = 200) -> Answer:
    """Answer with JSON."""
    return Answer(status, (json.dumps(data, indent=2) + "\n").encode())


def streamed(stream: Iterator[bytes], kind: str) -> Answer:
    """Answer with what comes, while it comes."""
    return Answer(200, kind=kind, headers={"Cache-Control": "no-store"}, stream=stream)


def refusal(status: int, message: str, hint: str = "", allow: Iterable[str] = ()) -> Answer:
    """Answer that it cannot be done, and why; ``allow`` fills the header that RFC 9110 §15.5.6 asks for."""
    allowed = {"Allow": ", ".join(allow)} if allow else {}
    body = {"error": message} | ({"hint": hint} if hint else {})
    return Answer(status, (json.dumps(body) + "\n").encode(), headers=allowed)


class Listener:
    """Serves ``route`` on a socket that is bound already, in threads of its own, from ``start`` to ``stop``."""

    def __init__(
        self, bound: socket.socket, route: Route, name: str, admits: Callable[[socket.socket], bool] = lambda _: True
    ) -> None:
        """``admits`` looks at each connection before anything is read of it; what it refuses is hung up on."""
        self._server = _Server(bound, route, admits)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": None}, name=name, daemon=True
        )

    def start(self) -> None:
        """Listen, and answer in the background."""
        self._server.server_activate()
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests, let those under way finish for a moment, and close the socket."""
        if self._thread.is_alive():
            stopper = threading.Thread(target=self._server.shutdown, daemon=True)
            stopper.start()
            # Wakes the accept loop, which waits without a time limit, so that it sees the flag.
            self._server.socket.shutdown(socket.SHUT_RDWR)
            stopper.join()
        self._server.server_close()
        self._server.settle(0.3)


class _Server(ThreadingMixIn, TCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, bound: socket.socket, route: Route, admits: Callable[[socket.socket], bool]) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self.route = route
        self._admits = admits
        self._room = threading.Semaphore(AT_ONCE)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self._admits(request)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if isinstance(sys.exception(), OSError):  # it hung up, or was too slow: as often as it likes
            logger.debug("a request was not answered: {}", sys.exception())
        else:
            logger.opt(exception=True).warning("a request was not answered")

    def settle(self, seconds: float) -> None:
        """Wait until no request is under way, at most so long."""
        for _ in range(AT_ONCE):
            if not self._room.acquire(timeout=seconds):
                return


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "cocoon-net"
    sys_version = ""
    timeout = PATIENCE

    def __getattr__(self, name: str) -> Any:
        # BaseHTTPRequestHandler looks for do_GET and so on; every method goes to the route, which knows what it takes.
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        self._discard_body()
        try:
            answer = cast(_Server, self.server).route(self.command, self.path)
        except CocoonError as error:
            logger.warning("{} {} failed: {}", self.command, self.path, error.told)
            answer = refusal(500, error.message, error.hint)
        self.send_response(answer.status)
        if answer.status != 204:
            self.send_header("Content-Type", answer.kind)
            if answer.stream is None:
                self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        # One request a connection: a thread is never held by a client that has nothing to ask.
        self.send_header("Connection", "close")
        self.end_headers()
        if answer.stream is not None:
            self._pour(answer.stream)
        elif self.command != "HEAD" and answer.status != 204:
            self.wfile.write(answer.body)

    def _pour(self, stream: Iterator[bytes]) -> None:
        """Write a body of unknown length, to its end or to that of the connection."""
        self.close_connection = True
        self.connection.settimeout(STREAM_PATIENCE)
        # Whoever reads nothing for so long has hung up, or is too slow.
        with contextlib.suppress(OSError):
            for piece in stream if self.command != "HEAD" else ():
                self.wfile.write(piece)
        if isinstance(stream, Generator):
            stream.close()

    def _discard_body(self) -> None:
        # Closing a socket with unread octets resets it, and the client may never see the answer.
        length = self.headers.get("Content-Length", "")
        if length.isdigit():
            self.rfile.read(min(int(length), BODY_LIMIT))

    def log_message(self, template: str, *args: Any) -> None:
        logger.debug("http: {}", template % args)

    def address_string(self) -> str:
        return "control" if not self.client_address else str(self.client_address[0])
