#!/usr/bin/env python3
"""How soon leases.json shows a lease after it was committed: alone, and under a storm of renewals.

``scripts/bench leases [--leases 60000]``. The contract's reader compares time and size, so each round also
looks whether one of them has changed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from ipaddress import IPv4Address
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

from cocoon_net.dhcp.lease import Lease, State
from cocoon_net.dhcp.projection import LeaseFile
from cocoon_net.formats import lease_file

FIRST = int(IPv4Address("172.20.1.0"))


def main() -> int:
    """Parse flags, measure both ways, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--leases", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--storm", type=int, default=5_000, help="renewals a second beside it")
    options = parser.parse_args()
    for storm in (0, options.storm):
        measure(options.leases, options.rounds, storm)
    return 0


def measure(leases: int, rounds: int, storm: int) -> None:
    """Print the quantiles of the time from ``update`` to a file that shows it."""
    now = 2_000_000_000
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "leases.json"
        file = LeaseFile(path)
        file.load(lease(number, now) for number in range(leases))
        waits: list[float] = []
        missed = 0
        stop = threading.Event()
        for round_ in range(rounds):
            one = lease(leases - 1, now + 1 + round_)
            row = lease_file.row(one.mac.hex(":"), str(IPv4Address(one.address)), one.ends)
            before = path.stat()
            began = time.perf_counter()
            file.update([one])
            number = 0
            while True:
                after = path.stat()
                if (after.st_ino, after.st_mtime_ns) != (before.st_ino, before.st_mtime_ns):
                    if shows(path, row):
                        break
                    before = after
                if storm and (time.perf_counter() - began) * storm > number:
                    file.update([lease((round_ * 977 + number) % (leases - 1), now + round_ + number)])
                    number += 1
                else:
                    time.sleep(0.0002)
            waits.append(time.perf_counter() - began)
            missed += (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
            time.sleep(0.003 * (round_ % 13))
        stop.set()
        file.close()
        waits.sort()
        size = path.stat().st_size / 1e6
        print(
            f"{leases} leases, {size:.1f} MB, {f'{storm} renewals/s beside it' if storm else 'nothing beside it'}: "
            f"p50 {1e3 * waits[len(waits) // 2]:.1f} ms, p99 {1e3 * waits[int(len(waits) * 0.99)]:.1f} ms, "
            f"worst {1e3 * waits[-1]:.1f} ms; {file.writes} writes for {rounds} rounds, {missed} unnoticeable"
        )


def shows(path: Path, row: bytes) -> bool:
    """Whether the file's last lines hold the row."""
    with path.open("rb") as file:
        file.seek(-200, os.SEEK_END)
        return row in file.read()


def lease(number: int, ends: int) -> Lease:
    """Return a bound lease."""
    return Lease(FIRST + number, State.BOUND, ends, b"\x02\x10" + number.to_bytes(4), 1)


if __name__ == "__main__":
    sys.exit(main())
