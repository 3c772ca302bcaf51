"""What guests do, among the findings: for as long as it lasts, and in the form of an audit's."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from ipaddress import IPv4Address

import pytest

from cocoon_net.audit.finding import Finding, Kind
from cocoon_net.dhcp import guard
from cocoon_net.dhcp.decision import Reason
from cocoon_net.dhcp.lease import Lease, State
from cocoon_net.lab.arena import Arena
from cocoon_net.lab.patience import eventually
from cocoon_net.supervisor import guests

NOW = 1_800_000_000
FIRST = int(IPv4Address("172.20.100.10"))


def test_what_rests_in_quarantine_and_who_is_refused_is_a_finding() -> None:
    resting = [
        Lease(FIRST + 2, State.QUARANTINED, NOW + 300, since=NOW - 300, port="tap7"),
        Lease(FIRST + 1, State.COOLING, NOW + 30, since=NOW - 30),
        Lease(FIRST, State.QUARANTINED, NOW + 600, since=NOW),
    ]
    refused = [guard.Finding("tap9", Reason.TOO_OFTEN, "02:00:5e:10:00:09", 3, 6_402, NOW - 9, NOW - 9, NOW - 60)]
    found = guests.findings(resting, refused, datetime.fromtimestamp(NOW, UTC))
    assert [(one.kind, one.key, one.first_seen.timestamp(), one.last_seen.timestamp()) for one in found] == [
        (Kind.ADDRESS_QUARANTINED, "172.20.100.10", NOW, NOW),
        (Kind.ADDRESS_QUARANTINED, "172.20.100.12", NOW - 300, NOW),
        (Kind.PORT_REFUSED, "tap9", NOW - 60, NOW - 9),
    ]
    assert "until 08:05:00 UTC" in found[1].sighting.says
    assert "tap7" in found[1].sighting.evidence[0].says
    assert found[2].sighting.says == "the port asks too often: 6402 messages, one of 02:00:5e:10:00:09"
    assert all(isinstance(one, Finding) and one.as_json()["advice"] for one in found)


SPEAK = """
from cocoon_net.dhcp.options import MessageType
from cocoon_net.lab.load import Clients
c = Clients(2)
{}
"""
DECLINE = """
assert c.run(2, patience=25.0).leases == 2
c.send(c.frame(0, MessageType.DECLINE, {50: c.addresses[0].to_bytes(4)}))
"""


def speak(namespace: str, code: str) -> None:
    words = ["ip", "netns", "exec", namespace, sys.executable, "-c", SPEAK.format(code)]
    subprocess.run(words, check=True, timeout=30)


@pytest.mark.root
def test_a_decline_and_a_clone_show_as_findings_and_in_the_view() -> None:
    with Arena(options=()) as arena:
        neighbour = arena.add_port(1)
        arena.start()
        eventually(arena.serves)
        assert arena.get("/v1/findings") == {"findings": []}
        speak(arena.client, DECLINE)
        speak(neighbour, "c.send(c.discover(1))")
        found = eventually(lambda: len(seen := arena.get("/v1/findings")["findings"]) == 2 and seen)
        assert [(one["kind"], one["key"]) for one in found] == [
            ("address-quarantined", "172.20.1.0"),
            ("port-refused", "port1"),
        ]
        assert found[1]["says"] == "the client is served at another port: 1 messages, one of 02:10:00:00:00:01"
        kinds = [one["kind"] for one in eventually(lambda: arena.get("/v1/view")["findings"])]
        assert kinds == ["address-quarantined", "port-refused"]
