"""The service keeps a node right: what is pulled is repaired while a guest goes on, what the cloud takes is drained."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.lab.station import pinged
from tests.audit.pulls import REPAIRED, REPORTED

pytestmark = [pytest.mark.root, pytest.mark.slow]


def client(node: Any, name: str) -> int:
    """The pid of a guest's DHCP client."""
    pids = subprocess.run(["ip", "netns", "pids", f"{node.name}-{name}"], capture_output=True, text=True).stdout.split()
    return next(int(pid) for pid in pids if b"udhcpc" in Path(f"/proc/{pid}/cmdline").read_bytes())


def own(node: Any, name: str) -> list[str]:
    """The addresses that a guest has."""
    line = ["ip", "-n", f"{node.name}-{name}", "-4", "-o", "addr"]
    return re.findall(r"172\.20\.100\.\d+(?=/)", subprocess.run(line, capture_output=True, text=True).stdout)


PUT_RIGHT = {
    **{what: REPAIRED[what] for what in ("conflist gone", "conflist edited", "pool.json gone", "pool.json edited")},
    "leases.json": REPORTED["leases.json"]._replace(mend=""),  # beside a service it is written again
    **{what: REPAIRED[what] for what in ("stray route", "bridge mac", "order of rules", "jump no longer first")},
    **{what: REPAIRED[what] for what in ("nat chain", "rp_filter of a link")},
}
"""What is put right while a guest is spoken to; what events put right is in test_mending, without audits."""

LEFT_TO_THE_OPERATOR = {what: REPORTED[what] for what in ("link renamed", "link mtu", "broken neighbour")}
"""What is not ours to change: a finding with advice, over once somebody has followed it. A rule of others that drops
the traffic of guests is told in test_audit: there a guest does lose it, until somebody types what is advised."""


def test_each_thing_that_is_pulled_is_put_right_or_told_and_a_guest_loses_no_more_than_one_ping(
    node: Any, eventually: Any
) -> None:
    with node.auditing() as log:
        address = node.guest("g1")
        for what, pull in PUT_RIGHT.items():
            before = node.over()[pull.kind]
            with pinged(node, address) as pings:
                pull.out_of(node)
                eventually(lambda kind=pull.kind, before=before: node.over()[kind] > before, 60)
            assert len(pings.missing) <= 5, f"{what}: more than one ping a second: {pings.missing}"
            pull.back(node)
        for what, pull in LEFT_TO_THE_OPERATOR.items():
            kind = pull.kind
            with pinged(node, address) as pings:
                pull.out_of(node)
                told = eventually(lambda kind=kind: [row for (k, _), row in node.findings().items() if k == kind], 60)
                assert all(row["advice"] and row["evidence"] for row in told), told
                pull.back(node)
                eventually(lambda kind=kind: kind not in {k for k, _ in node.findings()}, 60)
            assert len(pings.missing) <= 5, f"{what}: more than one ping a second: {pings.missing}"
        eventually(lambda: not node.findings(), 60)
        assert address in (node.home / "state" / "leases.json").read_text()
        assert "put right" in log.read_text()


def test_an_address_that_the_cloud_takes_away_is_drained_and_comes_back(node: Any, eventually: Any) -> None:
    with node.auditing() as log:
        address = node.guest("g2")
        (interface,) = [row for row in node.interfaces() if address in row["secondaries"]]
        node.cloud("UnassignPrivateIpAddresses", NetworkInterfaceId=interface["id"], PrivateIpAddress=[address])
        eventually(lambda: f"{address} is not leased any more" in log.read_text(), 90)
        told = node.findings()["address-gone", address]
        assert {e["source"] for e in json.loads(told["evidence"]) if e["agrees"]} == {"cloud", "metadata"}
        assert told["confirmed"] >= 3 and "cocoon-net init" in told["advice"]
        rows = json.loads(node.product("lease", "list", "--json").stdout)
        rows = rows["leases"] if isinstance(rows, dict) else rows
        assert [row["stranded"] for row in rows if row["ip"] == address] == [True]
    with node.auditing() as log:
        # The findings decide after a restart, too: the client that renews is told to move, and does.
        rows = json.loads(node.product("lease", "list", "--json").stdout)
        rows = rows["leases"] if isinstance(rows, dict) else rows
        assert [row["stranded"] for row in rows if row["ip"] == address] == [True]
        os.kill(client(node, "g2"), signal.SIGUSR1)
        moved = eventually(lambda: {*own(node, "g2")} - {address}, 60)
        assert len(moved) == 1 and address not in own(node, "g2")
        node.cloud("AssignPrivateIpAddresses", NetworkInterfaceId=interface["id"], PrivateIpAddress=[address])
        eventually(lambda: f"{address} is leased again" in log.read_text(), 60)


def test_the_cloud_away_changes_nothing_for_guests_also_at_the_start(node: Any, eventually: Any) -> None:
    node.admin.set_faults({"error-rate": "1"})
    try:
        with node.auditing():
            eventually(lambda: ("unknown", "enis") in node.findings(), 90)
            since = node.findings()["unknown", "enis"]["first_seen"]
            assert node.guest("g3").startswith("172.20.100.")
            time.sleep(5)
            now = node.findings()
            assert now["unknown", "enis"]["first_seen"] == since
            assert not {kind for kind, _ in now} & {"interface-gone", "address-gone", "interface-detached"}
            node.admin.set_faults({"error-rate": ""})
            eventually(lambda: not node.findings(), 90)
    finally:
        node.admin.set_faults({"error-rate": ""})


def test_audits_that_are_killed_touch_no_guest(node: Any, eventually: Any) -> None:
    with node.auditing():
        daemon = json.loads((node.home / "state" / "daemon.lock").read_text())["pid"]
        deadline, killed, number = time.monotonic() + 12, 0, 0
        while time.monotonic() < deadline:
            for pid in children(daemon):
                with contextlib.suppress(OSError):
                    if b"audit" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(int(pid), signal.SIGKILL)
                        killed += 1
            if killed > number * 2:
                number += 1
                assert node.guest(f"k{number}").startswith("172.20.100.")
            time.sleep(0.05)
        assert killed >= 3 and number >= 2
        assert "signal 9" in node.findings()["unknown", "audit"]["says"]
        eventually(lambda: not node.findings(), 60)


def children(pid: int) -> list[str]:
    """The children of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [child for task in tasks for child in task.read_text().split()]
