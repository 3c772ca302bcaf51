"""The photograph names things by what they are, and leaves out only what tells of time."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.errors import NodeError
from cocoon_net.lab import lab as labs
from cocoon_net.lab import machine
from cocoon_net.lab.cloud import Admin
from cocoon_net.lab.lab import Shape
from cocoon_net.lab.photograph import Photograph, finished, remember, take


def test_equal_is_what_has_the_same_things_as_often() -> None:
    one = Photograph({"addresses": ("a", "a")}, {}, {})
    other = Photograph({"addresses": ("a",)}, {}, {"lineages": ("1",)})
    assert one.differences(one) == []
    assert one.differences(other) == ["+ cloud addresses: a", "- memory lineages: 1"]
    assert one.leaked(other) == (1, 0)
    assert other.leaked(one) == (0, 0)


def test_a_database_that_cannot_be_read_is_an_error_and_none_is_an_empty_memory(tmp_path: Path) -> None:
    assert remember(tmp_path / "none.db", {}) == {}
    with closing(sqlite3.connect(tmp_path / "other.db")) as database:
        database.execute("CREATE TABLE other (x)")
    with pytest.raises(NodeError, match="no such table"):
        remember(tmp_path / "other.db", {})
    assert finished(tmp_path / "other.db") == finished(tmp_path / "none.db") == set()


@pytest.mark.root
@pytest.mark.slow
def test_a_world_is_the_same_whatever_its_ids_and_shows_whatever_is_changed(
    fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    labs.up(fresh, Shape(nodes=1), {})
    admin = Admin(fresh.admin_socket)
    (planted,) = admin.plant_interface(instance="node1", name="theirs", secondaries=2)
    address = next(row["secondaries"][0] for row in admin.state()["interfaces"] if row["id"] == planted)
    state = fresh.directory / "node1" / "state"
    (state / "pool.json").write_text(f'{{"eniIDs": ["{planted}"], "ips": ["{address}"], "updatedAt": "now"}}')
    before = take(fresh)
    assert [line for line in before.node["files"] if '"address of theirs"' in line and planted not in line]
    assert [line for line in before.node["links"] if "link of theirs" in line], "it waits for the link"
    assert take(fresh).differences(before) == []

    def change(*command: str) -> list[str]:
        done = machine.run(fresh, "node1", command)
        assert done.code == 0, done.errors
        return take(fresh).differences(before)

    seen = change("ip", "addr", "add", "10.1.2.3/32", "dev", "eth0")
    assert any(line.startswith("+ node addresses") and "10.1.2.3/32" in line for line in seen)
    seen = change("ip", "addr", "del", "10.1.2.3/32", "dev", "eth0")
    assert seen == []
    for command, undo, section in (
        ("ip route add 10.9.0.0/24 dev eth0", "ip route del 10.9.0.0/24 dev eth0", "routes"),
        ("ip rule add from 10.9.0.1 table 7", "ip rule del from 10.9.0.1 table 7", "policies"),
        ("iptables -A FORWARD -s 10.9.9.9 -j DROP", "iptables -D FORWARD -s 10.9.9.9 -j DROP", "rules"),
        ("sysctl net.ipv4.conf.eth1.rp_filter=1", "sysctl net.ipv4.conf.eth1.rp_filter=0", "settings"),
        ("ip link set eth1 up", "ip link set eth1 down", "links"),
        (f"touch {state}/left.tmp", f"rm {state}/left.tmp", "files"),
    ):
        seen = change(*command.split())
        assert any(line.startswith(f"+ node {section}: ") for line in seen), (command, seen)
        assert change(*undo.split()) == [], undo

    admin.plant_interface(name="one-more")
    now = take(fresh)
    assert any("one-more" in line for line in now.differences(before))
    assert now.leaked(before) == (1, 0)
