"""A small world for the engine: things with keys, kept in a dict, that can fail, lag and be busy; and its runner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.clock import ManualClock
from cocoon_net.engine.journal import Journal, Run
from cocoon_net.engine.model import Busy, Call, Change, Context, Step, Verb, Via
from cocoon_net.engine.runner import Runner
from cocoon_net.engine.workflow import Plan, parse
from cocoon_net.events import Bus, Event
from cocoon_net.records import Record, Sysctl
from cocoon_net.spec import Spec
from cocoon_net.stop import Stop
from cocoon_net.store import open_database

SPEC = Spec("volcengine", "node", IPv4Network("172.20.100.0/24"), IPv4Address("172.20.100.1"))


class Killed(BaseException):
    """The process dies here: nothing after this point runs."""


@dataclass
class Shelf:
    """An inventory of things on a shelf. ``marks`` makes its things carry our mark."""

    things: dict[str, Record] = field(default_factory=dict)
    marks: bool | None = None
    applied: list[tuple[str, str, str]] = field(default_factory=list)
    before_apply: Callable[[Change], None] = lambda change: None
    after_apply: Callable[[Change], None] = lambda change: None
    lag: int = 0
    busy: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    _shown: dict[str, Record] = field(default_factory=dict)
    _reads: int = 0

    def observe(self, cx: Context) -> Mapping[str, Record | Busy]:
        self._reads += 1
        if self._reads > self.lag:
            self._shown = dict(self.things)
            self._reads = 0
        seen: dict[str, Record | Busy] = dict(self._shown)
        for key, looks in list(self.busy.items()):
            if looks:
                self.busy[key] = looks - 1
                seen[key] = Busy(f"{key} to rest")
        return seen

    def calls(self, change: Change, cx: Context) -> tuple[Call, ...]:
        return (Call(Via.KERNEL, f"{change.verb} {change.key}"),)

    def apply(self, change: Change, token: str, cx: Context) -> Mapping[str, str]:
        self.before_apply(change)
        self.applied.append((change.verb.value, change.key, token))
        if change.verb is Verb.DELETE:
            self.things.pop(change.key, None)
        elif change.verb is not Verb.CREATE or token not in self.tokens:
            assert change.want is not None
            self.things[change.key] = replace(change.want, ours=self.marks)
            self.tokens[token] = change.key
        self.after_apply(change)
        return {"id": f"id-{change.key}"}


@dataclass
class Bench:
    """A node's database with a runner over two shelves: ``tools`` (three things) and ``lamps`` (one)."""

    path: Path
    tools: Shelf = field(default_factory=Shelf)
    lamps: Shelf = field(default_factory=Shelf)
    clock: ManualClock = field(default_factory=ManualClock)
    events: list[Event] = field(default_factory=list)
    prune: bool = False
    permanent: bool = False
    stop: Stop = field(default_factory=Stop)

    def plan(self, want: str = "spec", name: str = "init") -> Plan:
        steps = [{"name": "tools", "deadline": "60s"}, {"name": "lamps", "deadline": "60s"}]
        if want == "nothing":
            steps.reverse()
        return parse({"name": name, "want": want, "step": steps}, ["tools", "lamps"], "test")

    def steps(self) -> dict[str, Step]:
        def tools(cx: Context, seen: Mapping[str, Record]) -> Mapping[str, Record]:
            return {f"tool-{n}": Sysctl(f"tool-{n}", "1") for n in (1, 2, 3)}

        def lamps(cx: Context, seen: Mapping[str, Record]) -> Mapping[str, Record]:
            return {"lamp": Sysctl("lamp", str(len(cx.records("tools"))))}

        return {
            "tools": Step("tools", tools, prune=self.prune, permanent=self.permanent),
            "lamps": Step("lamps", lamps),
        }

    def journal(self) -> Journal:
        return Journal(open_database(self.path))

    def runner(self, journal: Journal | None = None, **options: Any) -> Runner:
        bus = Bus()
        bus.subscribe(Event, self.events.append)
        inventories = {"tools": self.tools, "lamps": self.lamps}
        options = {"clock": self.clock, "bus": bus, "stop": self.stop, **options}
        return Runner(journal or self.journal(), self.steps(), inventories, **options)

    def start(self, want: str = "spec", name: str = "init") -> Run:
        return self.journal().start(self.plan(want, name), SPEC, None, version="0", by="a test", now=self.clock.now())

    def carry(self, run: Run) -> Run:
        return self.runner().carry(self.journal().run(run.id))

    def init(self) -> Run:
        return self.carry(self.start())

    def teardown(self) -> Run:
        return self.carry(self.start("nothing", "teardown"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield Bench(tmp_path / "node.db")
