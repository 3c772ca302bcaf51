#!/usr/bin/env python3
"""What an audit costs guests: the time from DISCOVER to OFFER with one audit after the other, and without.

``scripts/bench audits [--rounds 6] [--rate 200]``, as root. A lab with a provisioned node and its daemon; a guest asks
at a steady rate, whatever the answers do, in turns of a few seconds with and without audits. The audits are
the daemon's own, one each second. The lab's cloud, which no real node has on its processors, runs only where nobody
else wants one (sched(7), SCHED_IDLE).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

from cocoon_net.dhcp import wire
from cocoon_net.lab.load import Clients
from cocoon_net.lab.namespace import members
from cocoon_net.lab.station import Station, station

SPEC = ("--platform", "volcengine", "--node-name", "cocoon-pool", "--subnet", "172.20.100.0/24", "--pool-size", "140")
MACS = 64
OFFER_AT, OFFER = 42 + 242, 2


def main() -> int:
    """Parse flags, set up a lab, measure in turns, print the table and the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help="turns of each kind")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a turn")
    parser.add_argument("--rate", type=float, default=200.0, help="DISCOVERs per second")
    parser.add_argument("--ask", metavar="SECONDS", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        return ask(options.ask, options.rate)
    if os.geteuid():
        parser.error("needs root, for network namespaces")
    times: dict[bool, list[float]] = {False: [], True: []}
    lost = dict.fromkeys(times, 0)
    with contextlib.ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        one = stack.enter_context(station(Station(f"ba{os.getpid() % 100000}", base), *SPEC))
        for task in [task for pid in members([f"{one.name}-vpc"]) for task in Path(f"/proc/{pid}/task").iterdir()]:
            os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))
        guest = one.plug("load0")
        stack.callback(subprocess.run, ["ip", "netns", "del", guest], check=True)
        for turn in range(2 * options.rounds):
            audited = bool(turn % 2)
            every = "1" if audited else "0"
            with one.serving("--metrics-addr", "", "--audit-every", every, "--trusted-port", "load0"):
                time.sleep(2.0)
                found, missing = measure(guest, options.seconds, options.rate)
            times[audited] += found
            lost[audited] += missing
        passes, unknown, seconds, findings = audits(one)
    print(f"{'':16} {'OFFERs':>8} {'lost':>6} {'p50 ms':>8} {'p99 ms':>8} {'p99.9 ms':>9} {'max ms':>8}")
    for audited, name in ((False, "no audit"), (True, "during audits")):
        found = sorted(times[audited])
        cells = " ".join(f"{1e3 * quantile(found, q):>{w}.2f}" for q, w in ((0.5, 8), (0.99, 8), (0.999, 9), (1, 8)))
        print(f"{name:16} {len(found):>8} {lost[audited]:>6} {cells}")
    print(
        f"{passes} audits, {unknown} of them unknown in part, {seconds:.2f} s each after the start; {findings} findings"
    )
    ratio = quantile(sorted(times[True]), 0.99) / quantile(sorted(times[False]), 0.99)
    print(f"p99 of OFFER during audits: {ratio:.2f} times that without")
    return 0


def quantile(ordered: list[float], share: float) -> float:
    """Return a quantile of sorted values."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def audits(one: Station) -> tuple[int, int, float, int]:
    """Return how many there were, how many saw something unknown, their median seconds, and all findings."""
    with contextlib.closing(sqlite3.connect(one.home / "state" / "cocoon-net.db")) as database:
        rows = database.execute("SELECT seconds, unknown FROM audits ORDER BY seconds").fetchall()
        findings = database.execute("SELECT count(*) FROM findings").fetchone()[0]
    return len(rows), sum(row[1] != "{}" for row in rows), quantile([row[0] for row in rows], 0.5), findings


def measure(guest: str, seconds: float, rate: float) -> tuple[list[float], int]:
    """Ask from a guest's namespace for a while; returns the seconds to each OFFER, and how many never came."""
    words = [sys.executable, __file__, "--ask", str(seconds), "--rate", str(rate)]
    done = subprocess.run(["ip", "netns", "exec", guest, *words], check=True, stdout=subprocess.PIPE, text=True)
    told = json.loads(done.stdout)
    return told["times"], told["lost"]


def ask(seconds: float, rate: float) -> int:
    """Send DISCOVERs at a steady rate and print how long each OFFER took; runs in the guest's namespace."""
    clients = Clients(MACS, server=0xAC146401)
    sock = clients._socket
    sent: dict[int, float] = {}
    times: list[float] = []
    begin = time.perf_counter()
    number = 0
    while (now := time.perf_counter()) < begin + seconds + 1.0:
        due = begin + number / rate
        if now >= due and due < begin + seconds:
            xid = number + 1
            frame = bytearray(clients.discover(number % MACS))
            frame[46:50] = xid.to_bytes(4)
            sent[xid] = time.perf_counter()
            sock.send(frame)
            number += 1
            continue
        sock.settimeout(max(0.0005, min(due - now, 0.05)))
        with contextlib.suppress(TimeoutError):
            frame_in = sock.recv(2048)
            at = time.perf_counter()
            if len(frame_in) > OFFER_AT and frame_in[42] == wire.REPLY and frame_in[OFFER_AT] == OFFER:
                began = sent.pop(int.from_bytes(frame_in[46:50]), None)
                if began is not None:
                    times.append(at - began)
    print(json.dumps({"times": times, "lost": len(sent)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
