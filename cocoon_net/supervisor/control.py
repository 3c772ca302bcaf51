"""The control socket: HTTP over AF_UNIX for vk-cocoon, which gives leases back, and for our own commands.

``DELETE /v1/leases/{mac}`` is vk-cocoon's contract: 204 released or gone already, 400 no MAC, 405 with ``Allow``,
500 not written down and therefore kept. Every other path is ours: docs/control-socket.md.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from cocoon_net.dhcp.wire import HARDWARE_LENGTH
from cocoon_net.errors import NodeError, Refused, SpecError
from cocoon_net.supervisor.desk import Desk
from cocoon_net.supervisor.feed import Feed, lines
from cocoon_net.supervisor.http import Answer, Listener, Route, document, refusal, streamed

DIRECTORY_MODE, SOCKET_MODE = 0o750, 0o600
ALIVE_EVERY = 15.0
"""Seconds after which a stream says something, so that whoever is gone is noticed."""

_MAC = re.compile(r"[0-9a-f]{2}(?:([:-])[0-9a-f]{2}(?:\1[0-9a-f]{2}){4})|[0-9a-f]{4}(?:\.[0-9a-f]{4}){2}")
"""The spellings that Go's ``net.ParseMAC`` takes for an Ethernet address."""
_OTHER = re.compile(rf"[0-9a-f]{{2}}(?::[0-9a-f]{{2}}){{{HARDWARE_LENGTH - 1}}}")
"""How we spell who has other hardware: its type and the sixteen octets of ``chaddr``, as leases are listed."""


def parse_mac(text: str) -> str | None:
    """Return the MAC in lower case with colons, None if it is none of six octets and not as we list other hardware."""
    lower = text.strip().lower()
    if _OTHER.fullmatch(lower):
        return lower
    if not _MAC.fullmatch(lower):
        return None
    digits = re.sub(r"[:.-]", "", lower)
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


class Shown(Protocol):
    """What is shown besides leases."""

    feed: Feed

    def status(self) -> dict[str, Any]:
        """Return the numbers of now."""
        ...

    def view(self) -> dict[str, Any]:
        """Return the view of the node."""
        ...

    def findings(self) -> list[dict[str, Any]]:
        """Return what is wrong now."""
        ...


def routes(desk: Desk, shown: Shown) -> Route:
    """Return the route function of the control socket.

    ``desk.release`` is idempotent, and raises a CocoonError when the release cannot be written down.
    """

    def route(method: str, target: str) -> Answer:
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        match [unquote(part) for part in parts.path.split("/")]:
            case ["", "v1", "leases", text] if text:
                # vk-cocoon's contract; reading one client is on a path of its own, so that this one keeps its 405.
                return _of_client(method, text, {"DELETE": lambda mac: _done(desk.release(mac))})
            case ["", "v1", "leases"]:
                return _read(method, lambda: {"leases": desk.leases(query.get("state") == "all")})
            case ["", "v1", "clients", text] if text:
                return _of_client(method, text, _reading(lambda mac: document(desk.client(mac))))
            case ["", "v1", "trace", text] if text:
                since = query.get("since", "0")
                if not since.isdigit():
                    return refusal(400, f"since={since!r} is not a number", "the `next` of the answer before")
                return _of_client(method, text, _reading(lambda mac: document(desk.trace(mac, int(since)))))
            case ["", "v1", "reservations"]:
                return _read(method, lambda: {"reservations": desk.reservations()})
            case ["", "v1", "reservations", text] if text:
                return _of_client(method, text, {"DELETE": lambda mac: _done(desk.unreserve(mac))})
            case ["", "v1", "reservations", text, address] if text and address:
                hostname, options = query.get("hostname", ""), query.get("options")
                try:
                    given = None if options is None else _options(options)
                except ValueError:
                    return refusal(400, f"options={options!r} is not like 15:6578,42:0a000001", "code:hex, with commas")
                keep = {"PUT": lambda mac: document(desk.reserve(mac, address, hostname, given))}
                return _of_client(method, text, keep)
            case ["", "v1", "status"]:
                return _read(method, shown.status)
            case ["", "v1", "view"]:
                return _read(method, shown.view)
            case ["", "v1", "findings"]:
                return _read(method, lambda: {"findings": shown.findings()})
            case ["", "v1", "events"]:
                return _events(method, shown.feed)
            case _:
                return refusal(404, f"there is no {target}", PATHS)

    return route


PATHS = (
    "/v1/leases, /v1/clients/{mac}, /v1/trace/{mac}, /v1/reservations, /v1/status, /v1/view, /v1/findings, /v1/events"
)

_READS = ("GET", "HEAD")


def _options(text: str) -> dict[int, bytes]:
    from cocoon_net.dhcp.settings import option

    pairs = (one.partition(":") for one in text.split(",") if one)
    return dict(option(code, f"0x{value}") for code, _, value in pairs)


def _read(method: str, answer: Callable[[], dict[str, Any]]) -> Answer:
    if method not in _READS:
        return refusal(405, f"{method} is not for this path", allow=_READS)
    return document(answer())


def _events(method: str, feed: Feed) -> Answer:
    if method not in _READS:
        return refusal(405, f"{method} is not for this path", allow=_READS)
    listener = feed.listen()
    if listener is None:
        return refusal(503, "too many listen already", "close one of the listeners")
    return streamed(lines(listener, ALIVE_EVERY), "application/x-ndjson")


def _reading(answer: Callable[[str], Answer]) -> dict[str, Callable[[str], Answer]]:
    return dict.fromkeys(_READS, answer)


def _of_client(method: str, text: str, acts: dict[str, Callable[[str], Answer]]) -> Answer:
    """Do what ``method`` means for a client, whose MAC is ``text``."""
    act = acts.get(method)
    if act is None:
        return refusal(405, f"{method} is not for this path", allow=acts)
    mac = parse_mac(text)
    if mac is None:
        return refusal(400, f"{text!r} is not a MAC address", "like 02:42:ac:11:00:02")
    try:
        return act(mac)
    except SpecError as error:
        return refusal(409, error.message, error.hint)


def _done(result: object) -> Answer:
    return Answer(204)


class ControlSocket:
    """The listener and its place in the file system."""

    def __init__(self, path: Path, route: Route) -> None:
        self.path = path
        self._bound = _bind(path)
        self._identity = _identity(path)
        self._listener = Listener(self._bound, route, "control")

    def start(self) -> None:
        """Answer requests."""
        self._listener.start()

    def stop(self) -> None:
        """Stop answering, and remove the socket unless somebody else's stands there by now."""
        self._listener.stop()
        if _identity(self.path) == self._identity:
            self.path.unlink(missing_ok=True)


def _bind(path: Path) -> socket.socket:
    """Bind a socket of mode 0600 at ``path``. Raises Refused for what stands there and is not a dead socket."""
    try:
        path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        _clear(path)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        # Linux gives the file the mode of the socket's inode: there is no moment in which others could connect.
        os.fchmod(bound.fileno(), SOCKET_MODE)
        bound.bind(str(path))
    except OSError as error:
        raise NodeError(
            f"the control socket {path} cannot be made: {error.strerror or error}",
            hint="give another place with --control-socket, or '' to do without it",
        ) from error
    return bound


def _clear(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise Refused(
            f"{path} is there and is not a socket; it is not ours to remove",
            hint="move it away, or give another place with --control-socket",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as caller:
        caller.settimeout(1.0)
        if caller.connect_ex(str(path)) != errno.ECONNREFUSED:
            raise Refused(
                f"somebody answers on {path}: another cocoon-net runs on this node",
                hint="stop it first (systemctl stop cocoon-net), or give another place with --control-socket",
            )
    path.unlink()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
