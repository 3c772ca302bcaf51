#!/usr/bin/env python3
"""What each stage of a lease costs our own code: microseconds of CPU per lease (two messages), without any socket.

``scripts/bench stages [--pools 140 60000]``; needs no root. The best of several rounds of up to 20,000 leases; what the
kernel adds for frames and routes shows in ``scripts/bench self``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

from cocoon_net import records
from cocoon_net.clock import SystemClock
from cocoon_net.dhcp import frame, wire
from cocoon_net.dhcp.batch import Batch
from cocoon_net.dhcp.book import Book
from cocoon_net.dhcp.exchange import tell
from cocoon_net.dhcp.guard import Guard
from cocoon_net.dhcp.limits import Limits
from cocoon_net.dhcp.options import MessageType
from cocoon_net.dhcp.pool import Pool
from cocoon_net.dhcp.projection import LeaseFile
from cocoon_net.dhcp.reply import destination, render
from cocoon_net.dhcp.routes import Routes
from cocoon_net.dhcp.table import Table
from cocoon_net.dhcp.trace import Trace
from cocoon_net.events import Bus
from cocoon_net.lab.load import broadcast
from cocoon_net.store import open_database
from cocoon_net.supervisor import collector
from cocoon_net.supervisor.narrator import Narrator

SUBNET, GATEWAY = IPv4Network("172.20.0.0/16"), IPv4Address("172.20.0.1")
SERVER, FIRST, MAC = int(GATEWAY), int(GATEWAY) + 255, bytes.fromhex("02005e000001")
LEASES, WINDOW, PORT = 20_000, 140, "port0"


def main() -> int:
    """Parse flags, measure, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pools", type=int, nargs="+", default=[140, 60_000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    best = {}
    for size in options.pools:
        rounds = [measure(size) for _ in range(options.rounds * max(1, min(20, LEASES // size)))]
        best[size] = {stage: min(one[stage] for one in rounds) for stage in rounds[0]}
    print(f"{'us of CPU per lease, addresses':32}", *(f"{size:8}" for size in best))
    for stage in best[options.pools[0]]:
        print(f"{stage:32}", *(f"{stages[stage]:8.1f}" for stages in best.values()))
    print(f"{'in all':32}", *(f"{sum(stages.values()):8.1f}" for stages in best.values()))
    return 0


class Nowhere:
    """A kernel that takes every route at once."""

    def change(self, present: Sequence[int], absent: Sequence[int]) -> dict[int, int]:
        """Refuse nothing."""
        return {}

    def present(self) -> set[int]:
        """Have nothing."""
        return set()

    def close(self) -> None:
        """Do nothing."""


class Bench:
    """A server without sockets over a pool of ``size`` addresses; ``spent`` is the CPU seconds of each stage."""

    def __init__(self, size: int, directory: Path) -> None:
        addresses = tuple(IPv4Address(FIRST + number) for number in range(size))
        record = records.Pool(subnet=SUBNET, gateway=GATEWAY, dns=(GATEWAY,), addresses=addresses, mtu=1500)
        self.bus = Bus()
        self.narrator = Narrator(self.bus)  # listens as in the daemon, and is never started
        self.book = Book(open_database(directory / "cocoon-net.db"))
        self.file = LeaseFile(directory / "leases.json")
        self.table = Table(Pool.of(record))
        self.routes = Routes(self.bus, SystemClock().now)
        self.routes.connect(Nowhere(), ())
        self.guard = Guard(self.table, Limits(trusted=(PORT,)), self.bus.publish)
        self.trace = Trace()
        self.spent: Counter[str] = Counter()

    def lease(self, macs: Sequence[bytes]) -> None:
        """Lease to new clients, in two batches."""
        offers = self.exchange([ask(mac) for mac in macs])
        self.exchange([ask(mac, address) for mac, address in zip(macs, offers, strict=True)])

    def exchange(self, frames: Sequence[bytes]) -> list[int]:
        """Serve a batch as ``dhcp.exchange`` does, each stage for all of it; returns the addresses of the replies."""
        now, stage = int(time.time()), self._stage
        batch = Batch(self.table, now)
        with stage("admit"):
            self.guard.begin(time.monotonic(), now, {PORT: 1}, len(frames))
            for _ in frames:
                self.guard.admit(PORT)
        with stage("unwrap"):
            payloads = [frame.unwrap(one) for one in frames]
        with stage("decode"):
            packets = [wire.decode(one, PORT) for one in payloads]
        decisions = []
        with stage("decide, with the guard; take"):
            for packet in packets:
                decision = self.guard.decide(packet, packet.chaddr, now)
                batch.take(decision)
                decisions.append(decision)
        with stage("settle: routes, SQLite"):
            batch.settle(self.routes, self.book, lambda leases: None)
        with stage("leases.json, but for its writer"):
            self.file._render([lease for decision in decisions for lease in decision.changes])
        with stage("render, destination"):
            replies = [
                (render(decision, packet, self.table.pool), destination(decision, packet))
                for decision, packet in zip(decisions, packets, strict=True)
            ]
        with stage("wrap"):
            for payload, where in replies:
                frame.wrap(payload, MAC, MAC, SERVER, where.address)
        with stage("trace, events"):
            for decision, packet in zip(decisions, packets, strict=True):
                self.trace.note(packet, decision, now)
            tell(self.bus, [decision for decision in decisions if decision.changes], now)
        return [decision.address for decision in decisions]

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        began = time.thread_time()
        yield
        self.spent[name] += time.thread_time() - began


def measure(size: int) -> dict[str, float]:
    """Return each stage's microseconds per lease."""
    with tempfile.TemporaryDirectory() as directory, collector.resting():
        bench, leases = Bench(size, Path(directory)), min(LEASES, size)
        collector.settle()  # as in the daemon
        for begin in range(0, leases, WINDOW):
            bench.lease([b"\x02\0" + number.to_bytes(4) for number in range(begin, min(begin + WINDOW, leases))])
        assert len(bench.routes) == leases
    return {stage: 1e6 * seconds / leases for stage, seconds in bench.spent.items()}


def ask(mac: bytes, address: int = 0) -> bytes:
    """Return the frame of a DISCOVER, or of the REQUEST for an address that was offered."""
    said = {53: bytes((MessageType.REQUEST if address else MessageType.DISCOVER,))}
    if address:
        said |= {50: address.to_bytes(4), 54: GATEWAY.packed}
    said |= {61: b"\x01" + mac, 55: bytes((1, 3, 6, 15, 26, 51, 54)), 12: b"guest"}
    return broadcast(mac, wire.encode(wire.Packet(wire.REQUEST, 7, mac, said)))


if __name__ == "__main__":
    sys.exit(main())
