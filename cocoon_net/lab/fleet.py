"""A fleet: many nodes of one account that are provisioned at the same moment against one throttled API.

Each node is a process with a state directory of its own and an instance in the lab's cloud; it runs the real init,
cut down to the cloud's steps, with the real SDK over HTTP. Some are killed once, at a random moment, and resumed.
The processes are forked after everything is imported, so that they share its memory.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from cocoon_net.cloud.volcengine.tags import KEY, NODE
from cocoon_net.engine.workflow import load
from cocoon_net.errors import CocoonError, NodeError
from cocoon_net.lab.cloud.admin import Admin
from cocoon_net.site import Site
from cocoon_net.spec import Spec, parse
from cocoon_net.steps import STEPS

CLOUD = frozenset({"subnet", "enis", "ingress", "attach", "addresses"})
"""The steps that touch nothing but the cloud."""

VMS = IPv4Network("172.20.16.0/20")
"""The first node's /24 is the first of this one; the blocks before it belong to the hosts."""

_PRELOADED = (
    "cocoon_net.cloud.volcengine.platform",
    "cocoon_net.runs",
    "pyroute2",
    "sqlite_utils",
    "transitions",
    "urllib3",
    "volcenginesdkcore",
)
"""Imported before the forks; elsewhere each is imported when it is first needed."""

MOST = 238
"""Nodes for which the lab's VPC, a /16, has a /24 each."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a fleet; ``seconds`` against ``floor`` says how well it shared the API."""

    nodes: int
    rate: float
    interfaces: int
    addresses: int
    killed: int
    parked: int
    """Runs that stopped short and were resumed as an operator would."""
    seconds: float
    calls: int
    """Calls that were carried out."""
    throttled: int
    """Calls that were refused for coming too often, and not carried out."""
    needed: int
    """Calls of one node alone on the API, times the nodes."""
    unfinished: int
    leaked: int
    """Interfaces of ours that no ledger knows, or that are attached to nothing."""
    duplicates: int
    """Keys of a node that more than one interface bears."""
    missing: int
    """Addresses that the nodes were to have and have not."""
    failures: dict[str, int] = field(default_factory=dict)

    @property
    def floor(self) -> float:
        """The seconds that the needed calls take at the API's rate, nobody ever waiting in vain."""
        return self.needed / self.rate

    @property
    def good(self) -> bool:
        """Whether every node has exactly what it asked for."""
        return not (self.unfinished or self.leaked or self.duplicates or self.missing)

    def lines(self) -> list[str]:
        """Say it to people."""
        return [
            f"{self.nodes} nodes of {self.interfaces} interfaces and {self.addresses} addresses each, "
            f"an API of {self.rate:g} calls/s, {self.killed} nodes killed once, {self.parked} runs parked and resumed",
            f"time       {self.seconds:.1f} s; floor {self.floor:.1f} s ({self.needed} calls needed / {self.rate:g}); "
            f"time/floor {self.seconds / self.floor:.2f}",
            f"calls      {self.calls / self.nodes:.1f} a node carried out, {self.needed / self.nodes:.1f} needed; "
            f"throttled {self.throttled} ({self.throttled / self.nodes:.1f} a node)",
            f"unfinished {self.unfinished}, leaked {self.leaked}, duplicates {self.duplicates}, missing {self.missing}",
            *(f"error      {count} x {text}" for text, count in self.failures.items()),
        ]

    def as_json(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**asdict(self), "floor": self.floor, "good": self.good}


def write_workflows(directory: Path) -> Path:
    """Write the shipped workflows, cut down to the cloud's steps, for ``Site.workflow_dir``; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("init", "adopt", "teardown"):
        plan = load(name, STEPS)
        lines = [f'name = "{plan.name}"', f'title = "{plan.title}"']
        for stage in plan.stages:
            if stage.name in CLOUD:
                lines += ["[[step]]", f'name = "{stage.name}"', f'want = "{stage.wish}"']
                lines += [f'deadline = "{stage.deadline:.0f}s"']
        (directory / f"{name}.toml").write_text("\n".join(lines) + "\n")
    return directory


def provision(
    directory: Path,
    *,
    nodes: int,
    rate: float,
    pool: int = 140,
    killed: float = 1 / 3,
    seed: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Provision ``nodes`` nodes at one moment and report. ``killed`` is the part that is killed once.

    Raises NodeError when the lab's cloud does not come up.
    """
    if not 1 <= nodes <= MOST:
        raise NodeError(f"a fleet has 1 to {MOST} nodes, not {nodes}")
    rng = random.Random(seed)
    for name in _PRELOADED:
        importlib.import_module(name)
    workflows = write_workflows(directory / "workflows")
    with _cloud(directory / "cloud", nodes + 2) as (places, admin):
        environ = _environment(admin)
        site = Site(endpoint=places["endpoint"], metadata_url=places["metadata_url"], workflow_dir=workflows)
        specs = {f"node{n + 1}": _spec(n, pool) for n in range(nodes + 2)}
        fleet = _Fleet(directory, site, environ, specs)
        say("two nodes, one after the other, to see how many calls the second one needs")
        first, second = list(specs)[-2:]
        fleet.run({first}, {}, lambda line: None)  # it also makes the rule that all share
        before = _counted(admin)
        fleet.run({second}, {}, lambda line: None)
        needed = _counted(admin)[0] - before[0]
        before = _counted(admin)
        admin.set_faults({"throttle-all": f"{rate:g}"})
        names = list(specs)[:nodes]
        span = 0.8 * needed * nodes / rate
        due = {name: rng.uniform(0.0, span) for name in rng.sample(names, round(nodes * killed))}
        say(f"{nodes} nodes at one moment")
        began = time.monotonic()
        fleet.run(set(names), due, say)
        seconds = time.monotonic() - began
        admin.set_faults({"throttle-all": ""})
        after = _counted(admin)
        state = admin.state()
        return _report(
            fleet, state, nodes=nodes, rate=rate, pool=pool, seconds=seconds, needed=needed * nodes,
            carried=after[0] - before[0], throttled=after[1] - before[1],
        )  # fmt: skip


class _Fleet:
    """The processes."""

    def __init__(self, directory: Path, site: Site, environ: dict[str, str], specs: dict[str, Spec]) -> None:
        self.directory, self.site, self.environ, self.specs = directory, site, environ, specs
        self.killed = self.parked = 0
        self.failures: Counter[str] = Counter()
        self.done: set[str] = set()

    def run(self, names: set[str], due: dict[str, float], say: Callable[[str], None]) -> None:
        """Run all of them to their end; ``due`` are those to be killed, once, and after how many seconds."""
        gc.collect()
        gc.freeze()  # the children share these pages as long as nobody writes to them
        poll = select.poll()
        alive: dict[int, tuple[int, str]] = {}

        def start(name: str) -> None:
            pid = self._fork(name)
            handle = os.pidfd_open(pid)
            alive[handle] = (pid, name)
            poll.register(handle, select.POLLIN)

        for name in sorted(names):
            start(name)
        began = told = time.monotonic()
        while alive:
            for handle, _ in poll.poll(50):
                poll.unregister(handle)
                os.close(handle)
                pid, name = alive.pop(handle)
                if self._ended(name, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])):
                    start(name)
            now = time.monotonic()
            for pid, name in list(alive.values()):
                if due.get(name, now) <= now - began:
                    del due[name]
                    os.kill(pid, signal.SIGKILL)
            if now - told > 20:
                told = now
                say(f"{now - began:5.0f} s: {len(names) - len(alive)} of {len(names)} are done")

    def _ended(self, name: str, how: int) -> bool:
        """Take note of how a process ended; return whether to start it again."""
        self.killed += how == -signal.SIGKILL
        self.parked += how == os.EX_TEMPFAIL
        match how:
            case 0:
                self.done.add(name)
            case _ if how in (-signal.SIGKILL, os.EX_TEMPFAIL):
                return True
            case _:
                self.failures[self._last_word(name)] += 1
        return False

    def state_of(self, name: str) -> Path:
        return self.directory / "nodes" / name

    def _last_word(self, name: str) -> str:
        return (self.state_of(name) / "error").read_text().strip().splitlines()[-1][:200]

    def _fork(self, name: str) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = os.EX_SOFTWARE
        try:
            code = self._work(name)
        finally:
            os._exit(code)

    def _work(self, name: str) -> int:
        """Be one node: begin its init, or go on with it. Returns the exit code."""
        from cocoon_net import runs
        from cocoon_net.events import Bus

        os.environ.update(self.environ)
        random.seed()
        home = self.state_of(name)
        home.mkdir(parents=True, exist_ok=True)
        site = replace(self.site, state_dir=home, metadata_url=f"{self.site.metadata_url}/as/{name}")
        try:
            with runs.at(site, "init", bus=Bus(), say=lambda line: None) as desk:
                runs.carry(desk, runs.begin(desk, "init", self.specs[name]))
        except CocoonError as error:
            (home / "error").write_text(f"{type(error).__name__}: {error.message}\n")
            return error.exit_code
        except Exception as error:
            (home / "error").write_text(f"{type(error).__name__}: {error}\n")
            return os.EX_SOFTWARE
        return 0


def _report(
    fleet: _Fleet,
    state: dict[str, Any],
    *,
    nodes: int,
    rate: float,
    pool: int,
    seconds: float,
    needed: int,
    carried: int,
    throttled: int,
) -> Report:
    from cocoon_net.engine.journal import Journal
    from cocoon_net.records import AddressSet, Interface
    from cocoon_net.store import open_database

    marked = [row for row in state["interfaces"] if NODE in dict(row["tags"])]
    keys = Counter((dict(row["tags"])[NODE], dict(row["tags"])[KEY]) for row in marked)
    known: set[str] = set()
    addresses: dict[str, tuple[str, ...]] = {}
    for name in fleet.specs:
        path = fleet.state_of(name) / "cocoon-net.db"
        if path.exists():
            with contextlib.closing(open_database(path)) as database:
                ledger = Journal(database).ledger()
            known |= {row.record.id for row in ledger.values() if isinstance(row.record, Interface)}
            sets = [row.record for row in ledger.values() if isinstance(row.record, AddressSet)]
            addresses[name] = tuple(str(each) for record in sets for each in record.addresses)
    there = {str(address) for row in marked for address in row["secondaries"]}
    owned = [address for each in addresses.values() for address in each]
    missing = (len(fleet.specs)) * pool - len(there & set(owned))
    return Report(
        nodes=nodes,
        rate=rate,
        interfaces=round(len(marked) / len(fleet.specs)),
        addresses=pool,
        killed=fleet.killed,
        parked=fleet.parked,
        seconds=round(seconds, 1),
        calls=carried,
        throttled=throttled,
        needed=needed,
        unfinished=len(set(fleet.specs) - fleet.done),
        leaked=sum(row["id"] not in known or row["instance_id"] is None for row in marked),
        duplicates=sum(count - 1 for count in keys.values()) + len(owned) - len(set(owned)),
        missing=missing,
        failures=dict(fleet.failures),
    )


@contextlib.contextmanager
def _cloud(directory: Path, nodes: int) -> Iterator[tuple[dict[str, str], Admin]]:
    """Run the lab's cloud as a process of its own."""
    knobs = ("subnet-quota=1000", "interface-quota=100000")
    line = [sys.executable, "-m", "cocoon_net.lab.cloud", "--directory", str(directory), "--nodes", str(nodes)]
    line += [word for knob in knobs for word in ("--fault", knob)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        try:
            told = process.stdout.readline() if process.stdout is not None else ""
            if not told:
                raise NodeError("the lab's cloud did not come up", hint=f"try it: {' '.join(line)}")
            places = json.loads(told)
            yield places, Admin(Path(places["admin"]))
        finally:
            process.terminate()


def _environment(admin: Admin) -> dict[str, str]:
    keys = admin.credentials()
    return {
        "VOLCENGINE_ACCESS_KEY_ID": keys["access_key"],
        "VOLCENGINE_SECRET_ACCESS_KEY": keys["secret_key"],
        "VOLCENGINE_REGION": keys["region"],
    }


def _spec(number: int, pool: int) -> Spec:
    network = IPv4Network((int(VMS.network_address) + 256 * number, 24))
    return parse(platform="volcengine", node_name=f"fleet-{number + 1}", subnet=str(network), pool_size=pool)


def _counted(admin: Admin) -> tuple[int, int]:
    """Return how many calls were carried out so far, and how many were refused for coming too often."""
    rows = admin.counters().values()
    calls = sum(int(row["calls"]) for row in rows)
    errors = sum(int(row["errors"]) for row in rows)
    return calls - errors, errors


def main(arguments: list[str] | None = None) -> int:
    """Provision a fleet and say how it went; exit code 1 if anything is leaked, double or missing."""
    parser = argparse.ArgumentParser(prog="scripts/fleet", description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--rate", type=float, default=20.0, help="calls per second of the whole account")
    parser.add_argument("--pool-size", type=int, default=140, help="addresses of each node, twenty an interface")
    parser.add_argument("--killed", type=float, default=1 / 3, help="part of the nodes that is killed once")
    parser.add_argument("--seed", type=int, default=1, help="of who is killed, and when")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="cocoon-fleet-") as directory:
        try:
            report = provision(
                Path(directory),
                nodes=options.nodes,
                rate=options.rate,
                pool=options.pool_size,
                killed=options.killed,
                seed=options.seed,
                say=lambda line: print(line, file=sys.stderr, flush=True),
            )
        except CocoonError as error:
            print(f"{error}\n{error.hint}".rstrip(), file=sys.stderr)
            return error.exit_code
    print(json.dumps(report.as_json(), indent=2) if options.json else "\n".join(report.lines()))
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
