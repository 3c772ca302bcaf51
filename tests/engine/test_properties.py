"""What must hold of the engine in any world, with any faults and any deaths, and is searched for by hypothesis.

``COCOON_NET_EXAMPLES=2000 pytest --timeout=0 tests/engine/test_properties.py`` searches longer, and shrinks its find.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cocoon_net.clock import ManualClock
from cocoon_net.engine.journal import Journal
from cocoon_net.engine.machine import ABANDONED, PLANNED, RunMachine
from cocoon_net.engine.model import Busy, Call, Change, Context, Origin, Step, Verb
from cocoon_net.engine.runner import Runner
from cocoon_net.engine.workflow import Plan, parse
from cocoon_net.errors import CloudError, CloudTransient, CocoonError
from cocoon_net.events import Bus
from cocoon_net.records import Record, Sysctl
from cocoon_net.spec import Spec
from cocoon_net.stop import Stop
from cocoon_net.store import open_memory

SPEC = Spec("volcengine", "node", IPv4Network("172.20.100.0/24"), IPv4Address("172.20.100.1"))
WANTED = {"tools": ("tool-1", "tool-2", "tool-3"), "lamps": ("lamp",)}
POINTS = ("moved", "enter", "intend", "conclude", "looked", "settle", "park")


class Killed(BaseException):
    """The process dies here."""


@dataclass
class Thing:
    """An object of the world; two of one key are a leak."""

    key: str
    record: Record
    token: str = ""
    """Of the wish by which we made it; empty for what others made."""


@dataclass
class Shelf:
    """A cloud of things: tokens are remembered, listings lag, calls fail before and after their effect."""

    marks: bool | None
    lag: int
    things: list[Thing] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    busy: dict[str, int] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)
    _shown: list[Thing] = field(default_factory=list)
    _reads: int = 0

    def observe(self, cx: Context) -> Mapping[str, Record | Busy]:
        self._reads += 1
        if self._reads > self.lag:
            self.refresh()
        seen: dict[str, Record | Busy] = {thing.key: thing.record for thing in self._shown}
        for key, looks in self.busy.items():
            if looks and key in seen:
                self.busy[key] = looks - 1
                seen[key] = Busy(f"{key} to rest")
        return seen

    def refresh(self) -> None:
        self._shown, self._reads = [replace(thing) for thing in self.things], 0

    def calls(self, change: Change, cx: Context) -> tuple[Call, ...]:
        return ()

    def apply(self, change: Change, token: str, cx: Context) -> Mapping[str, str]:
        fault = self.faults.pop() if self.faults else ""
        if fault == "lasting":
            raise CloudError("refused")
        if fault == "before":
            raise CloudTransient("lost on the way there")
        match change.verb:
            case Verb.DELETE:
                self.things = [thing for thing in self.things if thing.key != change.key]
            case Verb.UPDATE:
                assert change.want is not None
                for thing in self.things:
                    if thing.key == change.key:
                        thing.record = replace(change.want, ours=thing.record.ours)
            case Verb.CREATE if token not in self.made:
                assert change.want is not None
                self.made.add(token)
                self.things.append(Thing(change.key, replace(change.want, ours=self.marks), token))
            case Verb.CREATE:
                pass  # asked twice is asked once
        if fault == "after":
            raise CloudTransient("lost on the way back")
        return {}


class Mortal(Journal):
    """A journal whose process dies at the so-manyth moment: before or after a write."""

    left = 0

    def reach(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


def _mortal(name: str) -> Any:
    original = getattr(Journal, name)

    def wrapped(self: Mortal, *args: Any, **kwargs: Any) -> Any:
        self.reach()
        result = original(self, *args, **kwargs)
        self.reach()
        return result

    return wrapped


for _name in POINTS:
    setattr(Mortal, _name, _mortal(_name))

FAULTS = st.lists(st.sampled_from(["", "before", "after", "lasting"]), max_size=4)


class Life(RuleBasedStateMachine):
    """One node, from its first init on."""

    @initialize(
        found=st.sets(st.sampled_from(["tool-1", "tool-2", "lamp"])),
        foreign=st.booleans(),
        marks=st.sampled_from([True, None]),
        lag=st.integers(0, 3),
    )
    def begin(self, found: set[str], foreign: bool, marks: bool | None, lag: int) -> None:
        self.clock = ManualClock()
        self.journal = Mortal(open_memory())
        self.shelves = {"tools": Shelf(marks, lag), "lamps": Shelf(None, lag)}
        for step, keys in WANTED.items():
            things = self.shelves[step].things
            things += [Thing(key, Sysctl(key, "0")) for key in keys if key in found]
            things += [Thing("foreign", Sysctl("foreign", "7", ours=False))] if foreign else []
            self.shelves[step].refresh()
        self.outside = self.world()
        self.adopted = False
        self.skipped = False

    def world(self) -> dict[str, list[tuple[str, str]]]:
        return {
            step: sorted((t.key, t.record.value) for t in shelf.things if isinstance(t.record, Sysctl))
            for step, shelf in self.shelves.items()
        }

    def plan(self, name: str) -> Plan:
        steps = [{"name": "tools", "deadline": "60s"}, {"name": "lamps", "deadline": "60s"}]
        want = {"init": "spec", "adopt": "seen", "teardown": "nothing"}[name]
        return parse({"name": name, "want": want, "step": steps[:: -1 if name == "teardown" else 1]}, WANTED, "test")

    def steps(self) -> dict[str, Step]:
        def wants(name: str) -> Step:
            return Step(name, lambda cx, seen: {key: Sysctl(key, "1") for key in WANTED[name]})

        return {name: wants(name) for name in WANTED}

    @rule(
        name=st.sampled_from(["init", "init", "teardown", "teardown", "adopt"]),
        tools=FAULTS,
        lamps=FAULTS,
        busy=st.dictionaries(st.sampled_from(["tool-1", "tool-3", "lamp"]), st.integers(1, 3)),
        kill=st.one_of(st.just(0), st.integers(1, 40)),
        stop=st.booleans(),
    )
    def run(self, name: str, tools: list[str], lamps: list[str], busy: dict[str, int], kill: int, stop: bool) -> None:
        """Give a command: it resumes what is unfinished, as the commands do, and may be disturbed in any way."""
        if not self.choose(name):
            return
        run = self.journal.unfinished()
        assert run is not None
        for step, faults in (("tools", tools), ("lamps", lamps)):
            self.shelves[step].faults = list(faults)
            self.shelves[step].busy = dict(busy)
        asked = Stop()
        asked.asked = "SIGTERM" if stop and kill > 20 else ""
        self.journal.left = kill
        try:
            self.runner(asked).carry(run)
        except Killed:
            return
        except CocoonError as error:
            self.journal.left = 0
            reason = self.journal.run(run.id).reason
            assert reason["message"] == error.message, "every parked run has a reason"
            return
        self.ended(run.workflow, run.id)

    def runner(self, stop: Stop | None = None) -> Runner:
        rng = random.Random(0)
        return Runner(
            self.journal, self.steps(), self.shelves, clock=self.clock, bus=Bus(), rng=rng, stop=stop or Stop()
        )

    def choose(self, name: str) -> bool:
        """Start what was asked for, where the commands would; False where they would refuse."""
        self.journal.left = 0
        unfinished = self.journal.unfinished()
        if unfinished is not None and name == "teardown" and unfinished.workflow != "teardown":
            self.move("abandon")
            unfinished = None
        if unfinished is not None:
            return True
        lineage = self.journal.lineage()
        if (name == "teardown" and not lineage) or (name == "adopt" and lineage):
            return False
        if not lineage:
            for shelf in self.shelves.values():
                shelf.refresh()  # long after
            self.outside = self.world()
        self.adopted = self.adopted or name == "adopt"
        self.journal.start(self.plan(name), SPEC, None, version="0", by="a test", now=self.clock.now())
        return True

    def move(self, trigger: str) -> None:
        run = self.journal.unfinished()
        assert run is not None
        machine = RunMachine(run.plan, run.state, lambda s: self.journal.moved(run.id, s, self.clock.now()))
        if trigger == "skip":
            with self.journal.transaction():
                self.journal.skip(run.id, run.state, "a test", "a test", self.clock.now())
        getattr(machine, trigger)()
        if machine.state != ABANDONED and machine.ended:
            self.ended(run.workflow, run.id)

    @precondition(lambda self: self.journal.unfinished() is not None)
    @rule()
    def abandon(self) -> None:
        self.move("abandon")

    @precondition(lambda self: (run := self.journal.unfinished()) is not None and run.state != PLANNED)
    @rule()
    def skip(self) -> None:
        self.skipped = True
        self.move("skip")

    @rule(seconds=st.sampled_from([0.1, 3.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def ended(self, workflow: str, run: str) -> None:
        """Check what a run promises with ``done``."""
        passed = any(visit["skipped"] for visit in self.journal.visits(run).values())
        world = self.world()
        if workflow == "init" and not passed:
            for step, keys in WANTED.items():
                assert {key: value for key, value in world[step] if key != "foreign"} == dict.fromkeys(keys, "1")
        if workflow == "teardown" and not passed:
            assert self.journal.ledger() == {}
            if self.adopted:
                assert [[k for k, _ in v] for v in world.values()] == [[k for k, _ in v] for v in self.outside.values()]
            else:
                assert world == self.outside, "as it was before us, and nothing of ours"
            self.adopted = False

    @invariant()
    def nothing_of_ours_is_forgotten(self) -> None:
        ledger = self.journal.ledger()
        for step, shelf in self.shelves.items():
            for thing in shelf.things:
                if thing.token:
                    row = ledger.get((step, thing.key))
                    assert row is not None, f"{thing} is made by us and nowhere written down"
                    assert row.origin is not Origin.FOUND or thing.record.ours, f"{thing} would stay for ever"

    @invariant()
    def no_wish_is_carried_out_twice(self) -> None:
        for shelf in self.shelves.values():
            keys = [thing.key for thing in shelf.things]
            assert len(keys) == len(set(keys)), "two things for one key"
            tokens = [thing.token for thing in shelf.things if thing.token]
            assert len(tokens) == len(set(tokens))

    @invariant()
    def what_is_not_ours_is_untouched(self) -> None:
        for step, shelf in self.shelves.items():
            there = {thing.key: thing.record for thing in shelf.things}
            for key, value in self.outside[step]:
                assert key in there, f"{key} was there before us and is gone"
                if key == "foreign":
                    assert there[key] == Sysctl(key, value)


def _profile() -> settings:
    longer = os.environ.get("COCOON_NET_EXAMPLES")
    return settings(
        max_examples=int(longer or 60),
        phases=list(Phase) if longer else [Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
        stateful_step_count=12,
        deadline=None,
        derandomize=not longer,
        suppress_health_check=list(HealthCheck),
    )


TestLife = Life.TestCase
TestLife.settings = _profile()
