"""The port of the metrics: health, the page, and who is not let in."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from cocoon_net.errors import SpecError
from cocoon_net.records import Pool
from cocoon_net.supervisor.feed import Feed
from cocoon_net.supervisor.metrics import Readings
from cocoon_net.supervisor.web import is_guest, listen, parse_address, routes

SUBNET, GATEWAY = IPv4Network("172.20.100.0/24"), IPv4Address("172.20.100.1")
EVIL = "<script>alert('x')</script>"


class Shown:
    """Stands for the dashboard."""

    def __init__(self) -> None:
        self.feed = Feed()
        self.sick = ""
        self.idle = ""

    def readings(self) -> Readings:
        return Readings(acknowledged=12)

    def unhealthy(self) -> str:
        return self.sick

    def unready(self) -> str:
        return self.idle

    def view(self) -> dict[str, Any]:
        return {
            "node": EVIL,
            "phase": "serving",
            "reason": "",
            "at": "2026-01-01T00:00:00Z",
            "pool": {"size": 1, "subnet": str(SUBNET), "states": {"free": 1}},
            "findings": [{"says": EVIL}],
        }


def pool(subnet: IPv4Network) -> Pool:
    return Pool(subnet, subnet[1], (), (subnet[2],), mtu=1500)


class Port:
    def __init__(self, subnet: IPv4Network) -> None:
        self.shown = Shown()
        self.listener, self.number = listen("127.0.0.1:0", routes(self.shown), lambda: pool(subnet))  # type: ignore[arg-type]
        self.listener.start()

    def ask(self, path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.number, timeout=5)
        try:
            connection.request(method, path)
            reply = connection.getresponse()
            return reply.status, dict(reply.getheaders()), reply.read().decode()
        finally:
            connection.close()


@pytest.fixture
def port() -> Iterator[Port]:
    port = Port(SUBNET)
    yield port
    port.shown.feed.close()
    port.listener.stop()


def test_the_metrics_are_where_they_always_were(port: Port) -> None:
    status, headers, text = port.ask("/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'cocoon_net_dhcp_lease_total{result="ok"} 12.0' in text
    assert port.ask("/elsewhere")[0] == 404
    status, headers, _ = port.ask("/metrics", "DELETE")
    assert status == 405 and headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(("path", "field"), [("/healthz", "sick"), ("/readyz", "idle")])
def test_what_is_wrong_is_a_503_with_its_reason(port: Port, path: str, field: str) -> None:
    assert port.ask(path)[::2] == (200, "ok\n")
    setattr(port.shown, field, "draining: SIGTERM")
    assert port.ask(path)[::2] == (503, "draining: SIGTERM\n")


def test_a_guest_is_hung_up_on_before_it_is_heard() -> None:
    # Whose address is of the pool is a guest: here, everybody on loopback.
    port = Port(IPv4Network("127.0.0.0/8"))
    try:
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            port.ask("/metrics")
    finally:
        port.listener.stop()


@pytest.mark.parametrize(
    ("here", "there", "guest"),
    [
        (("127.0.0.1", 9092), ("127.0.0.1", 1), False),
        (("10.0.0.5", 9092), ("10.0.0.9", 1), False),
        (("10.0.0.5", 9092), ("172.20.100.77", 1), True),
        (("172.20.100.1", 9092), ("10.9.9.9", 1), True),
        (("::ffff:10.0.0.5", 9092, 0, 0), ("::ffff:172.20.100.77", 1, 0, 0), True),
        (("::1", 9092, 0, 0), ("::1", 1, 0, 0), False),
        (("fe80::1%lo", 9092, 0, 1), ("fe80::2%lo", 1, 0, 1), True),
    ],
)
def test_who_is_a_guest(here: Any, there: Any, guest: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cocoon_net.supervisor.web.BRIDGE", "lo")
    assert is_guest(here, there, SUBNET, GATEWAY) is guest


def test_the_page_asks_nobody_else_and_believes_no_name(port: Port) -> None:
    status, headers, text = port.ask("/")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    assert EVIL not in text and "&lt;script&gt;alert(&#x27;x&#x27;)" in text
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "'unsafe" not in headers["Content-Security-Policy"]
    for outside in (' src="', "@import", "url(", "//cdn"):
        assert outside not in text, outside
    assert "innerHTML" not in text


def test_events_arrive_while_they_happen(port: Port) -> None:
    from datetime import UTC, datetime

    from cocoon_net.events import LeaseReleased

    with socket.create_connection(("127.0.0.1", port.number), timeout=5) as caller:
        caller.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        read = caller.makefile("rb")
        while not port.shown.feed.heard:
            pass
        at = datetime(2026, 1, 1, tzinfo=UTC)
        port.shown.feed.publish(LeaseReleased(at, IPv4Address("10.0.0.9"), "02:00:00:00:00:01", "client"))
        lines = []
        while not (lines and lines[-1].startswith(b"data:")):
            lines.append(read.readline())
        assert b"Content-Type: text/event-stream\r\n" in lines
        assert b'"event": "LeaseReleased"' in lines[-1] and b'"address": "10.0.0.9"' in lines[-1]
        port.shown.feed.close()
        assert b"the service stops" in read.read()


def test_a_port_that_is_taken_is_an_os_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        listen(f"127.0.0.1:{taken.getsockname()[1]}", lambda method, target: None, lambda: pool(SUBNET))  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":9092", ("", 9092)),
        ("127.0.0.1:9092", ("127.0.0.1", 9092)),
        ("[::1]:80", ("::1", 80)),
        ("host:0", ("host", 0)),
    ],
)
def test_addresses_as_the_go_tool_takes_them(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["9092", "host", ":", ":http", ":99999", "a:1/x", "[::1", "u@h:1"])
def test_what_is_no_address_is_told(text: str) -> None:
    with pytest.raises(SpecError, match="HOST:PORT"):
        parse_address(text)
