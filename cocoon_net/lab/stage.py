"""A lab with one node, and a story played in it: provisioned and torn down, undisturbed or killed and resumed.

The product runs in a process forked from this one, which has imported everything, as on the node: in its network
namespace, with its environment. So a process costs milliseconds, and hundreds of deaths take minutes.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cocoon_net.errors import NodeError
from cocoon_net.lab import lab as labs
from cocoon_net.lab import machine
from cocoon_net.lab.cloud import Admin
from cocoon_net.lab.death import Moment, arm
from cocoon_net.lab.lab import Lab, Shape
from cocoon_net.lab.photograph import Photograph, finished, take

Product = Callable[[list[str]], int]
"""The command line: words -> exit code. The lab stands below it and is handed it."""

NODE = "node1"
NOTHING_TO_RESUME = 78
"""The exit code of ``run … --resume`` where there is nothing to resume."""

_SPEC = ("--platform", "volcengine", "--node-name", "cocoon-pool", "--pool-size", "40")
_PATIENCE = 90.0
"""Seconds after which a process that should have ended is ended."""
_FAULTS = {"ips-per-eni": "15"}
"""Three interfaces for a pool of 40: several of each thing, and soon done."""


@dataclass(frozen=True, slots=True)
class Story:
    """What is played: how the node comes to be provisioned. The end of each story is a teardown."""

    name: str
    words: tuple[str, ...]
    chapters: tuple[str, str]
    """What its two runs are called in the matrix."""


STORIES = {
    "init": Story("init", ("init", *_SPEC, "--subnet", "172.20.100.0/24"), ("init", "teardown")),
    "adopt": Story(
        "adopt",
        ("adopt", *_SPEC, "--subnet", "172.20.101.0/24", "--manage-iptables"),
        ("adopt", "teardown-adopted"),
    ),
}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: its exit code, or minus the signal; the moments it passed; what it said."""

    code: int
    passed: tuple[str, ...]
    said: str

    @property
    def killed(self) -> bool:
        """Whether it died at its moment."""
        return self.code == -signal.SIGKILL

    @property
    def moments(self) -> list[Moment]:
        """The moments that it passed, in the order of time."""
        return [Moment.parse(line.split()[0]) for line in self.passed]


@dataclass
class Stage:
    """A lab, ready to play one story again and again; ``build`` it, ``clear`` it away."""

    lab: Lab
    story: Story
    product: Product
    faults: Mapping[str, str] = field(default_factory=dict)
    empty: Photograph = field(init=False)
    """The world after an undisturbed teardown: how each story is to end."""
    provisioned: Photograph = field(init=False)
    """The world after an undisturbed init or adopt."""
    found: dict[str, list[Moment]] = field(init=False, default_factory=dict)
    """Chapter -> the moments of its undisturbed run."""

    def build(self) -> None:
        """Build the lab and play the story once, undisturbed. Raises NodeError when that does not end well."""
        labs.up(self.lab, Shape(nodes=1), _FAULTS)
        self._plant()
        before = take(self.lab)
        self.admin.set_faults(self.faults)
        self._import(self.run(*self.story.words, learn=True))
        self.run("teardown")
        self.forget()
        self.found[self.story.chapters[0]] = self._well(self.run(*self.story.words)).moments
        self.provisioned = take(self.lab)
        self.found[self.story.chapters[1]] = self._well(self.run("teardown")).moments
        self.empty = take(self.lab)
        if left := [line for line in self.empty.differences(before) if line[2:].startswith(("cloud", "node"))]:
            raise NodeError("\n".join(["an undisturbed teardown leaves the world other than it was:", *left]))

    def forget(self) -> None:
        """Make the node one that never had a database, so that the next chapter begins with making it."""
        for path in (self.lab.directory / NODE / "state").glob("cocoon-net.db*"):
            path.unlink()

    def clear(self) -> None:
        """Remove the lab."""
        labs.down(self.lab)

    @property
    def admin(self) -> Admin:
        """Return the admin interface of the lab's cloud."""
        return Admin(self.lab.admin_socket)

    def play(self, chapter: str) -> Ended:
        """Play a chapter undisturbed."""
        return self.run(*self._words(chapter))

    def kill(self, chapter: str, moment: Moment) -> Ended:
        """Play a chapter and die at a moment of it."""
        return self.run(*self._words(chapter), at=moment)

    def resume(self, chapter: str, at: Moment | None = None) -> Ended:
        """Go on with a chapter as an operator would: ``--resume``, and where there is nothing to resume, the command.

        There is nothing to resume before the run's row is committed; nor after its last state is, and then it is done.
        """
        workflow = self._words(chapter)[0]
        ended = self.run("run", workflow, "--resume", at=at)
        if ended.code != NOTHING_TO_RESUME or workflow in finished(
            self.lab.directory / NODE / "state" / "cocoon-net.db"
        ):
            return ended
        return self.run(*self._words(chapter), at=at)

    def run(self, *words: str, at: Moment | None = None, learn: bool = False) -> Ended:
        """Run a command of the product in a process of its own, to its end or to its death; it is reaped on return."""
        with tempfile.TemporaryFile() as report, tempfile.TemporaryFile() as said:
            pid = os.fork()
            if pid == 0:
                self._become(words, at, report.fileno(), said.fileno(), learn)
            code = _reap(pid)
            report.seek(0)
            said.seek(0)
            passed = report.read().decode(errors="replace").splitlines()
            return Ended(code, tuple(passed), said.read().decode(errors="replace"))

    def _become(self, words: Sequence[str], at: Moment | None, report: int, said: int, learn: bool) -> None:
        """Be the product, in this new process; never returns."""
        code = os.EX_SOFTWARE
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(said, 1)
            os.dup2(said, 2)
            machine.become(self.lab, NODE)
            settings = machine.environment(self.lab, NODE, os.environ)
            os.environ.clear()
            os.environ.update(settings)
            if learn:
                code = self.product(list(words))
                os.write(report, "\n".join(sorted(sys.modules)).encode())
            else:
                arm(report, at)
                code = self.product(list(words))
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _words(self, chapter: str) -> tuple[str, ...]:
        return self.story.words if chapter == self.story.chapters[0] else ("teardown",)

    def _plant(self) -> None:
        """Put into the world what was there before us, and must be there after us."""
        settings = [f"net.ipv4.conf.{link}.rp_filter=2" for link in ("all", "eth0")]
        for command in (["sysctl", *settings], ["iptables", "-A", "FORWARD", "-s", "10.9.9.9", "-j", "DROP"]):
            if (done := machine.run(self.lab, NODE, command)).code:
                raise NodeError(f"{' '.join(command)}: {done.errors}")
        self.admin.plant_interface(instance=NODE, name="theirs", secondaries=2)
        self.admin.plant_interface(
            name="lost",
            tags={"cocoon-net:product": "cocoon-net", "cocoon-net:node": "other", "cocoon-net:key": "eni-1"},
        )
        if self.story.name == "adopt":
            self.admin.plant_subnet("172.20.101.0/24")
            for name, secondaries in (("by-hand-1", 5), ("by-hand-2", 7)):
                self.admin.plant_interface(subnet="172.20.101.0/24", instance=NODE, name=name, secondaries=secondaries)

    @staticmethod
    def _import(ended: Ended) -> None:
        """Import what an undisturbed run imported, so that those to come need not."""
        for name in ended.passed:
            if name.partition(".")[0] not in ("__main__", "__mp_main__"):
                with contextlib.suppress(Exception):
                    importlib.import_module(name)

    @staticmethod
    def _well(ended: Ended) -> Ended:
        if ended.code != 0:
            raise NodeError(f"an undisturbed run ended with {ended.code}:\n{ended.said}")
        return ended


def open_stage(name: str, base: Path, story: Story, product: Product, faults: Mapping[str, str]) -> Stage:
    """Return a stage that is not built."""
    return Stage(labs.open_lab(name, base), story, product, faults)


def _reap(pid: int) -> int:
    """Wait for a child to be dead; return its exit code, or minus the signal that ended it."""
    deadline = time.monotonic() + _PATIENCE
    handle = os.pidfd_open(pid)
    try:
        if not select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0]:
            os.kill(pid, signal.SIGTERM)
            select.select([handle], [], [], 5.0)
            os.kill(pid, signal.SIGABRT)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(handle)
    return os.waitstatus_to_exitcode(status)
