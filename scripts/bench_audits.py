#!/usr/bin/env python3
"""What an audit costs guests: the time from DISCOVER to OFFER while a pass is under way, and with no audits at all.

``scripts/bench audits [--rounds 6] [--rate 200] [--loop]``, as root. A lab with a provisioned node and its daemon; a
guest asks at a steady rate, whatever the answers do, in turns of a few seconds: without audits, with the daemon's own
one after the other, and, for comparison, beside a loop that is busy at idle priority. Of a turn with audits only those
OFFERs count whose DISCOVER went out while a process of the daemon's lived, from its fork to its end: the kernel tells
of both with their times (proc connector). The guest has a session of its own, as a VM has: the kernel shares out the
processors between sessions (sched(7), autogroup). The lab's cloud, which no real node has on its processors, runs
only where nobody else wants one: SCHED_IDLE, in a cgroup that is idle, too (v1 or v2), and where none can be made as an
audit does. The last line says which.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import json
import os
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

from cocoon_net.dhcp import wire
from cocoon_net.lab.load import Clients
from cocoon_net.lab.namespace import members
from cocoon_net.lab.patience import eventually
from cocoon_net.lab.station import Station, station
from cocoon_net.supervisor.priority import give_way

SPEC = ("--platform", "volcengine", "--node-name", "cocoon-pool", "--subnet", "172.20.100.0/24", "--pool-size", "140")
MACS = 64
OFFER_AT, OFFER = 42 + 242, 2
EVERY = "0.1"
"""Seconds between two audits: shorter than one takes, so that the next begins when the last has ended."""
NONE, AUDITS, LOOP = "no audit", "during audits", "idle loop"
CGROUPS = Path("/sys/fs/cgroup")

Span = tuple[float, float]
Answer = tuple[float, float]
"""When a DISCOVER went out, on the monotonic clock, and the seconds to its OFFER."""


def main() -> int:
    """Parse flags, set up a lab, measure in turns, print the table and the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help="turns of each kind")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a turn")
    parser.add_argument("--rate", type=float, default=200.0, help="DISCOVERs per second")
    parser.add_argument("--loop", action="store_true", help="have turns with a busy loop of idle priority, too")
    parser.add_argument("--ask", metavar="SECONDS", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        return ask(options.ask, options.rate)
    if os.geteuid():
        parser.error("needs root, for network namespaces")
    kinds = (NONE, AUDITS, LOOP) if options.loop else (NONE, AUDITS)
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    lost = dict.fromkeys(kinds, 0)
    asked = passes = 0
    with contextlib.ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        name = f"ba{os.getpid() % 100000}"
        group = stack.enter_context(idle_group(name))
        one = stack.enter_context(station(Station(name, base), *SPEC))
        set_apart(one, group)
        guest = one.plug("load0")
        stack.callback(subprocess.run, ["ip", "netns", "del", guest], check=True)
        for kind in kinds * options.rounds:
            every = EVERY if kind == AUDITS else "0"
            with one.serving("--metrics-addr", "", "--audit-every", every, "--trusted-port", "load0"):
                time.sleep(2.0)
                with looping() if kind == LOOP else contextlib.nullcontext(), Passes(one.daemon) as seen:
                    answers, missing = measure(guest, options.seconds, options.rate)
            if kind == AUDITS:
                asked += len(answers)
                passes += len(seen.spans)
                answers = [answer for answer in answers if within(seen.spans, answer[0])]
            times[kind] += [seconds for _, seconds in answers]
            lost[kind] += missing
        told = audits(one)
    print(f"{'':16} {'OFFERs':>8} {'lost':>6} {'p50 ms':>8} {'p99 ms':>8} {'p99.9 ms':>9} {'max ms':>8}")
    for kind in kinds:
        found = sorted(times[kind])
        cells = " ".join(f"{1e3 * quantile(found, q):>{w}.2f}" for q, w in ((0.5, 8), (0.99, 8), (0.999, 9), (1, 8)))
        print(f"{kind:16} {len(found):>8} {lost[kind]:>6} {cells}")
    print(f"{passes} passes, in which {len(times[AUDITS])} of {asked} DISCOVERs fell; {told}")
    without = quantile(sorted(times[NONE]), 0.99)
    for kind in kinds[1:]:
        print(f"p99 of OFFER, {kind}: {quantile(sorted(times[kind]), 0.99) / without:.2f} times that without")
    way = "as an audit does, without a cgroup" if group is None else f"in the idle cgroup {group}"
    print(f"the lab's cloud gave way {way}")
    return 0


def quantile(ordered: list[float], share: float) -> float:
    """Return a quantile of sorted values."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def within(spans: list[Span], at: float) -> bool:
    """Whether a moment falls into one of the spans, which are in order."""
    index = bisect.bisect_right(spans, (at, float("inf"))) - 1
    return index >= 0 and at < spans[index][1]


def audits(one: Station) -> str:
    """Tell how many there were, how many saw something unknown, their median seconds, and all findings."""
    with contextlib.closing(sqlite3.connect(one.home / "state" / "cocoon-net.db")) as database:
        rows = database.execute("SELECT seconds, unknown FROM audits ORDER BY seconds").fetchall()
        findings = database.execute("SELECT count(*) FROM findings").fetchone()[0]
    unknown = sum(row[1] != "{}" for row in rows)
    median = quantile([row[0] for row in rows], 0.5)
    return f"of {len(rows)} audits {unknown} unknown in part, {median:.2f} s of looking each; {findings} findings"


def idle_groups(root: Path = CGROUPS) -> Path | None:
    """Return where a cgroup can be made that is idle to all others (cgroups(7), ``cpu.idle``); None for nowhere."""
    if (root / "cpu" / "cpu.idle").exists():
        return root / "cpu"
    given = root / "cgroup.subtree_control"
    return root if given.exists() and "cpu" in given.read_text().split() else None


@contextlib.contextmanager
def idle_group(name: str) -> Iterator[Path | None]:
    """Make a cgroup that is idle to all others, or none; everybody in it has to have ended when it goes."""
    parent = idle_groups()
    group = parent / name if parent is not None else None
    with contextlib.suppress(OSError):  # a container whose cgroups are read-only
        if group is not None:
            group.mkdir()
    if group is None or not group.exists():
        yield None
        return
    try:
        (group / "cpu.idle").write_text("1")
        yield group
    finally:
        eventually(lambda: _removed(group), 5.0)


def _removed(group: Path) -> bool:
    with contextlib.suppress(OSError):  # somebody in it is just ending
        group.rmdir()
    return not group.exists()


def set_apart(one: Station, group: Path | None) -> None:
    """Have the lab's cloud and fabric run only where nobody else wants a processor."""
    for pid in members([f"{one.name}-vpc"]):
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))
        if group is None:
            give_way(pid)
        else:
            (group / "cgroup.procs").write_text(str(pid))


@contextlib.contextmanager
def looping() -> Iterator[None]:
    """Keep a processor busy, giving way as an audit does."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) as loop:
        give_way(loop.pid)
        try:
            yield
        finally:
            loop.kill()


class Passes:
    """When processes lived that came from a process, by the kernel's own notices (proc connector)."""

    _PORT, _INDEX, _LISTEN = 11, 1, 1  # NETLINK_CONNECTOR, CN_IDX_PROC, PROC_CN_MCAST_LISTEN
    _FORK, _EXIT = 0x1, 0x80000000
    _HEADERS, _DATA = 16 + 20, 16 + 20 + 16

    def __init__(self, pid: int) -> None:
        self.spans: list[Span] = []
        self._from = {pid}
        self._living: set[int] = set()
        self._began = 0.0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, self._PORT)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Passes:
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
        self._socket.settimeout(0.2)
        self._socket.bind((0, self._INDEX))
        body = struct.pack("=IIIIHHI", self._INDEX, 1, 0, 0, 4, 0, self._LISTEN)
        self._socket.send(struct.pack("=IHHII", 16 + len(body), 3, 0, 0, os.getpid()) + body)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                data = self._socket.recv(4096)
                what, _, at = struct.unpack_from("=IIQ", data, self._HEADERS)
                self._hear(what, at / 1e9, struct.unpack_from("=IIII", data + bytes(16), self._DATA))

    def _hear(self, what: int, at: float, words: tuple[int, ...]) -> None:
        if what == self._FORK and words[1] in self._from and words[2] == words[3]:
            if not self._living:
                self._began = at
            self._from.add(words[3])
            self._living.add(words[3])
        elif what == self._EXIT and words[0] in self._living:
            self._living.discard(words[0])
            if not self._living:
                self.spans.append((self._began, at))


def measure(guest: str, seconds: float, rate: float) -> tuple[list[Answer], int]:
    """Ask from a guest's namespace for a while; returns the answers, and how many never came."""
    words = [sys.executable, __file__, "--ask", str(seconds), "--rate", str(rate)]
    line = ["ip", "netns", "exec", guest, *words]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True, start_new_session=True)
    told = json.loads(done.stdout)
    return [(at, took) for at, took in told["answers"]], told["lost"]


def ask(seconds: float, rate: float) -> int:
    """Send DISCOVERs at a steady rate and print when, and how long each OFFER took; in the guest's namespace."""
    clients = Clients(MACS, server=0xAC146401)
    sock = clients._socket
    sent: dict[int, float] = {}
    answers: list[Answer] = []
    begin = time.monotonic()
    number = 0
    while (now := time.monotonic()) < begin + seconds + 1.0:
        due = begin + number / rate
        if now >= due and due < begin + seconds:
            xid = number + 1
            frame = bytearray(clients.discover(number % MACS))
            frame[46:50] = xid.to_bytes(4)
            sent[xid] = time.monotonic()
            sock.send(frame)
            number += 1
            continue
        sock.settimeout(max(0.0005, min(due - now, 0.05)))
        with contextlib.suppress(TimeoutError):
            frame_in = sock.recv(2048)
            at = time.monotonic()
            if len(frame_in) > OFFER_AT and frame_in[42] == wire.REPLY and frame_in[OFFER_AT] == OFFER:
                began = sent.pop(int.from_bytes(frame_in[46:50]), None)
                if began is not None:
                    answers.append((began, at - began))
    print(json.dumps({"answers": answers, "lost": len(sent)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
