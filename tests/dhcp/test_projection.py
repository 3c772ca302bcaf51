"""leases.json as vk-cocoon sees it: whole at every moment, its time or size always another, the newest last."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.dhcp.lease import Lease, State
from cocoon_net.dhcp.projection import AT_ONCE, LeaseFile

FIRST = 0xAC140100


def lease(number: int, ends: int = 2_000_000_000, state: State = State.BOUND, mac: int | None = None) -> Lease:
    return Lease(FIRST + number, state, ends, b"\x02\x10" + (number if mac is None else mac).to_bytes(4), 1)


def rows(path: Path) -> list[dict[str, str]]:
    return list(json.loads(path.read_text()))


@pytest.mark.parametrize("count", [3, AT_ONCE + 500])
def test_the_file_is_the_table_after_whatever_happened(
    tmp_path: Path, count: int, eventually: Callable[..., Any]
) -> None:
    path, chance = tmp_path / "leases.json", random.Random(1)
    file = LeaseFile(path)
    file.load(lease(number) for number in range(count))
    table = dict.fromkeys(range(count), 2000000000)
    for _ in range(300):
        batch = []
        for number in {chance.randrange(count) for _ in range(5)}:
            if chance.random() < 0.3:
                table.pop(number, None)
                batch.append(lease(number, state=State.COOLING))
            else:
                table[number] = table.get(number, 2_000_000_000) + 1
                batch.append(lease(number, table[number]))
        file.update(batch)
    file.close()
    seen = {row["ip"]: row["expiry"] for row in rows(path)}
    assert len(seen) == len(table)
    again = LeaseFile(tmp_path / "again.json")
    again.load(lease(number, ends) for number, ends in table.items())
    assert seen == {row["ip"]: row["expiry"] for row in rows(tmp_path / "again.json")}


def test_where_a_mac_has_several_leases_the_newest_stands_last(tmp_path: Path) -> None:
    """The reader takes the last row of a MAC, on whatever page its address would be."""
    path = tmp_path / "leases.json"
    file = LeaseFile(path)
    file.load([lease(9_000, mac=1), *(lease(number) for number in range(2, 700))])
    file.update([lease(5, mac=1)])
    assert [row["ip"] for row in rows(path) if row["mac"] == "02:10:00:00:00:01"][-1] == "172.20.1.5"
    file.update([lease(9_000, state=State.COOLING), lease(5, state=State.COOLING)])
    file.update([lease(5, mac=1)])
    file.update([lease(9_000, mac=1)])
    file.update([lease(5, ends=2_000_000_999, mac=1)])
    assert [row["ip"] for row in rows(path) if row["mac"] == "02:10:00:00:00:01"] == ["172.20.1.5", "172.20.36.40"]


def test_a_reader_never_sees_half_a_file_nor_misses_a_change(tmp_path: Path) -> None:
    path = tmp_path / "leases.json"
    file = LeaseFile(path)
    file.load(lease(number) for number in range(AT_ONCE + 200))
    stop, broken = threading.Event(), list[str]()

    def read() -> None:
        while not stop.is_set():
            try:
                assert len(rows(path)) == AT_ONCE + 200
            except (ValueError, AssertionError) as error:
                broken.append(str(error)[:80])

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        file.update([lease(number, 2_000_000_001)])
    stop.set()
    reader.join()
    file.close()
    assert broken == []
    stats = set()
    small = LeaseFile(tmp_path / "small.json")
    small.load([lease(1)])
    for ends in range(2_000_000_000, 2_000_000_050):
        small.update([lease(1, ends)])
        found = (tmp_path / "small.json").stat()
        stats.add((found.st_mtime_ns, found.st_size))
    assert len(stats) == 50, "each renewal is another time or size, however fast they follow"
