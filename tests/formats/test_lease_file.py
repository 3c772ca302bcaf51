"""``leases.json``: a reader decodes it whole, so it is always whole."""

from __future__ import annotations

import json
from datetime import datetime
from ipaddress import IPv4Address

import pytest

from cocoon_net.errors import SpecError
from cocoon_net.formats.lease_file import LeaseRow, join, parse, row

MAC = "52:54:00:00:00:01"


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(SpecError, match="not JSON"):
        parse("[{")
    with pytest.raises(SpecError, match="not a JSON array"):
        parse("{}")


def test_one_bad_row_loses_only_itself() -> None:
    good = {"mac": MAC.upper(), "ip": "172.20.100.6", "expiry": "2026-04-04T06:00:00.123456789Z", "more": 1}
    bad = [{"mac": "x", "ip": "172.20.100.7", "expiry": good["expiry"]}, {"ip": 1}, {**good, "expiry": "soon"}, 7]
    leases, problems = parse(json.dumps([*bad, good]))
    assert leases == [LeaseRow(MAC, IPv4Address("172.20.100.6"), 1775282400)]
    assert len(problems) == 4
    assert "row 1" in problems[0]


def test_the_last_row_of_a_mac_wins() -> None:
    rows = [{"mac": MAC, "ip": f"172.20.100.{n}", "expiry": "2026-04-04T06:00:00Z"} for n in (6, 7)]
    leases, _ = parse(json.dumps(rows))
    assert [str(lease.address) for lease in leases] == ["172.20.100.7"]


def test_the_go_tools_null_is_an_empty_table_and_ours_is_an_array() -> None:
    assert parse("null") == ([], [])
    assert json.loads(join([])) == []


def test_what_we_write_is_what_a_reader_wants() -> None:
    rows = [(MAC, "172.20.100.6", 1775282400), ("52:54:00:00:00:02", "172.20.100.7", 1775282401)]
    written = join(row(*one) for one in rows)
    data = json.loads(written)
    assert data[0] == {"mac": MAC, "ip": "172.20.100.6", "expiry": "2026-04-04T06:00:00Z"}
    assert [datetime.fromisoformat(one["expiry"]).timestamp() for one in data] == [1775282400, 1775282401]
    back, problems = parse(written.decode())
    assert [(lease.mac, str(lease.address), lease.expires) for lease in back] == rows
    assert problems == []
