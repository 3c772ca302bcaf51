"""One guest floods the DHCP server under a hundred thousand MACs; its neighbour leases and renews meanwhile.

Prints what the neighbour noticed, what the flood got, and what the operator sees of it. Exit 1 when the neighbour was
kept from leasing, or the flood got into the part of the pool that is kept from it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

from cocoon_net.dhcp.guard import spared
from cocoon_net.dhcp.limits import Limits
from cocoon_net.lab.arena import POOL, Arena
from cocoon_net.lab.load import Clients
from cocoon_net.lab.patience import eventually

CLIENTS = 8
"""The neighbour's, one after the other."""


def main() -> int:
    """Parse flags, flood, print."""
    parser = argparse.ArgumentParser(prog="scripts/dhcp-flood", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--macs", type=int, default=100_000)
    parser.add_argument("--unguarded", action="store_true", help="without any limit, to see the difference")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("needs root, for network namespaces")
    with Arena(options=("--trusted-port", "port0") if options.unguarded else ()) as arena:
        neighbour = arena.add_port(1)
        arena.start()
        eventually(arena.serves)
        began = time.monotonic()
        flood = _inside(arena.client, f"flood({options.macs})")
        quiet = _inside(neighbour, "neighbour()")
        sent = int(flood.communicate()[0])
        took = time.monotonic() - began
        assert quiet.stdin is not None and quiet.stdout is not None
        quiet.stdin.close()
        waits = sorted(json.loads(quiet.stdout.read()))
        quiet.wait()
        status = arena.get("/v1/status")
        held = [row for row in arena.get("/v1/leases?state=all")["leases"] if row["port"] == "port0"]
        lines = arena.log.read_text().count("not answered")
    print(f"flood: {sent} DISCOVERs, each of its own MAC, in {took:.1f} s; it holds {len(held)} addresses")
    if waits:
        half, most = waits[len(waits) // 2], waits[int(len(waits) * 0.99)]
        print(f"neighbour: {len(waits)} exchanges meanwhile, p50 {half:.1f} ms, p99 {most:.1f}, worst {waits[-1]:.1f}")
    else:
        print("neighbour: it was kept from leasing")
    for one in status["ports"]:
        print(f"status: {one['port']}: {one['reason']}, {one['count']} times heard")
    print(f"log: {lines} lines about it")
    return 0 if waits and len(held) <= POOL - spared(POOL, Limits()) else 1


def flood(macs: int) -> None:
    """Send a DISCOVER under each MAC as fast as they go. Runs in the flooder's namespace."""
    print(Clients(macs).flood(600.0))


def neighbour() -> None:
    """Lease and renew, one client after the other, until stdin ends; print the milliseconds of each exchange."""
    import select

    waits: list[float] = []
    clients = [Clients(1, first=(1 << 23) + number) for number in range(CLIENTS)]
    turn = 0
    while not select.select([sys.stdin], [], [], 0.06)[0]:
        report = clients[turn % CLIENTS].run(1, patience=5.0)
        waits += [1000 * seconds for seconds in report.times]
        turn += 1
    print(json.dumps(waits))


def _inside(namespace: str, call: str) -> subprocess.Popen[str]:
    code = f"import cocoon_net.lab.flood as f; f.{call}"
    line = ["ip", "netns", "exec", namespace, sys.executable, "-c", code]
    return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    sys.exit(main())
