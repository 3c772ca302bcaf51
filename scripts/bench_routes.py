#!/usr/bin/env python3
"""Measure what a lease's host route costs: RouteWire in batches, pyroute2 one by one, in a namespace of its own.

Run as root from the project's environment: ``python scripts/bench_routes.py [--routes 20000]``. Every figure is the
median of several rounds, in microseconds per route; listing is measured with all routes present.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

from cocoon_net.node import routewire
from cocoon_net.node.routewire import RouteWire
from cocoon_net.records import ROUTE_PROTOCOL

FIRST = int(IPv4Address("10.0.0.1"))
ROUNDS = 5


def main() -> int:
    """Parse flags, make the namespace, and run ourselves in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--routes", type=int, default=20_000, help="routes per measurement (default: 20000)")
    parser.add_argument("--here", action="store_true", help="measure in this namespace; cni0 is made and deleted")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("bench_routes needs root: it makes a network namespace", file=sys.stderr)
        return os.EX_NOPERM
    if arguments.here:
        measure(arguments.routes)
        return 0
    name = f"bench-routes-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        command = [sys.executable, __file__, "--here", "--routes", str(arguments.routes)]
        return subprocess.run(["ip", "netns", "exec", name, *command]).returncode
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def measure(count: int) -> None:
    """Print a line for each way of doing it."""
    subprocess.run(["ip", "link", "add", "cni0", "type", "bridge"], check=True)
    subprocess.run(["ip", "link", "set", "cni0", "up"], check=True)
    index = int(Path("/sys/class/net/cni0/ifindex").read_text())
    with RouteWire(index) as wire:
        print(f"{'us per route':<34}{'install':>10}{'again':>10}{'remove':>10}{'not there':>11}")
        for size in (1, 16, 140, 1000):
            batches = [range(FIRST + at, FIRST + at + size) for at in range(0, count - size + 1, size)]
            rows = [[_each(batches, change) for change in _changes(wire)] for _ in range(ROUNDS)]
            _line(f"RouteWire, batches of {size}", [statistics.median(column) for column in zip(*rows, strict=True)])
        _line("pyroute2, one by one", _pyroute2(index, min(count, 500)))

        wire.change(range(FIRST, FIRST + count), ())
        began = time.perf_counter()
        listed = len(routewire.routes())
        took = time.perf_counter() - began
        print(f"\nlisting {listed} routes: {took * 1e3:.0f} ms, {took / listed * 1e6:.2f} us each")


def _changes(wire: RouteWire) -> list[Callable[[range], dict[int, int]]]:
    def install(batch: range) -> dict[int, int]:
        return wire.change(batch, ())

    def remove(batch: range) -> dict[int, int]:
        return wire.change((), batch)

    return [install, install, remove, remove]


def _each(batches: list[range], change: Callable[[range], dict[int, int]]) -> float:
    began = time.perf_counter()
    failures = sum(len(change(batch)) for batch in batches)
    took = time.perf_counter() - began
    if failures:
        raise SystemExit(f"{failures} routes were refused")
    return took / sum(map(len, batches)) * 1e6


def _pyroute2(index: int, count: int) -> list[float]:
    from pyroute2 import IPRoute

    figures = []
    with IPRoute() as ipr:
        for verb in ("replace", "replace", "del"):
            began = time.perf_counter()
            for number in range(count):
                dst = f"{IPv4Address(FIRST + number)}/32"
                ipr.route(verb, dst=dst, oif=index, proto=ROUTE_PROTOCOL, scope="link")
            figures.append((time.perf_counter() - began) / count * 1e6)
    return figures


def _line(what: str, figures: list[float]) -> None:
    print(f"{what:<34}" + "".join(f"{figure:>10.1f}" for figure in figures))


if __name__ == "__main__":
    raise SystemExit(main())
