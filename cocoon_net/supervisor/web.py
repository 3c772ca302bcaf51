"""The port of the metrics: ``/metrics``, ``/healthz``, ``/readyz`` and the status page. It only reads.

It is for operators and never for guests, whatever address it listens on: docs/decisions/0012-who-may-look.md.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import socket
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cocoon_net.errors import SpecError
from cocoon_net.records import BRIDGE, Pool
from cocoon_net.supervisor.feed import server_sent
from cocoon_net.supervisor.http import Answer, Listener, Route, document, refusal, streamed
from cocoon_net.supervisor.metrics import CONTENT_TYPE, exposition

if TYPE_CHECKING:
    from cocoon_net.supervisor.dashboard import Dashboard

TEXT = "text/plain; charset=utf-8"
ALIVE_EVERY = 15.0
"""Seconds after which a stream says something, so that whoever is gone is noticed."""

READS = ("GET", "HEAD")


def parse_address(text: str) -> tuple[str, int]:
    """Read ``:9092``, ``127.0.0.1:9092`` or ``[::1]:9092``; no host means every IPv4 address. Raises SpecError."""
    try:
        parts = urlsplit(f"//{text.strip()}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if port is None or parts.path or parts.query or "@" in text:
        raise SpecError(
            f"--metrics-addr: {text!r} is not HOST:PORT", hint="like :9092 or 127.0.0.1:9092; empty turns it off"
        )
    return host, port


def listen(text: str, route: Route, pool: Callable[[], Pool]) -> tuple[Listener, int]:
    """Bind the port and return its listener, not started, and its number. Raises OSError when it cannot be had."""
    host, port = parse_address(text)
    bound = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    admits = _Door(pool)
    return Listener(bound, route, "metrics", admits), int(bound.getsockname()[1])


def is_guest(here: tuple[Any, ...], there: tuple[Any, ...], subnet: IPv4Network, gateway: IPv4Address) -> bool:
    """Whether a connection, by the two addresses of its socket, may be a guest's. Pure.

    A guest speaks from an address of the pool's subnet, or to the bridge's; over IPv6, from a scope that is the bridge.
    """
    scope = there[3] if len(there) > 3 else 0
    if scope and scope == _index(BRIDGE):
        return True
    ours, theirs = _plain(here[0]), _plain(there[0])
    return ours == gateway or (isinstance(theirs, IPv4Address) and theirs in subnet)


def _plain(text: str) -> Any:
    address = ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _index(link: str) -> int:
    try:
        return socket.if_nametoindex(link)
    except OSError:
        return 0


class _Door:
    """Lets nobody in who may be a guest."""

    def __init__(self, pool: Callable[[], Pool]) -> None:
        self._pool = pool

    def __call__(self, connection: socket.socket) -> bool:
        pool = self._pool()
        try:
            return not is_guest(connection.getsockname(), connection.getpeername(), pool.subnet, pool.gateway)
        except OSError:  # hung up already
            return False


def routes(seen: Dashboard) -> Route:
    """Return the route function of the port."""
    metrics = exposition(seen.readings)

    def route(method: str, target: str) -> Answer:
        path = urlsplit(target).path
        known = _PATHS.get(path)
        if known is None and path != "/metrics":
            return refusal(404, f"there is no {target}", ", ".join(["/metrics", *_PATHS]))
        if method not in READS:
            return refusal(405, f"{method} is not for this path", allow=READS)
        return Answer(200, metrics(), CONTENT_TYPE) if known is None else known(seen)

    return route


def _health(seen: Dashboard) -> Answer:
    return _verdict(seen.unhealthy())


def _ready(seen: Dashboard) -> Answer:
    return _verdict(seen.unready())


def _verdict(why: str) -> Answer:
    return Answer(503, f"{why}\n".encode(), TEXT) if why else Answer(200, b"ok\n", TEXT)


def _view(seen: Dashboard) -> Answer:
    return document(seen.view())


def _events(seen: Dashboard) -> Answer:
    listener = seen.feed.listen()
    if listener is None:
        return refusal(503, "too many listen already", "close a status page")
    return streamed(server_sent(listener, ALIVE_EVERY), "text/event-stream")


def _page(seen: Dashboard) -> Answer:
    text, policy = _template()
    view = seen.view()
    body = text.replace("<!-- basics -->", basics(view)).replace("<!-- view -->", embedded(view))
    return Answer(
        200,
        body.encode(),
        "text/html; charset=utf-8",
        {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        },
    )


def basics(view: Mapping[str, Any]) -> str:
    """Render what one can read without a script."""
    counts = view["pool"]["states"]
    rows = {
        "Node": view["node"],
        "Service": view["phase"] + (f": {view['reason']}" if view["reason"] else ""),
        "Pool": f"{view['pool']['size']} addresses of {view['pool']['subnet']}",
        "Addresses": ", ".join(f"{count} {state}" for state, count in counts.items()),
        "Findings": "; ".join(one["says"] for one in view["findings"]) or "none",
        "As of": view["at"],
    }
    cells = (f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in rows.items())
    return f"<dl>{''.join(cells)}</dl>"


def embedded(view: Mapping[str, Any]) -> str:
    """Render the view for a script element, which any ``</`` would end: one that a guest calls itself, too."""
    return json.dumps(view, separators=(",", ":")).replace("<", "\\u003c")


@cache
def _template() -> tuple[str, str]:
    """Return the page, and the policy that lets its own script and style run and nothing else."""
    text = resources.files("cocoon_net.supervisor").joinpath("page.html").read_text(encoding="utf-8")
    script = _digest(text.partition("<script>")[2].partition("</script>")[0])
    style = _digest(text.partition("<style>")[2].partition("</style>")[0])
    return text, (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


_PATHS: Mapping[str, Callable[[Dashboard], Answer]] = {
    "/": _page,
    "/healthz": _health,
    "/readyz": _ready,
    "/view.json": _view,
    "/events": _events,
}
