"""Eight hours of a node's life in minutes: faults, storms, reloads and an absent cloud, and what is left of it.

An hour is a minute, and what has a period has a sixtieth of it: audits come each 3 s, leases last for a minute. What
is bounded is full from the beginning (the history of leases, the ring of decisions, SQLite's pages), so that what grows
is a leak.
In each hour everything happens once, in an order of chance, while another machine pings a guest; one hour of four the
cloud is away all the time. After each hour the daemon is measured, at the end audited. Exit 1 when its memory or its
descriptors grew, a promise to the guest was broken for longer than a second, or the audit finds something.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

from cocoon_net.dhcp.book import HISTORY
from cocoon_net.lab.guests import address_of
from cocoon_net.lab.patience import eventually
from cocoon_net.lab.station import Station, pinged, station
from cocoon_net.unix_http import ask

SPEC = ("--platform", "volcengine", "--node-name", "cocoon-pool", "--subnet", "172.20.100.0/24", "--pool-size", "140")
TIMES = 60
"""How much faster than life."""

SETTLED = 3
"""Hours until everything has happened often enough that nothing more need be allocated."""

ROOM = 1.0
"""How many MB the memory may have grown since, after however many hours: an allocator keeps pages, it does not leak."""

STORM = """
import sys
from cocoon_net.lab.load import Clients
clients = Clients(50, server=0xAC146401, first=50 * int(sys.argv[1]), seconds=60)
print(len(clients.run(32, patience=20.0).times))
"""

FILL = f"""
import time
from cocoon_net.lab.load import Clients
clients, done, end = Clients(50, server=0xAC146401, first=1 << 20, seconds=60), 0, time.monotonic() + 200
while done < {HISTORY} and time.monotonic() < end:
    done += len(clients.run(50, patience=20.0).times)
print(done)
"""

RUBBISH = """
import os
from cocoon_net.lab.load import Clients, broadcast
clients = Clients(100, server=0xAC146401)
for number in range(2000):
    frame = bytearray(clients.discover(number % 100))
    cut = os.urandom(2)
    clients.send(bytes(frame[:60 + cut[0]]) + os.urandom(cut[1]))
    clients.send(broadcast(os.urandom(6), os.urandom(300)))
"""

PULLS = (
    "ip route flush proto 174",
    "iptables -F COCOON-NET-FORWARD",
    "iptables -D FORWARD -j COCOON-NET-FORWARD",
    "iptables -t nat -F COCOON-NET-POSTROUTING",
    "sysctl -w net.ipv4.conf.all.rp_filter=1",
    "sysctl -w net.ipv4.ip_forward=0",
    "ip addr flush dev cni0",
    "ip link set cni0 down",
    "ip link set cni0 mtu 1400",
    "ip link del cni0",
    "ip link set eth1 down",
    "ip link set eth2 down name wan9 && ip link set wan9 up",
    "ip link set wan9 down name eth2 && ip link set eth2 up",
    "rm {cni}/30-cocoon-dhcp.conflist",
    "echo nonsense > {state}/pool.json",
    "echo nonsense > {state}/leases.json",
    "ip route add 172.20.100.250/32 dev cni0 proto 174",
)
"""Each of them in each hour, in this order: what is renamed has its name again."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the daemon takes of the machine at one moment."""

    resident: float
    """MB."""
    descriptors: int
    threads: int
    database: float
    """MB, the log of the journal included."""


def read(pid: int, database: Path) -> Reading:
    """Measure a process (proc(5))."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    files = [database, database.with_name(database.name + "-wal")]
    return Reading(
        int(status["VmRSS"].split()[0]) / 1024,
        len(list(Path(f"/proc/{pid}/fd").iterdir())),
        int(status["Threads"]),
        sum(file.stat().st_size for file in files if file.exists()) / 1e6,
    )


def rest(pid: int, database: Path) -> Reading:
    """Measure a process between two audits, whose pipes and threads come and go: the least of ten looks."""
    looks = []
    for _ in range(10):
        looks.append(read(pid, database))
        time.sleep(0.4)
    return Reading(*(min(values) for values in zip(*(astuple(look) for look in looks), strict=True)))


def grown(readings: list[Reading]) -> list[str]:
    """Say what is higher in the last hours than it was once settled, a line each. Pure."""
    early, late = readings[SETTLED - 1 : SETTLED + 2], readings[-3:]
    if len(readings) < SETTLED + 3:
        return []
    out: list[str] = []
    before, after = (statistics.median(one.resident for one in some) for some in (early, late))
    if after > before + ROOM:
        out.append(f"memory grew from {before:.1f} to {after:.1f} MB")
    for what in ("descriptors", "threads"):
        before, after = (statistics.median(getattr(one, what) for one in some) for some in (early, late))
        if after > before:
            out.append(f"{what} grew from {before:.0f} to {after:.0f}")
    return out


class Soak:
    """What can happen to one node in an hour. ``guest`` is plugged in with many clients behind it."""

    def __init__(self, node: Station, guest: str, chance: random.Random) -> None:
        self.node, self._guest, self._chance = node, guest, chance
        self._places = {"cni": str(node.home / "cni"), "state": str(node.home / "state")}
        self.leased = 0

    def fill(self) -> None:
        """Have guests renew until the history of leases is full, as on a node that has served for months."""
        renewed = int(self._inside(FILL))
        if renewed < HISTORY:
            raise TimeoutError(f"only {renewed} of {HISTORY} renewals within 200 s")

    def hour(self, number: int) -> None:
        """Have everything happen once; returns when the hour is over."""
        until = time.monotonic() + 3600 / TIMES
        away = number % 4 == 2
        if away:
            self.node.admin.set_faults({"error-rate": "1"})
        happenings: list[Callable[[], object]] = [
            lambda: self._storm(2 * number),
            lambda: self._storm(2 * number + 1),
            self._rubbish,
            self._reload,
            self._reload,
            *([] if away else [self._cloud_is_away, self._cloud_limps]),
            self._listeners_come_and_go,
            lambda: self._guest_comes_and_goes(number),
            lambda: self._guest_gives_back(number),
            *([lambda: None] * len(PULLS)),
        ]
        self._chance.shuffle(happenings)
        pulls = iter(PULLS)
        for happening in happenings:
            if happening() is None and (pull := next(pulls, "")):
                self._pull(pull)
        for pull in pulls:
            self._pull(pull)
        time.sleep(max(0.0, until - time.monotonic()))
        if away:
            self.node.admin.set_faults({"error-rate": ""})

    def _pull(self, pull: str) -> None:
        self.node.inside("sh", "-c", pull.format(**self._places))
        time.sleep(self._chance.uniform(0.5, 1.5))

    def _inside(self, code: str, *words: str) -> str:
        line = ["ip", "netns", "exec", self._guest, sys.executable, "-c", code, *words]
        return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True, timeout=240).stdout

    def _storm(self, number: int) -> bool:
        self.leased += int(self._inside(STORM, str(number)))
        return True

    def _rubbish(self) -> bool:
        self._inside(RUBBISH)
        return True

    def _reload(self) -> bool:
        os.kill(self.node.daemon, signal.SIGHUP)
        return True

    def _cloud_is_away(self) -> bool:
        self.node.admin.set_faults({"error-rate": "1"})
        time.sleep(6)
        self.node.admin.set_faults({"error-rate": ""})
        return True

    def _cloud_limps(self) -> bool:
        self.node.admin.set_faults({"error-rate": "0.3", "api-latency": "0.3", "describe-lag": "2"})
        time.sleep(4)
        self.node.admin.set_faults({"error-rate": "", "api-latency": "", "describe-lag": ""})
        return True

    def _listeners_come_and_go(self) -> bool:
        """Somebody reads everything that there is to read, and streams that nobody reads are left open."""
        path = self.node.home / "run" / "cocoon-net" / "control.sock"
        streams = []
        for _ in range(4):
            stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            stream.connect(str(path))
            stream.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            streams.append(stream)
        for where in ("status", "leases", "findings", "view"):
            ask(path, "GET", f"/v1/{where}")
        for stream in streams:
            stream.close()
        return True

    def _guest_comes_and_goes(self, number: int) -> bool:
        eventually((self.node.home / "cni" / "30-cocoon-dhcp.conflist").exists)  # it may have been pulled just now
        self.node.lab("guest", "add", "node1", f"v{number}")
        self.node.lab("guest", "del", f"v{number}")
        return True

    def _guest_gives_back(self, number: int) -> bool:
        mac = f"02:10:00:00:{(100 * number) >> 8:02x}:{(100 * number) & 0xFF:02x}"
        self.node.product("lease", "release", mac)
        return True


def longest(missing: list[int]) -> int:
    """Return how many answers in a row are missing at the most. Pure."""
    most = run = 0
    for at, number in enumerate(missing):
        run = run + 1 if at and number == missing[at - 1] + 1 else 1
        most = max(most, run)
    return most


def soak(hours: int, seed: int, say: Callable[[str], None] = print) -> list[str]:
    """Live so many hours; returns what is wrong at the end, a line each."""
    wrong: list[str] = []
    readings: list[Reading] = []
    with contextlib.ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        node = stack.enter_context(station(Station(f"sk{os.getpid() % 100000}", base), *SPEC))
        guest = node.plug("load0")
        stack.callback(subprocess.run, ["ip", "netns", "del", guest], check=True)
        (node.home / "state" / "dhcp.toml").write_text('cooling-time = "5s"\n')
        every = str(180 / TIMES)
        log = stack.enter_context(node.serving("--metrics-addr", "", "--audit-every", every, "--trusted-port", "load0"))
        node.lab("guest", "add", "node1", "steady")
        address = str(address_of(f"{node.name}-steady"))
        one, pid = Soak(node, guest, random.Random(seed)), node.daemon
        one.fill()
        say("hour  RSS MB  files  threads   DB MB  leased    pings  lost  in a row")
        for number in range(1, hours + 1):
            with pinged(node, address) as pings:
                one.hour(number)
            now = rest(pid, node.home / "state" / "cocoon-net.db")
            readings.append(now)
            row = longest(pings.missing)
            say(
                f"{number:>4} {now.resident:>7.1f} {now.descriptors:>6} {now.threads:>8} {now.database:>7.2f} "
                f"{one.leased:>7} {pings.sent:>8} {len(pings.missing):>5} {row:>9}"
            )
            if row > 5:
                wrong.append(f"hour {number}: the guest was not reached for {row / 5:.1f} s")
        wrong += grown(readings)
        with contextlib.suppress(TimeoutError):
            eventually(lambda: node.product("audit").returncode == 0, 30)
        audit = node.product("audit")
        say(audit.stdout.strip())
        if audit.returncode:
            wrong.append(f"the audit at the end ends with {audit.returncode}")
        if node.daemon != pid:
            wrong.append("the daemon is another one than at the start")
        errors = [line for line in log.read_text().splitlines() if " ERROR " in line or "Traceback" in line]
        say(f"{len(log.read_text().splitlines())} lines of log, {len(errors)} errors among them")
        for line in errors[:5]:
            say(line)
    return wrong


def main() -> int:
    """Parse flags, live, print; exit 1 when something is wrong at the end."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hours", type=int, default=8, help=f"each takes {3600 / TIMES:g} s")
    parser.add_argument("--seed", type=int, default=1, help="of the order of what happens")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("needs root, for network namespaces")
    wrong = soak(options.hours, options.seed, lambda line: print(line, flush=True))
    print("\n".join(wrong) or "flat, and clean")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
