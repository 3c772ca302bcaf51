#!/usr/bin/env python3
"""What it costs to find an address for a stranger, by what is left and by the size of the pool: microseconds of CPU.

``scripts/bench choose [--pools 140 60000]``; needs no root. Nothing of it may grow with the pool: the last column is by
how much the largest takes more than the smallest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

from cocoon_net import records
from cocoon_net.dhcp.choice import choose
from cocoon_net.dhcp.lease import Client, Lease, State
from cocoon_net.dhcp.pool import Pool
from cocoon_net.dhcp.reservation import Reservation
from cocoon_net.dhcp.table import Table

SUBNET, GATEWAY = IPv4Network("172.20.0.0/16"), IPv4Address("172.20.0.1")
FIRST, NOW, TIMES = int(GATEWAY) + 255, 1_800_000_000, 20_000


def mac(number: int) -> bytes:
    """Return a client's MAC."""
    return b"\2\0" + number.to_bytes(4)


def table(size: int, reserved: int = 0) -> Table:
    """Return a table of ``size`` addresses, the first of them reserved for others."""
    addresses = tuple(IPv4Address(FIRST + number) for number in range(size))
    record = records.Pool(subnet=SUBNET, gateway=GATEWAY, dns=(), addresses=addresses, mtu=1500)
    return Table(Pool.of(record, None, [Reservation(mac(1 << 24 | n), addresses[n]) for n in range(reserved)]))


def free(size: int) -> Table:
    """All are free."""
    return table(size)


def cooling(size: int) -> Table:
    """All cool, and the longest that do are reserved for others."""
    made = table(size, size // 2)
    for number in range(size):
        made.put(Lease(FIRST + number, State.COOLING, NOW + 60, mac(number), NOW))
    return made


def offered(size: int) -> Table:
    """All are on offer."""
    made = table(size)
    for number in range(size):
        made.offer(Lease(FIRST + number, State.OFFERED, NOW + 30, mac(number), NOW))
    return made


def leased(size: int) -> Table:
    """All are leased."""
    made = table(size)
    for number in range(size):
        made.put(Lease(FIRST + number, State.BOUND, NOW + 60, mac(number), NOW))
    return made


CASES: dict[str, Callable[[int], Table]] = {"free": free, "cooling": cooling, "on offer": offered, "leased": leased}


def measure(made: Table) -> float:
    """Return the best of three rounds; each stranger is given what it was chosen, so that the next finds another."""
    best = float("inf")
    for turn in range(3):
        spent = 0.0
        for number in range(TIMES):
            client = Client(mac(1 << 30 | turn << 20 | number), b"", "tap")
            began = time.thread_time()
            choose(made, client, 0, NOW + 9)
            spent += time.thread_time() - began
            if number % 50 == 0 and made.offers:
                address = next(iter(made.offers))
                made.offer(Lease(address, State.OFFERED, NOW + 30, client.mac, NOW))
        best = min(best, spent / TIMES)
    return 1e6 * best


def main() -> int:
    """Parse flags, measure, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pools", type=int, nargs="+", default=[140, 60_000])
    sizes = parser.parse_args().pools
    print(f"{'us to choose when all are':28}", *(f"{size:8}" for size in sizes), "   ratio")
    for name, make in CASES.items():
        times = [measure(make(size)) for size in sizes]
        print(f"{name:28}", *(f"{one:8.2f}" for one in times), f"{times[-1] / times[0]:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
