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
    "conflist gone": ("conflist", "rm {cni}/30-cocoon-dhcp.conflist"),
    "conflist edited": ("conflist", "sed -i s/1500/1400/ {cni}/30-cocoon-dhcp.conflist"),
    "pool.json gone": ("pool", "rm {state}/pool.json"),
    "pool.json edited": ("pool", "sed -i s/172.20.100.0/172.20.200.0/ {state}/pool.json"),
    "leases.json": ("lease-file", "echo nonsense > {state}/leases.json"),
    "stray route": ("route-stray", "ip route add 172.20.100.199/32 dev cni0 proto 174"),
    "bridge's MAC": ("bridge", "ip link set cni0 address 02:00:00:00:00:99"),
    "order of rules": ("firewall", "iptables -A COCOON-NET-FORWARD -j DROP"),
    "jump no longer first": ("firewall", "iptables -I FORWARD 1 -i lo -j DROP"),
    "nat": ("firewall", "iptables -t nat -F COCOON-NET-POSTROUTING"),
    "rp_filter of a link": ("sysctl", "sysctl -w net.ipv4.conf.eth1.rp_filter=1"),
}
"""What is put right while a guest is spoken to; what events put right is in test_mending, without audits."""

LEFT_TO_THE_OPERATOR = {
    "link renamed": (
        "link-renamed",
        "ip link set eth1 down name wan9 && ip link set wan9 up",
        "ip link set wan9 down name eth1 && ip link set eth1 up",
    ),
    "link's MTU": ("link-mtu", "ip link set eth1 mtu 1400", "ip link set eth1 mtu 1500"),
    "broken neighbour": ("conflist-neighbour", "echo '{{' > {cni}/10-x.conflist", "rm {cni}/10-x.conflist"),
}
"""What is not ours to change: a finding with advice, over once somebody has followed it. A rule of others that drops
the traffic of guests is told in test_audit: there a guest does lose it, until somebody types what is advised."""


def test_each_thing_that_is_pulled_is_put_right_or_told_and_a_guest_loses_no_more_than_one_ping(
    node: Any, eventually: Any
) -> None:
    places = {"cni": node.home / "cni", "state": node.home / "state"}
    with node.auditing() as log:
        address = node.guest("g1")
        for what, (kind, pull) in PUT_RIGHT.items():
            before = node.over()[kind]
            with pinged(node, address) as pings:
                node.inside("sh", "-c", pull.format(**places))
                eventually(lambda kind=kind, before=before: node.over()[kind] > before, 60)
            assert len(pings.missing) <= 5, f"{what}: more than one ping a second: {pings.missing}"
        node.inside("iptables", "-D", "FORWARD", "-i", "lo", "-j", "DROP")
        for what, (kind, pull, mend) in LEFT_TO_THE_OPERATOR.items():
            with pinged(node, address) as pings:
                node.inside("sh", "-c", pull.format(**places))
                told = eventually(lambda kind=kind: [row for (k, _), row in node.findings().items() if k == kind], 60)
                assert all(row["advice"] and row["evidence"] for row in told), told
                node.inside("sh", "-c", mend.format(**places))
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
