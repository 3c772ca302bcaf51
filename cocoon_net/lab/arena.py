"""A place to torment the daemon in: a bridge with guests in network namespaces, a state directory, many clients.

Nothing of a lab is in it but the daemon itself, on a ``pool.json`` as the Go tool would have left it.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Iterator, Sequence
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple

from cocoon_net.lab.load import Heard
from cocoon_net.lab.patience import eventually
from cocoon_net.unix_http import ask

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
                eventually(self._plugged)  # the daemon makes it anew, with its port
            case _:
                pass

    def _plugged(self) -> bool:
        """Whether the first port is one of the bridge."""
        return "master cni0" in run("ip", "-n", self.server, "link", "show", "port0")

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
        _, said = ask(self.home / "cocoon-net" / "control.sock", "GET", target)
        return dict(json.loads(said))

    def kill(self) -> None:
        """SIGKILL: ``ip netns exec`` and ``nsenter`` have become the daemon itself."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()

    def reload(self) -> None:
        """SIGHUP."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGHUP)

    def stop(self, patience: float = 10.0) -> int:
        """SIGTERM; returns the exit code. Raises TimeoutExpired."""
        assert self._daemon is not None
        self._daemon.terminate()
        return self._daemon.wait(patience)

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


def run(*command: str) -> str:
    """Run a command of iproute2 and return what it printed."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
