"""The guide's job, done in a lab through the real command line, and its "Verified Result" as measured then."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from cocoon_net.errors import NodeError
from cocoon_net.lab import guests, machine, namespace, vm
from cocoon_net.lab import lab as labs
from cocoon_net.lab.lab import Lab
from cocoon_net.lab.task import look

Say = Callable[[str], None]

DESKTOP = 3389
"""The port that the guide tries on a Windows VM."""


@dataclass(frozen=True, slots=True)
class Site:
    """What the guide does on one node, and the VM that it finds there."""

    node: str
    pool: str
    subnet: str
    guest: str


SITES = (
    Site("node1", "cocoon-pool", "172.20.100.0/24", "win11-0"),
    Site("node2", "cocoon-pool-2", "172.20.101.0/24", "win11-2-0"),
)


@dataclass(frozen=True, slots=True)
class Trial:
    """One thing that was tried: the command as a person would type it, what came back, whether that is success."""

    address: IPv4Address
    command: str
    answer: str
    passed: bool


def show(lab: Lab, *, real: bool, say: Say) -> None:
    """Provision both nodes, start the daemons, add a guest on each and try them; raises ``NodeError`` if any failed.

    What is there already is kept, so that a second run only measures. ``real``: boot a real VM too.
    """
    namespace.require_root()
    labs.require_programs({"ping": "iputils-ping", "nc": "netcat-openbsd", "udhcpc": "udhcpc"})
    if len(lab.nodes()) < len(SITES) or lab.process() is None:
        raise NodeError(
            f"the demo needs the lab {lab.name} up with {len(SITES)} nodes", hint="`cocoon-net lab up --nodes 2` first"
        )
    with ThreadPoolExecutor(len(SITES)) as pool:
        list(pool.map(lambda site: _provision(lab, site, say), SITES))
    addresses = {site: _guest(lab, site, say) for site in SITES}
    trials = measure(lab, addresses)
    for line in report(addresses, trials):
        say(line)
    if real:
        trials += _boot(lab, SITES[0].node, say)
    failed = [trial.command for trial in trials if not trial.passed]
    if failed:
        raise NodeError(f"{len(failed)} of {len(trials)} trials failed: {'; '.join(failed)}")


def measure(lab: Lab, addresses: dict[Site, IPv4Address]) -> list[Trial]:
    """Try each guest from another host of the VPC, and from the guest of the other node."""
    trials = []
    for site, address in addresses.items():
        trials.append(ping(lab, "host", address))
        trials.append(open_port(lab, "host", address))
        trials += [ping(lab, other.guest, address) for other in addresses if other != site]
    return trials


def report(addresses: dict[Site, IPv4Address], trials: Sequence[Trial]) -> list[str]:
    """Return the lines of the guide's "Verified Result"."""
    lines = ["", f"{'NAME':<12}{'READY':<8}{'IP':<16}NODE"]
    for site, address in addresses.items():
        ready = all(trial.passed for trial in trials if trial.address == address)
        lines.append(f"{site.guest:<12}{'1/1' if ready else '0/1':<8}{address!s:<16}{site.pool}")
    return lines + _told(trials)


def product() -> list[str]:
    """Return how to call ``cocoon-net``: the program beside this Python, or this checkout."""
    program = shutil.which("cocoon-net", path=str(Path(sys.executable).parent))
    return [program] if program else [sys.executable, "-m", "cocoon_net"]


def _provision(lab: Lab, site: Site, say: Say) -> None:
    began = time.monotonic()
    wanted = ["--platform", "volcengine", "--node-name", site.pool, "--subnet", site.subnet]
    _call(lab, site.node, "init", *wanted, "--pool-size", "140", "--dns", "8.8.8.8,1.1.1.1")
    say(f"{site.node}: cocoon-net init of {site.pool} ({site.subnet}) took {time.monotonic() - began:.1f} s")
    if _daemon_runs(lab, site.node):
        return
    began = time.monotonic()
    home = lab.directory / site.node
    task = machine.spawn(lab, site.node, [*product(), "daemon"], home / "daemon.log")
    while not (home / "run" / "cocoon-net" / "control.sock").is_socket():
        if not task.alive or time.monotonic() - began > 20:
            raise NodeError(f"cocoon-net daemon did not come up on {site.node}", hint=f"see {home / 'daemon.log'}")
        time.sleep(0.02)
    say(f"{site.node}: cocoon-net daemon is up after {time.monotonic() - began:.1f} s")


def _daemon_runs(lab: Lab, node: str) -> bool:
    pid = lab.read(f"{node}/run/cocoon-net.pid") or ""
    return pid.strip().isdigit() and int(pid) in namespace.members([lab.namespace(node)]) and look(int(pid)) is not None


def _guest(lab: Lab, site: Site, say: Say) -> IPv4Address:
    if site.guest in lab.machines():
        address = guests.address_of(lab.namespace(site.guest))
        if address is not None:
            return address
        guests.remove(lab, site.guest)
    began = time.monotonic()
    address = guests.add(lab, guests.Guest(site.guest, site.node, "udhcpc"))
    if address is None:
        raise NodeError(f"{site.guest} has no address")
    guests.serve(lab, site.guest, DESKTOP)
    say(f"{site.guest} on {site.node}: leased {address} after {time.monotonic() - began:.1f} s")
    return address


def _boot(lab: Lab, node: str, say: Say) -> list[Trial]:
    """Boot a real VM, say what it did, and try it from another host of the VPC."""
    trials: list[Trial] = []

    def meet(verdict: vm.Verdict) -> None:
        say(f"\nA VM under QEMU on {node} had its lease {verdict.seconds:.1f} s after power-on; its console:")
        for line in verdict.console:
            say(f"  {line}")
        trials.extend([ping(lab, "host", verdict.address), open_port(lab, "host", verdict.address)])
        for line in _told(trials):
            say(line)

    vm.boot(lab, node, say, meet)
    return trials


def _told(trials: Sequence[Trial]) -> list[str]:
    lines = []
    for trial in trials:
        lines += ["", f"$ {trial.command}", trial.answer if trial.passed else f"{trial.answer}  <- FAILED"]
    return lines


def _call(lab: Lab, node: str, *words: str) -> str:
    """Run cocoon-net on a node as a person would, with ``lab exec``; raises ``NodeError`` with what it said."""

    place = ["lab", "exec", "--name", lab.name, "--dir", str(lab.base), node, "--"]
    done = subprocess.run([*product(), *place, *product(), *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise NodeError(f"cocoon-net {words[0]} on {node} ended with {done.returncode}:\n{said}")
    return done.stdout


def ping(lab: Lab, source: str, address: IPv4Address) -> Trial:
    """Try three echo requests from a machine of the lab."""
    done = machine.run(lab, source, ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", str(address)], patience=15)
    answer = re.findall(r"^\d+ bytes from .*$", done.out, re.MULTILINE)
    command = f"ping {address}    # from {lab.namespace(source)}"
    return Trial(address, command, "\n".join(answer) or "no answer", done.code == 0 and len(answer) == 3)


def open_port(lab: Lab, source: str, address: IPv4Address) -> Trial:
    """Try the desktop's port from a machine of the lab."""
    done = machine.run(lab, source, ["nc", "-w", "2", str(address), str(DESKTOP)], patience=15)
    command = f"nc -w 2 {address} {DESKTOP} && echo OK    # from {lab.namespace(source)}"
    return Trial(address, command, "OK" if done.code == 0 else "no connection", done.code == 0)
