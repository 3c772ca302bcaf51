#!/usr/bin/env python3
"""Measure our DHCP server: new durable leases per second, and CPU per lease, on a bridge of its own.

Run as root from the project's environment: ``scripts/bench self [--leases 5000] [--pool 60000]``. The load
comes from one guest port that plays many clients, with a window of exchanges under way; the server does all that it
does in service: fsync and route before the ACK, history, leases.json. The load generator is Python, too, and has a
core of its own to need; peers are measured by another script.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import os
import pstats
import subprocess
import sys
import tempfile
import threading
import time
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

from cocoon_net import records
from cocoon_net.lab.bridged import bridged
from cocoon_net.lab.load import Clients

SUBNET = IPv4Network("172.20.0.0/16")


def main() -> int:
    """Parse flags, make two namespaces, serve in one and ask from the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--leases", type=int, default=5000, help="how many clients ask")
    parser.add_argument("--pool", type=int, default=60000, help="addresses of the pool")
    parser.add_argument("--window", type=int, default=256, help="exchanges under way at once")
    parser.add_argument("--renew", action="store_true", help="then renew each lease once, too")
    parser.add_argument("--profile", action="store_true", help="profile the server; its figures are too high then")
    parser.add_argument("--serve", metavar="DIRECTORY", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(Path(options.serve), options.pool, options.profile)
    if os.geteuid():
        parser.error("needs root, for network namespaces")
    return bench(options)


def bench(options: argparse.Namespace) -> int:
    """Set up, run, print, clean up."""
    server, client = f"bd{os.getpid()}s", f"bd{os.getpid()}c"
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(bridged(server, "172.20.0.1/16", client))
        command = [sys.executable, __file__, "--serve", str(directory), "--pool", str(options.pool)]
        if options.profile:
            command.append("--profile")
        process = subprocess.Popen(["ip", "netns", "exec", server, *command], stdin=subprocess.PIPE)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        ready = directory / "ready"
        while not ready.exists():
            if process.poll() is not None:
                return 1
            time.sleep(0.02)
        print(f"pool {options.pool}, served {ready.read_text()} ms after the start of its process")
        asked: list[str] = []
        before = usage(process.pid)
        # A thread of its own in the client's namespace would do; a process has a GIL of its own as well.
        ask = subprocess.run(
            [
                "ip",
                "netns",
                "exec",
                client,
                sys.executable,
                "-c",
                f"import runpy; m = runpy.run_path({__file__!r});"
                f" m['load']({options.leases}, {options.window}, {options.renew})",
            ],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        asked += ask.stdout.splitlines()
        after = usage(process.pid)
        for line in asked:
            print(line)
        exchanges = sum(int(line.split()[1]) for line in asked)
        own, kernel = (1e6 * (after[at] - before[at]) / max(1, exchanges) for at in (0, 1))
        print(
            f"server: {own + kernel:.0f} us CPU per exchange ({own:.0f} its own, {kernel:.0f} in the kernel), "
            f"peak RSS {after[2] // 1024} MB"
        )
        routes = subprocess.run(
            ["ip", "-n", server, "route", "show", "proto", "174"], capture_output=True, text=True, check=True
        )
        print(f"routes in the kernel: {len(routes.stdout.splitlines())}")
        if options.profile:
            process.terminate()
            process.wait()
    return 0


def serve(directory: Path, size: int, profile: bool) -> int:
    """Be the server until SIGTERM."""
    import signal

    started = time.clock_gettime(time.CLOCK_BOOTTIME) - boot_age()
    from cocoon_net.dhcp.book import Book
    from cocoon_net.dhcp.limits import Limits
    from cocoon_net.dhcp.projection import LeaseFile
    from cocoon_net.dhcp.server import Server
    from cocoon_net.store import open_database
    from cocoon_net.supervisor import collector

    first = int(IPv4Address("172.20.1.0"))
    pool = records.Pool(
        subnet=SUBNET,
        gateway=IPv4Address("172.20.0.1"),
        dns=(IPv4Address("8.8.8.8"), IPv4Address("1.1.1.1")),
        addresses=tuple(IPv4Address(first + i) for i in range(size)),
        mtu=1500,
    )
    book = Book(open_database(directory / "cocoon-net.db"))
    # One port plays all clients: as with a relay, the operator has to say so.
    limits = Limits(trusted=("port0",))
    server = Server(book, pool, limits=limits, lease_file=LeaseFile(directory / "leases.json"))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def tell() -> None:
        if server.wait(30):
            (directory / "ready.tmp").write_text(f"{1000 * (time.clock_gettime(time.CLOCK_BOOTTIME) - started):.0f}")
            (directory / "ready.tmp").rename(directory / "ready")

    threading.Thread(target=tell, daemon=True).start()
    profiler = cProfile.Profile() if profile else contextlib.nullcontext()
    with profiler, collector.resting():
        collector.settle()
        server.run(stop)
    print(server.snapshot())
    if isinstance(profiler, cProfile.Profile):
        pstats.Stats(profiler).sort_stats("tottime").print_stats(28)
    return 0


def boot_age() -> float:
    """Return the age of this process in seconds (proc(5): starttime in clock ticks since boot)."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def load(leases: int, window: int, renew: bool) -> None:
    """Be ``leases`` clients; print what was got. Runs in the client's namespace."""
    clients = Clients(leases)
    for what in ("new", "renewed") if renew else ("new",):
        report = clients.run(window)
        assert len(set(clients.addresses)) == leases, "two clients with one address"
        times = report.times
        print(
            f"{what}: {report.leases} leases in {report.seconds:.2f} s = {report.leases / report.seconds:.0f}/s, "
            f"p50 {1e3 * times[len(times) // 2]:.1f} ms,"
            f" p99 {1e3 * times[int(len(times) * 0.99)]:.1f} ms, {report.again} asked again"
        )


def usage(pid: int) -> tuple[float, float, int]:
    """Return CPU seconds, its own and the kernel's for it, and peak RSS in KB of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    status = Path(f"/proc/{pid}/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0])
    ticks = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / ticks, int(fields[12]) / ticks, peak


if __name__ == "__main__":
    sys.exit(main())
