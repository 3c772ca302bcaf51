#!/usr/bin/env python3
"""How soon the daemon serves after its process began, with an empty book and with a full one.

``scripts/bench start [--leases 60000] [--rounds 3]``, as root. The whole daemon, its database checked, leases.json
compared, routes set; in a namespace with a bridge. The first start of each kind sets the routes, later ones find them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

from cocoon_net import records
from cocoon_net.dhcp.book import Book
from cocoon_net.dhcp.lease import Lease, State
from cocoon_net.lab.bridged import bridged
from cocoon_net.store import open_database

FIRST = int(IPv4Address("172.20.1.0"))
BATCH = 2_000


def main() -> int:
    """Parse flags, start daemons, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--leases", type=int, default=60_000, help="in the full book")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each kind")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("needs root, for network namespaces")
    space = f"bs{os.getpid()}"
    for leases in (0, options.leases):
        with tempfile.TemporaryDirectory() as home, bridged(space, "172.20.0.1/16"):
            fill(Path(home) / "state", leases)
            found = [start(Path(home), space) for _ in range(options.rounds)]
        told = " ".join(f"{seconds:.2f}" for seconds, _ in found)
        print(f"{leases:>6} leases: serving after {told} s; peak RSS {max(peak for _, peak in found) // 1024} MB")
    return 0


def fill(state: Path, leases: int) -> None:
    """Write a pool of 60,000 addresses and so many bound leases."""
    state.mkdir()
    now = int(time.time())
    with contextlib.closing(open_database(state / "cocoon-net.db")) as database:
        book = Book(database)
        addresses = tuple(IPv4Address(FIRST + number) for number in range(60_000))
        gateway, dns = IPv4Address("172.20.0.1"), (IPv4Address("8.8.8.8"),)
        book.put_pool(records.Pool(IPv4Network("172.20.0.0/16"), gateway, dns, addresses, 1500), datetime.now(UTC))
        for begin in range(0, leases, BATCH):
            batch = [lease(number, now) for number in range(begin, min(begin + BATCH, leases))]
            book.commit(batch, [])


def lease(number: int, now: int) -> Lease:
    """Return a bound lease, one of many."""
    mac = (0x02_00_00_00_00_00 + number).to_bytes(6)
    name, port = f"vm-{number}", f"tap{number % 500}"
    return Lease(FIRST + number, State.BOUND, now + 86_400, mac, now, b"\x01" + mac, name, port)


def start(home: Path, space: str) -> tuple[float, int]:
    """Start the daemon and stop it again; returns the seconds until it said that it serves, and its peak RSS in KB."""
    log = home / "log"
    places = ["--state-dir", str(home / "state"), "--run-dir", str(home), "--metrics-addr", ""]
    with log.open("w") as out:
        began = time.perf_counter()
        command = ["ip", "netns", "exec", space, sys.executable, "-m", "cocoon_net", "daemon", *places]
        process = subprocess.Popen(command, stderr=out)
        while "serving:" not in log.read_text():
            if process.poll() is not None or time.perf_counter() - began > 60:
                sys.exit(log.read_text())
            time.sleep(0.005)
        took = time.perf_counter() - began
        peak = int(Path(f"/proc/{process.pid}/status").read_text().split("VmHWM:")[1].split()[0])
        process.terminate()
        process.wait()
    return took, peak


if __name__ == "__main__":
    sys.exit(main())
