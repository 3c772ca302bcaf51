"""``pool.json``: we read what the Go tool wrote, and it could read what we write."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address

import pytest

from cocoon_net.errors import SpecError
from cocoon_net.formats.pool_file import parse, render, same

GO = """{
  "platform": "volcengine",
  "nodeName": "cocoon-pool",
  "subnet": "172.20.100.0/24",
  "gateway": "172.20.100.1",
  "primaryNIC": "eth0",
  "secondaryNICs": [
    "eth1",
    "eth2"
  ],
  "ips": [
    "172.20.100.2",
    "172.20.100.9"
  ],
  "eniIDs": [
    "eni-a",
    "eni-b"
  ],
  "subnetID": "subnet-a",
  "dnsServers": [
    "8.8.8.8"
  ],
  "dropInternalAccess": true,
  "dropCIDRs": [
    "10.0.0.0/8"
  ],
  "updatedAt": "2026-04-04T06:00:00Z"
}
"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"subnet": "x", "gateway": "y"}', "subnet cannot be used"),
        ('{"subnet": "10.0.0.0/24"}', "gateway cannot be used"),
    ],
)
def test_a_damaged_file_is_one_clear_error(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        parse(text)


def test_what_the_go_tool_wrote_comes_back_byte_for_byte() -> None:
    assert render(parse(GO)) == GO


def test_go_times_with_nanoseconds_and_offsets_are_read() -> None:
    assert parse(GO.replace("06:00:00Z", "14:00:00.123456789+08:00")).updated_at.hour == 6


def test_empty_fields_are_left_out_as_the_go_tool_does() -> None:
    pool = replace(parse(GO), primary_nic="", dns_servers=(), drop_internal_access=False, ips=())
    data = json.loads(render(pool))
    assert "primaryNIC" not in data
    assert "dnsServers" not in data
    assert data["ips"] == []


def test_only_the_time_makes_no_difference() -> None:
    later = replace(parse(GO), updated_at=datetime(2027, 1, 1, tzinfo=UTC))
    assert same(render(later), GO)
    assert not same(render(replace(later, gateway=IPv4Address("172.20.100.2"))), GO)
