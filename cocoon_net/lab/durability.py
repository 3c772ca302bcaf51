"""The DHCP server killed under load, again and again; afterwards its promises are counted.

A bridge with many clients in two network namespaces, the whole daemon on a database of its own, and SIGKILL at a
moment of chance, with a restart at once. What the clients saw is a file of ACKs; held against the book and the kernel
it must hold that

1. no address was promised to two clients at one time,
2. every promise that a client saw is in the book after the death,
3. after the restart the leases have their routes, and nothing else has one.

The same with a disk that fills up (``Fault.DISK``) and with a bridge that goes down or away (``Fault.BRIDGE``).
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple

from cocoon_net.lab.load import Heard

SUBNET, GATEWAY, FIRST = "172.20.0.0/16", "172.20.0.1", int(IPv4Address("172.20.1.0"))
POOL = 60_000
CLIENTS = 32
"""New ones at once; the latest renew all the time."""
LEASE = 60
"""Seconds; the shortest that our server gives, so that addresses come round in a long ordeal."""
DISK = "24m"
_PACKAGE = Path(__file__).parents[2]


class Fault(StrEnum):
    """What goes wrong besides the deaths."""

    NONE = "none"
    DISK = "disk"
    BRIDGE = "bridge"


class Row(NamedTuple):
    """A lease as the book has it."""

    state: str
    ends: int
    mac: str


@dataclass(slots=True)
class Verdict:
    """What an ordeal showed; ``broken`` are the promises that were not kept, a line each."""

    deaths: int = 0
    acks: int = 0
    clients: int = 0
    addresses: int = 0
    reused: int = 0
    """Addresses that one client after another had."""
    refused: int = 0
    """How often the daemon complained that it could not write a batch down: once in ten seconds at most."""
    broken: list[str] = field(default_factory=list)


def overlapping(acks: Iterable[Heard]) -> list[str]:
    """Return each address that was promised to a client while another believed in its lease, at its latest."""
    broken: list[str] = []
    owners: dict[int, tuple[str, float]] = {}
    for ack in sorted(acks, key=lambda ack: ack.asked):
        mac, until = owners.get(ack.address, ("", 0.0))
        if mac not in ("", ack.mac) and ack.asked < until:
            broken.append(f"{IPv4Address(ack.address)} was {mac}'s for {until - ack.asked:.1f} s when {ack.mac} got it")
        owners[ack.address] = (ack.mac, ack.at + ack.seconds)
    return broken


def missing(acks: Iterable[Heard], book: Mapping[int, Row], now: float) -> list[str]:
    """Return each promise that still runs at ``now`` and that the book does not know; a client's last one counts.

    The server counts in whole seconds and ends a lease in the second after.
    """
    last = {ack.mac: ack for ack in acks}
    broken: list[str] = []
    for ack in last.values():
        if ack.asked + ack.seconds <= now:
            continue
        row = book.get(ack.address)
        if row is None or (row.state, row.mac) != ("bound", ack.mac) or row.ends + 1 < ack.asked + ack.seconds:
            broken.append(f"{ack.mac} was promised {IPv4Address(ack.address)}; the book has {row}")
    return broken


class Arena:
    """Two namespaces, a state directory, the daemon and its load. ``with`` it; nothing of it is left behind."""

    def __init__(
        self, fault: Fault = Fault.NONE, seed: int | None = None, options: Sequence[str] = ("--trusted-port", "port0")
    ) -> None:
        self.fault = fault
        self._options = options
        self.chance = random.Random(seed)
        self.server, self.client = f"dk{os.getpid()}s", f"dk{os.getpid()}c"
        self._stack = contextlib.ExitStack()
        self._daemon: subprocess.Popen[bytes] | None = None
        self._load: subprocess.Popen[bytes] | None = None
        self._enter: tuple[str, ...] = ()

    def __enter__(self) -> Arena:
        """Build it."""
        stack = self._stack
        try:
            self.home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dhcp-kill-")))
            self.acks, self.log = self.home / "acks", self.home / "log"
            self.acks.touch()
            self.state = self.seen = self.home / "state"
            self.state.mkdir()
            if self.fault is Fault.DISK:
                self._mount_disk()
            for name in (self.server, self.client):
                run("ip", "netns", "add", name)
                stack.callback(run, "ip", "netns", "del", name)
                run("ip", "-n", name, "link", "set", "lo", "up")
            self._on_server("link", "add", "port0", "type", "veth", "peer", "name", "eth0", "netns", self.client)
            self.make_bridge()
            run("ip", "-n", self.client, "link", "set", "eth0", "up")
            pool = {
                "platform": "volcengine",
                "nodeName": "ordeal",
                "subnet": SUBNET,
                "gateway": GATEWAY,
                "ips": [str(IPv4Address(FIRST + number)) for number in range(POOL)],
                "dnsServers": ["8.8.8.8"],
                "updatedAt": "2026-01-01T00:00:00Z",
            }
            (self.seen / "pool.json").write_text(json.dumps(pool))
            stack.callback(self._end)
        except BaseException:
            stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Take it away."""
        self._stack.close()

    # The bridge, the disk

    def make_bridge(self) -> None:
        """Have the bridge with its port."""
        self._on_server("link", "add", "cni0", "address", "02:00:5e:00:00:01", "type", "bridge")
        self._on_server("addr", "add", f"{GATEWAY}/16", "dev", "cni0")
        self._on_server("link", "set", "cni0", "up")
        self._on_server("link", "set", "port0", "master", "cni0", "up")

    def add_port(self, number: int) -> str:
        """Add a port with a guest's namespace of its own behind it; returns the namespace's name."""
        guest = f"{self.client}{number}"
        run("ip", "netns", "add", guest)
        self._stack.callback(run, "ip", "netns", "del", guest)
        self._on_server("link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", guest)
        self._on_server("link", "set", f"port{number}", "master", "cni0", "up")
        run("ip", "-n", guest, "link", "set", "eth0", "up")
        return guest

    def disturb(self) -> None:
        """Do what the fault says, for half a second."""
        match self.fault:
            case Fault.DISK:
                ballast = self.seen / "ballast"
                with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))
                time.sleep(0.5)
                if self.chance.random() < 0.5:  # half of the deaths find the disk still full
                    self.kill()
                ballast.unlink(missing_ok=True)
            case Fault.BRIDGE if self.chance.random() < 0.5:
                self._on_server("link", "set", "cni0", "down")
                time.sleep(0.3)
                self._on_server("link", "set", "cni0", "up")
            case Fault.BRIDGE:
                self._on_server("link", "del", "cni0")
                time.sleep(0.3)
                self.make_bridge()
            case _:
                pass

    def _mount_disk(self) -> None:
        """Put the state directory on a small disk that only our processes see."""
        holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "slave", "sh", "-c", 'mount -t tmpfs -o size="$1" none "$2" && '
             "echo ready && exec sleep infinity", "sh", DISK, str(self.state)],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        self._stack.callback(holder.wait)
        self._stack.callback(holder.kill)
        assert holder.stdout is not None
        holder.stdout.readline()
        self._enter = ("nsenter", "--mount", f"--target={holder.pid}")
        self.seen = Path(f"/proc/{holder.pid}/root{self.state}")

    # The daemon and its clients

    def start(self) -> None:
        """Start the daemon; it need not serve yet."""
        program = [sys.executable, "-m", "cocoon_net", "daemon", "--state-dir", str(self.state)]
        program += ["--run-dir", str(self.home), "--metrics-addr", "", *self._options]
        with self.log.open("ab") as log:
            self._daemon = subprocess.Popen(
                [*self._enter, "ip", "netns", "exec", self.server, *program],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(_PACKAGE)},
            )

    def serves(self) -> bool:
        """Whether the daemon answers on its control socket, which it opens last."""
        if self._daemon is not None and self._daemon.poll() is not None:
            raise RuntimeError(f"the daemon ended by itself:\n{self.log.read_text()[-2000:]}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            return caller.connect_ex(str(self.home / "cocoon-net" / "control.sock")) == 0

    def get(self, target: str) -> dict[str, Any]:
        """Ask the daemon by its control socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.connect(str(self.home / "cocoon-net" / "control.sock"))
            connection = http.client.HTTPConnection("cocoon-net")
            connection.sock = caller
            connection.request("GET", target)
            return dict(json.loads(connection.getresponse().read()))

    def kill(self) -> None:
        """SIGKILL: ``ip netns exec`` and ``nsenter`` have become the daemon itself."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()

    def ask(self) -> None:
        """Start the clients."""
        self._load = subprocess.Popen(
            ["ip", "netns", "exec", self.client, sys.executable, "-m", "cocoon_net.lab.load", str(self.acks),
             str(CLIENTS), str(LEASE)],
            env={**os.environ, "PYTHONPATH": str(_PACKAGE)},
        )  # fmt: skip

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """Have the clients say nothing for a while."""
        assert self._load is not None
        self._load.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._load.send_signal(signal.SIGCONT)

    def _end(self) -> None:
        for process in (self._load, self._daemon):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()

    # What is known

    def heard(self, offset: int = 0) -> tuple[list[Heard], int]:
        """Return the ACKs from ``offset`` of the file on, and where it ends."""
        data = self.acks.read_bytes()
        end = data.rfind(b"\n") + 1
        rows = (line.split() for line in data[offset:end].decode().splitlines())
        return [Heard(mac, int(ip), int(seconds), float(asked), float(at)) for mac, ip, seconds, asked, at in rows], end

    def served(self, offset: int) -> bool:
        """Whether there are ACKs beyond ``offset`` of the file."""
        return self.acks.stat().st_size > offset

    def book(self) -> dict[int, Row]:
        """Return the leases on disk, read from a copy: looking must not repair anything."""
        copy = self.home / "copy"
        copy.mkdir(exist_ok=True)
        for name in ("cocoon-net.db", "cocoon-net.db-wal"):
            (copy / name).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(self.seen / name, copy / name)
        (copy / "cocoon-net.db-shm").unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(copy / "cocoon-net.db")) as connection:
            if connection.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise RuntimeError("the database is damaged")
            rows = connection.execute("SELECT address, state, ends, mac FROM leases")
            return {address: Row(*rest) for address, *rest in rows}

    def routes(self) -> set[int]:
        """Return the addresses that have a route of ours."""
        lines = run("ip", "-n", self.server, "route", "show", "proto", "174").splitlines()
        return {int(IPv4Address(line.split()[0])) for line in lines if line.strip()}

    def unrouted(self, patience: float = 5.0) -> list[str]:
        """Return where leases and routes differ, once they had time to agree. Nobody may be asking meanwhile."""
        until = time.monotonic() + patience
        while True:
            bound = {address for address, row in self.book().items() if row.state == "bound"}
            routes = self.routes()
            if bound == routes:
                return []
            if time.monotonic() > until:
                return [f"{len(bound - routes)} leases have no route, {len(routes - bound)} routes have no lease"]
            time.sleep(0.2)

    def refusals(self) -> int:
        """Return how often the daemon said that it was silent, for it could not write."""
        return self.log.read_text(errors="replace").count("silent, for leases cannot be written")

    def _on_server(self, *arguments: str) -> None:
        run("ip", "-n", self.server, *arguments)


def ordeal(
    deaths: int, fault: Fault = Fault.NONE, seed: int | None = None, say: Callable[[str], None] = print
) -> Verdict:
    """Kill the daemon ``deaths`` times and return what became of its promises."""
    verdict = Verdict()
    everything: list[Heard] = []
    offset = 0
    with Arena(fault, seed) as arena:
        arena.start()
        until(arena.serves)
        arena.ask()
        while verdict.deaths < deaths:
            until(partial(arena.served, offset))  # somebody was served in this life
            time.sleep(arena.chance.random() * 0.4)
            arena.disturb()
            arena.kill()
            verdict.deaths += 1
            fresh, offset = arena.heard(offset)
            everything += fresh
            verdict.broken += missing(fresh, arena.book(), time.time())
            arena.start()
            if arena.chance.random() < 0.1:  # now and then it dies before it serves
                time.sleep(arena.chance.random() * 0.4)
                arena.kill()
                verdict.deaths += 1
                arena.start()
            if verdict.deaths % 10 == 0 or verdict.deaths >= deaths:
                with arena.silence():
                    until(arena.serves)
                    verdict.broken += arena.unrouted()
                say(f"{verdict.deaths} deaths, {len(everything)} ACKs, {len(verdict.broken)} broken promises")
        verdict.refused = arena.refusals()
    verdict.broken += overlapping(everything)
    verdict.acks = len(everything)
    verdict.clients = len({ack.mac for ack in everything})
    owners: dict[int, set[str]] = defaultdict(set)
    for ack in everything:
        owners[ack.address].add(ack.mac)
    verdict.addresses = len(owners)
    verdict.reused = sum(len(macs) > 1 for macs in owners.values())
    return verdict


def until(act: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until ``act()`` is true. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not act():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{act} is not true after {seconds:g} s")
        time.sleep(0.01)


def run(*command: str) -> str:
    """Run a command of iproute2 and return what it printed."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> int:
    """Parse flags, go through it, and print what was found; exit 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="scripts/dhcp-kill", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--deaths", type=int, default=1000)
    parser.add_argument("--fault", type=Fault, choices=list(Fault), default=Fault.NONE, help="what else goes wrong")
    parser.add_argument("--seed", type=int, help="of the moments of death")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("needs root, for network namespaces")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that namespaces and processes go, too
    began = time.monotonic()
    verdict = ordeal(options.deaths, options.fault, options.seed)
    print(
        f"{verdict.deaths} deaths, {time.monotonic() - began:.0f} s: {verdict.acks} ACKs to {verdict.clients} clients, "
        f"{verdict.addresses} addresses, {verdict.reused} of them reused; the disk was full {verdict.refused} times"
    )
    for line in verdict.broken[:20]:
        print(f"broken: {line}")
    print(f"{len(verdict.broken)} broken promises")
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    sys.exit(main())
