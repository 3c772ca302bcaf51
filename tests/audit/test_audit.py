"""Things are pulled out of a provisioned node one by one: the audit finds each, and repairs it or says what to type."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.audit.pulls import REPAIRED, REPORTED

pytestmark = [pytest.mark.root, pytest.mark.slow]


def kinds(seen: dict[str, Any]) -> set[str]:
    return {sighting["kind"] for sighting in seen["sightings"]}


def test_a_node_as_init_left_it_is_clean(node: Any) -> None:
    code, seen = node.audit()
    assert (code, seen["sightings"], seen["unknown"]) == (0, [], {})


@pytest.mark.parametrize("what", REPAIRED)
def test_on_the_node_it_is_put_right(node: Any, what: str) -> None:
    pull = REPAIRED[what]
    pull.out_of(node)
    code, seen = node.audit("--repair")
    assert code == 1 and pull.kind in kinds(seen), seen
    assert seen["repaired"]
    pull.back(node)
    code, seen = node.audit()
    assert (code, seen["sightings"], seen["unknown"]) == (0, [], {})


@pytest.mark.parametrize("what", REPORTED)
def test_what_is_not_ours_to_change_is_reported_with_what_to_type(node: Any, what: str) -> None:
    pull = REPORTED[what]
    pull.out_of(node)
    code, seen = node.audit("--repair")
    pull.back(node)
    assert code == 1 and pull.kind in kinds(seen), seen
    assert all(sighting["advice"] for sighting in seen["sightings"])
    code, seen = node.audit("--repair")
    code, seen = node.audit()
    assert (code, seen["sightings"], seen["unknown"]) == (0, [], {})


def test_a_link_with_another_mac_is_told_with_the_command_that_gives_it_back(node: Any) -> None:
    mac = json.loads(node.ip("-j", "link", "show", "eth1"))[0]["address"]
    node.ip("link", "set", "eth1", "address", "02:00:00:00:00:77")
    code, seen = node.audit()
    (sighting,) = seen["sightings"]
    assert (code, sighting["kind"], sighting["advice"]) == (1, "link-mac", f"`ip link set eth1 address {mac}`")
    node.ip("link", "set", "eth1", "address", mac)
    assert node.audit()[0] == 0


def test_port_67_taken_by_another_is_told_by_name(node: Any, eventually: Any) -> None:
    import subprocess

    line = ["ip", "netns", "exec", f"{node.name}-node1", "python3", "-c"]
    code = "import socket, time; s = socket.socket(2, 2); s.bind(('', 67)); print(flush=True); time.sleep(60)"
    with subprocess.Popen([*line, code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        number, seen = node.audit()
        other.kill()
    (sighting,) = seen["sightings"]
    assert number == 1 and sighting["kind"] == "dhcp-port" and str(other.pid) in sighting["says"]


# The cloud


def test_the_cloud_away_is_unknown_and_the_node_is_looked_at_all_the_same(node: Any) -> None:
    node.ip("link", "set", "eth1", "down")
    node.admin.set_faults({"outage": "all"} if "outage" in node.admin.faults() else {"error-rate": "1"})
    try:
        code, seen = node.audit()
    finally:
        node.admin.set_faults(dict.fromkeys(node.admin.faults(), ""))
    assert code == 1 and kinds(seen) == {"link-down"}
    assert {"enis", "attach", "addresses"} <= set(seen["unknown"])
    node.ip("link", "set", "eth1", "up")
    assert node.audit()[0] == 0


def test_what_the_workflow_says_to_report_is_not_repaired(node: Any) -> None:
    import contextlib
    import sqlite3

    path = node.home / "state" / "cocoon-net.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        ((run, plan),) = database.execute("SELECT id, plan FROM runs WHERE workflow = 'init' LIMIT 1").fetchall()
        stages = json.loads(plan)
        for stage in stages["stages"]:
            stage["repair"] = "report" if stage["name"] == "sysctl" else stage["repair"]
        database.execute("UPDATE runs SET plan = ? WHERE id = ?", [json.dumps(stages), run])
        database.commit()
    try:
        node.inside("sysctl", "-w", "net.ipv4.ip_forward=0")
        for _ in range(2):
            code, seen = node.audit("--repair")
            (sighting,) = seen["sightings"]
            assert code == 1 and seen["repaired"] == []
            assert sighting["advice"] == "`sysctl -w net.ipv4.ip_forward=1`"
    finally:
        node.inside("sysctl", "-w", "net.ipv4.ip_forward=1")
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("UPDATE runs SET plan = ? WHERE id = ?", [plan, run])
            database.commit()
    assert node.audit()[0] == 0
