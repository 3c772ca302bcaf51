"""The metrics, scraped over loopback."""

from __future__ import annotations

import http.client
import socket

import pytest

from cocoon_net.dhcp.histogram import NOTHING, Times
from cocoon_net.errors import SpecError
from cocoon_net.supervisor.metrics import Readings, listen, parse_address

READINGS = Readings(
    acknowledged=12,
    failed=3,
    pool_available=97,
    leases={"bound": 40, "free": 97, "cooling": 3},
    nics={"expected": 7, "present": 6},
    differences={"link": 1, "route": 0},
    phase="degraded",
    api={("CreateSubnet", ""): 4, ("CreateSubnet", "FlowLimitExceeded"): 2},
    decisions={"bound": 12, "exhausted": 2},
    malformed={"short": 1},
    guarded={"too_often": 9_000},
    troubles={"commit": 1},
    times={"ack": Times((0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 1), 2.5), "commit": NOTHING},
)


def scrape(port: int, path: str = "/metrics") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path)
    reply = connection.getresponse()
    return reply.status, reply.getheader("Content-Type", ""), reply.read().decode()


def test_the_go_names_and_labels_are_kept() -> None:
    endpoint, port = listen("127.0.0.1:0", lambda: READINGS)
    endpoint.start()
    try:
        status, kind, text = scrape(port)
        assert status == 200 and kind.startswith("text/plain; version=0.0.4")
        lines = text.splitlines()
        for line in (
            "# TYPE cocoon_net_dhcp_lease_total counter",
            'cocoon_net_dhcp_lease_total{result="ok"} 12.0',
            'cocoon_net_dhcp_lease_total{result="failed"} 3.0',
            "# TYPE cocoon_net_dhcp_pool_available gauge",
            "cocoon_net_dhcp_pool_available 97.0",
            "# TYPE cocoon_net_dhcp_lease_active gauge",
            "cocoon_net_dhcp_lease_active 40.0",
            'cocoon_net_secondary_nics{state="expected"} 7.0',
            'cocoon_net_secondary_nics{state="present"} 6.0',
            'cocoon_net_dhcp_addresses{state="cooling"} 3.0',
            'cocoon_net_differences{kind="link"} 1.0',
            'cocoon_net_lifecycle{phase="degraded"} 1.0',
            "# TYPE cocoon_net_api_calls_total counter",
            'cocoon_net_api_calls_total{action="CreateSubnet",code="ok"} 4.0',
            'cocoon_net_api_calls_total{action="CreateSubnet",code="FlowLimitExceeded"} 2.0',
            'cocoon_net_dhcp_decisions_total{reason="bound"} 12.0',
            "cocoon_net_dhcp_exhausted_total 2.0",
            'cocoon_net_dhcp_malformed_total{kind="short"} 1.0',
            'cocoon_net_dhcp_guarded_total{reason="too_often"} 9000.0',
            'cocoon_net_dhcp_troubles_total{kind="commit"} 1.0',
            'cocoon_net_dhcp_reply_seconds_bucket{le="0.0005",message="ack"} 0.0',
            'cocoon_net_dhcp_reply_seconds_bucket{le="0.001",message="ack"} 3.0',
            'cocoon_net_dhcp_reply_seconds_bucket{le="+Inf",message="ack"} 4.0',
            'cocoon_net_dhcp_reply_seconds_sum{message="ack"} 2.5',
            "cocoon_net_dhcp_commit_seconds_count 0.0",
        ):
            assert line in lines, line
        assert scrape(port, "/")[0] == 404
    finally:
        endpoint.stop()


def test_each_scrape_is_a_new_reading() -> None:
    numbers = iter(range(1, 9))
    endpoint, port = listen("127.0.0.1:0", lambda: Readings(acknowledged=next(numbers)))
    endpoint.start()
    try:
        assert 'result="ok"} 1.0' in scrape(port)[2]
        assert 'result="ok"} 2.0' in scrape(port)[2]
    finally:
        endpoint.stop()


def test_a_port_that_is_taken_is_an_os_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        listen(f"127.0.0.1:{taken.getsockname()[1]}", lambda: READINGS)


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
