"""A node of two namespaces' worth: cni0 with guests on it, and a server in a thread of the node's namespace."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from cocoon_net import records
from cocoon_net.dhcp.book import Book
from cocoon_net.store import open_database

NEW_NETWORK = 0x40000000


def run(*command: str, check: bool = True, timeout: float = 30) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode:
        raise AssertionError(f"{command} said {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def in_namespace(name: str, act: Callable[[], Any]) -> threading.Thread:
    """Start a thread whose sockets are those of a namespace; errors end up in ``thread.error``."""

    class Inside(threading.Thread):
        error: BaseException | None = None
        result: Any = None

        def run(self) -> None:
            try:
                with Path("/run/netns", name).open("rb") as handle:
                    if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), NEW_NETWORK):
                        raise OSError(ctypes.get_errno(), "setns")
                self.result = act()
            except BaseException as error:
                self.error = error

    thread = Inside(daemon=True)
    thread.start()
    return thread


@dataclass
class Node:
    """A namespace with a bridge cni0 (172.20.100.1/24), and its guests."""

    name: str
    guests: list[str] = field(default_factory=list)

    def ip(self, *arguments: str, check: bool = True) -> str:
        return run("ip", "-n", self.name, *arguments, check=check)

    def make_bridge(self) -> None:
        self.ip("link", "add", "cni0", "address", "02:00:5e:00:00:01", "type", "bridge")
        self.ip("addr", "add", "172.20.100.1/24", "dev", "cni0")
        self.ip("link", "set", "cni0", "up")

    def plug(self, guest: str) -> None:
        """Put the guest's port into the bridge, as cocoon does it: nothing is learned there."""
        self.ip("link", "set", f"p{guest[-8:]}", "master", "cni0", "up")
        self.ip("link", "set", f"p{guest[-8:]}", "type", "bridge_slave", "learning", "off", "isolated", "on")

    def add_guest(self, mac: str) -> str:
        guest = f"{self.name}g{len(self.guests)}"
        run("ip", "netns", "add", guest)
        self.guests.append(guest)
        port = f"p{guest[-8:]}"
        self.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "address", mac, "netns", guest)
        run("ip", "-n", guest, "link", "set", "lo", "up")
        run("ip", "-n", guest, "link", "set", "eth0", "up")
        self.plug(guest)
        return guest

    def routes(self) -> set[str]:
        return {line.split()[0] for line in self.ip("route", "show", "proto", "174").splitlines() if line}

    def execute(self, guest: str, *command: str, check: bool = True, timeout: float = 30) -> str:
        return run("ip", "netns", "exec", guest, *command, check=check, timeout=timeout)

    def inside(self, act: Callable[[], Any]) -> Any:
        return in_namespace(self.name, act)

    def start(self, guest: str, act: Callable[[], Any]) -> Any:
        """Start ``act`` in a guest's namespace; its ``result`` and ``error`` are the thread's."""
        return in_namespace(guest, act)

    def of_guest(self, guest: str, act: Callable[[], Any]) -> Any:
        """Run ``act`` in a guest's namespace and return its result."""
        thread: Any = self.start(guest, act)
        thread.join(30)
        if thread.error is not None:
            raise thread.error
        return thread.result


_count = iter(range(1000))


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node(f"dh{os.getpid() % 100000}x{next(_count)}")
    run("ip", "netns", "add", made.name)
    try:
        made.ip("link", "set", "lo", "up")
        made.make_bridge()
        yield made
    finally:
        for name in (*made.guests, made.name):
            for pid in run("ip", "netns", "pids", name, check=False).split():
                if int(pid) != os.getpid():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), 9)
            run("ip", "netns", "del", name, check=False)


@pytest.fixture
def pool() -> records.Pool:
    return make_pool(20)


def make_pool(size: int, first: str = "172.20.100.10", subnet: str = "172.20.100.0/24") -> records.Pool:
    start = int(IPv4Address(first))
    network = IPv4Network(subnet)
    return records.Pool(
        subnet=network,
        gateway=network[1],
        dns=(IPv4Address("8.8.8.8"), IPv4Address("1.1.1.1")),
        addresses=tuple(IPv4Address(start + i) for i in range(size)),
        mtu=1500,
    )


@pytest.fixture
def pool_of() -> Callable[..., records.Pool]:
    return make_pool


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    database = open_database(tmp_path / "cocoon-net.db")
    yield Book(database)
    database.conn.close()


class Serving:
    """A server in a thread of the node's namespace; ``with`` it."""

    def __init__(self, node: Node, server: Any) -> None:
        self.server = server
        self._stop = threading.Event()
        self.thread = node.inside(lambda: server.run(self._stop))

    def __enter__(self) -> Any:
        if not self.server.wait(10):
            self._end(5)
            raise self.thread.error or AssertionError("the server did not start")
        return self.server

    def __exit__(self, *_: object) -> None:
        self._end(10)
        if self.thread.error is not None:
            raise self.thread.error

    def _end(self, patience: float) -> None:
        self._stop.set()
        self.server.wake()
        self.thread.join(patience)


@pytest.fixture
def serving() -> type[Serving]:
    return Serving
