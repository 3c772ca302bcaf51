"""A network namespace of its own for each test that changes the kernel, and contexts to hand to inventories."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.engine.model import Change, Context, Inventory, Origin, Row
from cocoon_net.engine.plan import diff
from cocoon_net.node import iproute
from cocoon_net.records import Interface, Record
from cocoon_net.spec import Spec, parse

_NET = 0x40000000  # CLONE_NEWNET
_numbers = itertools.count(1)


class Namespace:
    """The namespace that the test runs in; children that it starts are in it, too."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *words: str, given: str = "") -> str:
        done = subprocess.run(words, input=given, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout

    def ip(self, words: str) -> str:
        return self.run("ip", *words.split())

    def iptables(self, words: str) -> str:
        return self.run("iptables", *words.split())

    def interface(self, name: str, mac: str, *, mtu: int = 1500) -> None:
        """Make what an attached ENI looks like in the lab: one end of a veth, down; the other end is the fabric's."""
        self.ip(f"link add {name} address {mac} mtu {mtu} type veth peer name {name}-vpc mtu {mtu}")
        self.ip(f"link set {name}-vpc up")


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """Move this thread into a new network namespace, and back."""
    name = f"nd-{os.getpid()}-{next(_numbers)}"
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    subprocess.run(["ip", "netns", "add", name], check=True, timeout=20)
    try:
        there = os.open(f"/run/netns/{name}", os.O_RDONLY)
        try:
            iproute.close()  # whoever asked the kernel before did so elsewhere
            _enter(there)
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=20)
            yield Namespace(name)
        finally:
            iproute.close()
            _enter(home)
            os.close(there)
    finally:
        os.close(home)
        subprocess.run(["ip", "netns", "del", name], check=True, timeout=20)


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _NET):
        pytest.exit(f"cannot change the network namespace: {os.strerror(ctypes.get_errno())}")


@pytest.fixture
def context() -> Callable[..., Context]:
    """Return a maker of contexts: ``context(links={"eni-1": Link(...)}, node_name="n")``; step names are arguments."""
    named = {"platform": "volcengine", "node_name": "cocoon-pool", "subnet": "172.20.100.0/24"}

    def make(spec: Mapping[str, Any] | None = None, **steps: Mapping[str, Record]) -> Context:
        rows = {
            (step, key): Row(step, key, Origin.CREATED, record)
            for step, records in steps.items()
            for key, record in records.items()
        }
        parsed: Spec = parse(**{**named, **(spec or {})})
        return Context(parsed, None, rows, "t", datetime(2026, 1, 1, tzinfo=UTC))

    return make


@pytest.fixture
def interface() -> Callable[[str], Interface]:
    """Return a maker of ledger records of interfaces, by MAC."""

    def make(mac: str) -> Interface:
        spec = parse(platform="volcengine", node_name="n", subnet="172.20.100.0/24")
        return Interface(spec.subnet, ("sg-1",), id="eni-x", mac=mac, primary_address=IPv4Address("172.20.100.9"))

    return make


@pytest.fixture
def converge() -> Callable[..., list[Change]]:
    """Return what the engine does, in small: observe, diff, apply, until nothing differs; returns the changes made."""

    def run(inventory: Inventory, cx: Context, step: str, want: Mapping[str, Record], *, prune: bool = False) -> Any:
        made: list[Change] = []
        for _ in range(4):
            found = diff(step, want, inventory.observe(cx), prune=prune)
            if found.settled:
                return made
            for change in found.changes:
                inventory.apply(change, "token", cx)
                made.append(change)
        raise AssertionError(f"still differs: {found}")

    return run


@pytest.fixture
def powerless() -> Callable[[str], str]:
    """Return a runner of Python code as root without CAP_NET_ADMIN, in the test's namespace; returns what it prints."""

    def run(code: str) -> str:
        import sys

        words = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", sys.executable, "-c", code]
        root = Path(__file__).parents[2]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, cwd=root)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
