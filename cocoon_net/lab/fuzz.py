"""Fuzzes the DHCP server in this process: frames in, the whole way of a batch, replies out; time passes, it restarts.

``scripts/dhcp-fuzz [--seconds 60] [--seed N] [--keep N]``. Whatever broke is printed with the seed, which leads there
again, and the datagram that does it alone, or all of its batch, as files of ``tests/dhcp/corpus``. Datagrams that were
answered in a way not seen before are built upon; ``--keep`` writes them to the corpus. Needs no root: the kernel
and sockets are left out, the book is a real one.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path

from loguru import logger

from cocoon_net import records
from cocoon_net.clock import ManualClock
from cocoon_net.dhcp import frame, wire
from cocoon_net.dhcp.book import Book
from cocoon_net.dhcp.decision import end
from cocoon_net.dhcp.exchange import Exchange
from cocoon_net.dhcp.guard import Guard
from cocoon_net.dhcp.lease import State
from cocoon_net.dhcp.limits import Limits
from cocoon_net.dhcp.pool import Pool
from cocoon_net.dhcp.reply import Destination, decide
from cocoon_net.dhcp.routes import Routes
from cocoon_net.dhcp.settings import Settings, Terms
from cocoon_net.dhcp.table import Table
from cocoon_net.dhcp.wire import Packet
from cocoon_net.events import Bus
from cocoon_net.lab import oracle
from cocoon_net.lab.load import broadcast
from cocoon_net.lab.mutations import FIRST, NETWORK, PORTS, SIZE, Mutations
from cocoon_net.store import open_database

CORPUS = Path(__file__).parents[2] / "tests/dhcp/corpus"
TERMS = Terms(lease=3600, cooling=60, offer=30, quarantine=600)
BATCH = 32
ORACLE_EVERY = 6
"""scapy reads one datagram in so many: it takes ten times as long as all the rest."""
RESTART_EVERY = 200
"""Batches."""


class Kernel:
    """Routes that are taken at once."""

    def __init__(self) -> None:
        self._routes: set[int] = set()

    def change(self, present: Sequence[int], absent: Sequence[int]) -> dict[int, int]:
        """Refuse nothing."""
        self._routes = self._routes.union(present).difference(absent)
        return {}

    def present(self) -> set[int]:
        """Return what was asked for."""
        return set(self._routes)

    def close(self) -> None:
        """Do nothing."""


class Air:
    """The bridge's ports without sockets: frames are put in, replies are taken out."""

    def __init__(self) -> None:
        self.frames: list[tuple[bytes, str]] = []
        self.replies: list[bytes] = []

    @property
    def present(self) -> Mapping[str, int]:
        """Always the same ports."""
        return PORTS

    def receive(self) -> list[tuple[bytes, str]]:
        """Return what was put in."""
        taken, self.frames = self.frames, []
        return taken

    def send(self, payload: bytes, destination: Destination, mac: bytes, port: str, kind: int = 0) -> None:
        """Keep a reply; an address that nothing can be sent to is an error of ours."""
        oracle.must(bool(destination.address), "a reply goes to no address")
        frame.wrap(payload, mac[:6].ljust(6, b"\0"), mac[:6].ljust(6, b"\0"), FIRST, destination.address)
        self.replies.append(payload)

    def flush(self) -> list[int]:
        """Have sent everything."""
        return []


class World:
    """A server's table, guard, book and routes over one pool, from the start to a restart and on."""

    def __init__(self, directory: Path, rapid: bool) -> None:
        addresses = tuple(IPv4Address(FIRST + number) for number in range(SIZE))
        record = records.Pool(NETWORK, NETWORK[1], (NETWORK[1],), addresses, 1500)
        terms = Terms(TERMS.lease, offer=30, cooling=60, quarantine=600, rapid_commit=rapid)
        options = {43: bytes(300), 66: b"tftp.example.org", 108: bytes(4), 15: b"example.org", 252: bytes(200)}
        self.pool = Pool.of(record, Settings(terms, options))
        self.clock, self.kernel, self.air = ManualClock(), Kernel(), Air()
        self.book = Book(open_database(directory / "cocoon-net.db"))
        self.book.put_pool(record, self.clock.now())
        self._before: Counter[str] = Counter()
        self.start()

    def start(self) -> None:
        """Read everything from the book, as after a kill."""
        bus = Bus()
        self.table = Table(self.pool, self.book.leases(), self.book.returned())
        self.routes = Routes(bus, self.clock.now)
        self.routes.connect(self.kernel, [a for a, one in self.table.leases.items() if one.state is State.BOUND])
        guard = Guard(self.table, Limits(rate=0), bus.publish)
        self.exchange = Exchange(
            self.table, self.routes, self.book, guard, bus, self.clock, self._now, lambda leases: None
        )

    def _now(self) -> int:
        return int(self.clock.now().timestamp())

    def restart(self) -> None:
        """Be killed, and check that nothing is missing."""
        before = {a: one for a, one in self.table.leases.items() if one.state is State.BOUND}
        self._before = self.decided()
        self.start()
        after = {a: one for a, one in self.table.leases.items() if one.state is State.BOUND}
        oracle.must(before == after, "the book is not the table")
        oracle.must(self.kernel.present() == set(after), "the routes are not those of the leases")

    def hear(self, datagrams: Collection[tuple[bytes, str]], shown: Collection[bytes]) -> list[Packet]:
        """Have a batch served and checked; returns what could be read of it. Raises Broken, and whatever is raised."""
        counted = self._counted()
        self.air.frames = [(one, port) for one, (_, port) in zip(shown, datagrams, strict=True)]
        asked = [one for data, port in datagrams if isinstance(one := wire.decode(data, port), Packet)]
        self.exchange.hear(self.air, None)
        oracle.must(self._counted() - counted == len(datagrams), "a frame was not counted, or twice")
        replies, self.air.replies = self.air.replies, []
        for payload in replies:
            oracle.check_reply(payload, asked, self.table)
            oracle.check_frame(payload)
        oracle.check_table(self.table, len(self.routes))
        return asked

    def wait(self, seconds: int) -> None:
        """Let time pass, and end what ends."""
        self.clock.advance(seconds)
        now = int(self.clock.now().timestamp())
        due = self.table.due(now - 1, 1000)
        self.exchange.carry_out([end(self.table, lease, now) for lease in due], now)
        oracle.check_table(self.table, len(self.routes))

    def decided(self) -> Counter[str]:
        """Return how often what was decided, and what could not be read, since the start."""
        return self._before + self.exchange.decided + self.exchange.malformed

    def _counted(self) -> int:
        unkept = self.exchange.decided["it could not be written down or routed"]
        ended = sum(self.exchange.decided[reason] for reason in ("expired", "cooled", "healed"))
        return sum(self.exchange.decided.values()) - unkept - ended + sum(self.exchange.malformed.values())


def verdict(data: bytes, pool: Pool) -> str:
    """Return what a server that has heard nothing yet makes of a datagram, in a word."""
    packet = wire.decode(data)
    if not isinstance(packet, Packet):
        return str(packet)
    kind = decide(Table(pool), packet, 0).kind
    return kind.name.lower() if kind is not None else "silence"


def seeds(corpus: Path) -> list[bytes]:
    """Read the datagrams of a corpus."""
    found = []
    for path in sorted(corpus.glob("*.hex")):
        found.append(bytes.fromhex("".join(line.partition("#")[0] for line in path.read_text().splitlines())))
    return found


def text(data: bytes, what: str, expected: str) -> str:
    """Render a datagram as a file of the corpus."""
    lines = [data[at : at + 64].hex(" ") for at in range(0, len(data), 64)]
    return "\n".join((f"# {what}", f"# expect: {expected}", *lines, ""))


class Fuzzer:
    """One run: ``seed`` decides all of it but its length."""

    def __init__(self, directory: Path, corpus: Path, seed: int) -> None:
        self.world = World(directory, rapid=bool(seed % 2))
        self.mutations = Mutations(seeds(corpus), seed)
        self.outcomes: Counter[str] = Counter()
        self.new: dict[str, bytes] = {}
        """The first datagram of each outcome."""
        self.reasons: Counter[str] = Counter()
        self.said: list[tuple[bytes, str]] = []
        """The last batch: datagrams and the ports that they came in by."""
        self.datagrams = self.batches = 0

    def batch(self) -> None:
        """Say a batch of datagrams and look at what came of it. Raises Broken, and whatever is raised."""
        said = self.said = [(data := self.mutations.next(), self.mutations.port(data)) for _ in range(BATCH)]
        frames = [broadcast(data[28:34].ljust(6, b"\2"), data) for data, _ in said]
        self.world.hear(said, frames)
        for data, port in said:
            self._learn(data, port)
        broken = [self.mutations.frame(one) for one in frames[:4]]
        for one in broken:
            frame.unwrap(one)
        self.world.wait(self.mutations.seconds())
        self.batches += 1
        self.datagrams += len(said)
        self.reasons = self.world.decided()
        if self.batches % RESTART_EVERY == 0:
            self.world.restart()

    def _learn(self, data: bytes, port: str) -> None:
        packet = wire.decode(data, port)
        if isinstance(packet, Packet) and self.mutations.chance(ORACLE_EVERY):
            oracle.check_read(data, packet)
        outcome = verdict(data, self.world.pool)
        if isinstance(packet, Packet):
            told = [code for code in (52, 54, 61, 80, 82, 118) if code in packet.options]
            odd = [name for name in ("ciaddr", "giaddr", "padding") if getattr(packet, name)]
            mac = "" if packet.hlen == wire.MAC_LENGTH else "of other hardware"
            outcome = " ".join(map(str, (outcome, "to", min(packet.type, 9), "with", *told, *odd, mac))).rstrip()
        self.outcomes[outcome] += 1
        if self.outcomes[outcome] == 1:
            self.new[outcome] = data
            self.mutations.keep(data)


def guilty(said: Sequence[tuple[bytes, str]]) -> list[tuple[bytes, str]]:
    """Return the first datagram that breaks a server which has heard nothing else; all of them when none does."""
    for data, port in said:
        with tempfile.TemporaryDirectory() as directory:
            try:
                asked = World(Path(directory), rapid=False).hear(
                    [(data, port)], [broadcast(data[28:34].ljust(6), data)]
                )
                for packet in asked:
                    oracle.check_read(data, packet)
            except Exception:
                return [(data, port)]
    return list(said)


def main() -> int:
    """Parse flags, fuzz, print."""
    parser = argparse.ArgumentParser(prog="scripts/dhcp-fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--seed", type=int, default=None, help="the stream of datagrams; by default another one each time"
    )
    parser.add_argument("--keep", type=int, default=0, metavar="N", help="write up to N datagrams with a new outcome")
    options = parser.parse_args()
    seed = random.randrange(2**32) if options.seed is None else options.seed
    logger.remove()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as directory:
        fuzzer = Fuzzer(Path(directory), CORPUS, seed)
        began = time.monotonic()
        while time.monotonic() - began < options.seconds:
            try:
                fuzzer.batch()
            except Exception as error:
                print(f"broken in batch {fuzzer.batches} of --seed {seed}: {type(error).__name__}: {error}")
                for data, port in guilty(fuzzer.said):
                    print(text(data, f"said at {port}", "?"))
                return 1
        took = time.monotonic() - began
    reasons = ", ".join(f"{count} {reason}" for reason, count in fuzzer.reasons.most_common())
    print(f"seed {seed}: {fuzzer.datagrams} datagrams in {took:.0f} s, {len(fuzzer.outcomes)} kinds of outcome")
    print(f"decided: {reasons}")
    print("nothing broke")
    for number, (outcome, data) in enumerate(list(fuzzer.new.items())[: options.keep]):
        path = CORPUS / f"found-{seed:08x}-{number:02}.hex"
        path.write_text(text(data, f"found by scripts/dhcp-fuzz: {outcome}", verdict(data, fuzzer.world.pool)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
