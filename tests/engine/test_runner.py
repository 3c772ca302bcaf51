"""Stories of the runner: it fails first, then it is killed, and in the end the world is as wanted."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest

from cocoon_net.engine.journal import Journal
from cocoon_net.engine.model import Change, Origin, Verb
from cocoon_net.errors import CloudError, CloudThrottled, CloudTransient, NotSettled, StoreError
from cocoon_net.events import StepSettled, StepWaiting
from cocoon_net.records import Sysctl


class Killed(BaseException):
    """The process dies here."""


def test_a_lasting_error_parks_the_run_and_says_where(bench: Any) -> None:
    def refuse(change: Change) -> None:
        if change.key == "tool-2":
            raise CloudError("no more tool-2", hint="buy one", code="QuotaExceeded.Tools")

    bench.tools.before_apply = refuse
    run = bench.start()
    with pytest.raises(CloudError) as raised:
        bench.carry(run)
    assert (raised.value.step, raised.value.key) == ("tools", "tool-2")
    parked = bench.journal().run(run.id)
    assert parked.state == "tools"
    assert parked.reason["message"] == "no more tool-2"
    assert parked.reason["code"] == "QuotaExceeded.Tools"
    outcomes = {row["key"]: row["outcome"] for row in bench.journal().operations(run.id)}
    assert outcomes == {"tool-1": "done", "tool-2": "failed", "tool-3": "done"}

    bench.tools.before_apply = lambda change: None
    done = bench.carry(run)
    assert done.state == "done"
    assert done.reason == {}
    assert sorted(bench.tools.things) == ["tool-1", "tool-2", "tool-3"]


def test_what_the_last_look_cost_is_counted_though_it_failed(bench: Any) -> None:
    def refuse(change: Change) -> None:
        raise CloudError("no more tools", code="QuotaExceeded.Tools")

    bench.tools.before_apply = refuse
    run = bench.start()
    with pytest.raises(CloudError):
        bench.runner(meter=lambda: {("MakeTool", "QuotaExceeded.Tools"): 3}).carry(run)
    assert bench.journal().calls(run.id) == {"MakeTool": 3}
    assert bench.journal().refusals(run.id) == {("MakeTool", "QuotaExceeded.Tools"): 3}


def test_a_passing_error_sends_the_runner_back_to_look(bench: Any) -> None:
    failures = iter([CloudTransient("throttled"), CloudTransient("throttled")])

    def stumble(change: Change) -> None:
        if change.key == "tool-1" and (error := next(failures, None)):
            raise error

    bench.tools.before_apply = stumble
    assert bench.init().state == "done"
    assert bench.clock.slept, "it waited between two looks"
    assert any(isinstance(event, StepWaiting) and "throttled" in event.why for event in bench.events)


def test_what_is_waited_for_has_the_same_name_at_each_look_whoever_fails_first(bench: Any) -> None:
    others = threading.Barrier(3)

    def stumble(change: Change) -> None:
        others.wait(5.0)
        if change.key == "tool-1":
            time.sleep(0.02)
        raise CloudTransient(f"no {change.key} yet")

    bench.tools.before_apply = stumble
    with pytest.raises(NotSettled, match="still waiting for no tool-1 yet"):
        bench.carry(bench.start())


def test_what_never_comes_to_rest_is_parked_at_the_deadline(bench: Any) -> None:
    bench.tools.busy = {"tool-1": 10**6}
    run = bench.start()
    with pytest.raises(NotSettled, match="still waiting for tool-1 to rest"):
        bench.carry(run)
    assert bench.clock.monotonic() >= 60
    bench.tools.busy = {}
    assert bench.carry(run).state == "done"


@pytest.mark.parametrize("by", [10 * 365 * 86_400, -10 * 365 * 86_400])
def test_a_wall_clock_that_jumps_moves_no_deadline(bench: Any, by: float) -> None:
    bench.tools.busy = {"tool-1": 3}
    bench.tools.after_apply = lambda change: bench.clock.jump(by)
    run = bench.init()
    assert run.state == "done"
    assert 0 <= run.seconds < 60
    bench.tools.busy = {"tool-1": 10**6}
    began, run = bench.clock.monotonic(), bench.start()
    with pytest.raises(NotSettled):
        bench.carry(run)
    assert 60 <= bench.clock.monotonic() - began < 75


def test_a_listing_that_lags_is_waited_for_and_nothing_is_asked_twice(bench: Any) -> None:
    bench.tools.lag = 3
    assert bench.init().state == "done"
    assert sorted(key for _, key, _ in bench.tools.applied) == ["tool-1", "tool-2", "tool-3"]


def test_a_listing_that_nobody_asked_for_since_is_not_the_last_word_of_a_teardown(bench: Any) -> None:
    """An init dies after it has made something; an hour later the first answer may still be the one of before."""

    def die(change: Change) -> None:
        raise Killed

    bench.tools.marks = True
    bench.tools.lag = 3
    bench.tools.after_apply = die
    run = bench.start()
    with pytest.raises(Killed):
        bench.carry(run)
    assert bench.tools.things, "it was made"
    bench.tools.after_apply = lambda change: None
    bench.clock.advance(3600)
    bench.journal().moved(run.id, "abandoned", bench.clock.now())
    assert bench.teardown().state == "done"
    assert bench.tools.things == {}


def test_a_listing_that_hides_what_a_teardown_put_back_is_not_the_last_word_of_an_init(bench: Any) -> None:
    """Found by hypothesis: the init saw its own old change, believed that nothing was to do, and was done."""
    for key in ("tool-1", "tool-2"):
        bench.tools.things[key] = Sysctl(key, "0")
    bench.init()

    def refuse(change: Change) -> None:
        if change.key == "tool-1":
            raise CloudError("no tool-1 today")

    bench.tools.lag, bench.tools.before_apply, bench.tools.busy = 2, refuse, {"tool-3": 1}
    teardown = bench.start("nothing", "teardown")
    with pytest.raises(CloudError):
        bench.carry(teardown)
    assert bench.tools.things["tool-2"] == Sysctl("tool-2", "0")
    bench.journal().moved(teardown.id, "abandoned", bench.clock.now())
    bench.tools.before_apply = lambda change: None
    bench.init()
    assert bench.tools.things["tool-2"] == Sysctl("tool-2", "1")


def test_a_full_disk_stops_before_the_act_and_the_same_command_goes_on(bench: Any) -> None:
    run = bench.start()
    journal = bench.journal()
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    bulky = Change("tools", "k" * 20000, Verb.CREATE, Sysctl("k", "1"), None)
    with pytest.raises(StoreError, match="cannot be written"):
        journal.intend(run, {"token": bulky}, bench.clock.now())
    assert journal.operations(run.id) == [], "nothing half-written"
    journal._db.execute("PRAGMA max_page_count = 1000000")
    assert bench.carry(run).state == "done"


POINTS = ("moved", "enter", "intend", "conclude", "looked", "settle")
"""Every method of the journal that writes during a run."""


def _kill(monkeypatch: pytest.MonkeyPatch, nth: int) -> list[str]:
    """Die at the nth moment: before or after the nth write of the journal."""
    seen: list[str] = []

    def wrap(name: str) -> None:
        original = getattr(Journal, name)

        def wrapped(self: Journal, *args: Any, **kwargs: Any) -> Any:
            _step(f"before {name}")
            result = original(self, *args, **kwargs)
            _step(f"after {name}")
            return result

        monkeypatch.setattr(Journal, name, wrapped)

    def _step(what: str) -> None:
        seen.append(what)
        if len(seen) == nth:
            raise Killed(what)

    for name in POINTS:
        wrap(name)
    return seen


@pytest.mark.parametrize("workflow", ["init", "teardown"])
def test_killed_at_every_write_of_the_journal_the_world_ends_the_same(
    bench: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, workflow: str
) -> None:
    kind = type(bench)

    def fresh(name: str) -> Any:
        one = kind(tmp_path / name)
        one.lamps.marks = True
        one.tools.things["foreign"] = Sysctl("foreign", "7", ours=False)
        one.tools.things["tool-1"] = Sysctl("tool-1", "0")  # there before us, with another value
        if workflow == "teardown":
            one.init()
        return one

    def start(one: Any) -> Any:
        return one.start() if workflow == "init" else one.start("nothing", "teardown")

    undisturbed = fresh("undisturbed.db")
    with monkeypatch.context() as patch:
        seen = _kill(patch, -1)
        undisturbed.carry(start(undisturbed))
        moments = len(seen)
    assert moments > 20
    assert undisturbed.tools.things["foreign"] == Sysctl("foreign", "7")
    if workflow == "teardown":
        assert undisturbed.tools.things == {"foreign": Sysctl("foreign", "7"), "tool-1": Sysctl("tool-1", "0")}
        assert undisturbed.lamps.things == {}
    for nth in range(1, moments + 1):
        one = fresh(f"{nth}.db")
        run = start(one)
        with monkeypatch.context() as patch:
            _kill(patch, nth)
            with pytest.raises(Killed):
                one.carry(run)
        assert one.carry(run).state == "done"
        assert one.tools.things == undisturbed.tools.things, nth
        assert one.lamps.things == undisturbed.lamps.things, nth
        assert one.journal().ledger() == undisturbed.journal().ledger(), nth


def test_the_ledger_tells_what_we_made_from_what_we_found(bench: Any) -> None:
    bench.tools.things["tool-1"] = Sysctl("tool-1", "0")
    bench.init()
    ledger = bench.journal().ledger()
    assert ledger["tools", "tool-1"].origin is Origin.FOUND
    assert ledger["tools", "tool-1"].before == Sysctl("tool-1", "0")
    assert ledger["tools", "tool-2"].origin is Origin.CREATED
    bench.teardown()
    assert bench.tools.things == {"tool-1": Sysctl("tool-1", "0")}
    assert bench.journal().ledger() == {}
    assert bench.journal().lineage() == ""


def test_the_same_wish_has_the_same_token_until_it_came_true(bench: Any) -> None:
    def vanish(change: Change) -> None:
        raise CloudTransient("the answer was lost")

    bench.lamps.after_apply = vanish
    bench.lamps.lag = 10**6
    run = bench.start()
    with pytest.raises(NotSettled, match="the answer was lost"):
        bench.carry(run)
    tokens = {token for _, _, token in bench.lamps.applied}
    assert len(bench.lamps.applied) > 1
    assert len(tokens) == 1, "asking twice is asking once"

    bench.lamps.lag = 0
    bench.lamps.after_apply = lambda change: None
    bench.carry(run)
    del bench.lamps.things["lamp"]  # lost after it came to rest: another wish
    bench.init()
    assert len({token for _, _, token in bench.lamps.applied}) == 2


def test_a_step_that_prunes_deletes_only_what_is_ours(bench: Any) -> None:
    bench.prune = True
    bench.tools.things = {
        "old": Sysctl("old", "1", ours=True),
        "foreign": Sysctl("foreign", "1", ours=False),
        "unmarked": Sysctl("unmarked", "1"),
    }
    bench.init()
    assert sorted(bench.tools.things) == ["foreign", "tool-1", "tool-2", "tool-3", "unmarked"]


def test_a_later_step_reads_what_an_earlier_one_wrote_down(bench: Any) -> None:
    bench.init()
    assert bench.lamps.things["lamp"] == Sysctl("lamp", "3")
    settled = [event for event in bench.events if isinstance(event, StepSettled)]
    assert [(event.step, event.changes) for event in settled] == [("tools", 3), ("lamps", 1)]


def test_comparing_changes_nothing(bench: Any) -> None:
    from cocoon_net.engine.model import Context

    cx = Context(bench.start().spec, None, {}, "l", bench.clock.now())
    looks = bench.runner().compare(bench.plan(), cx)
    assert [len(look.changes) for look in looks] == [3, 1]
    assert bench.tools.applied == bench.lamps.applied == []


@pytest.mark.parametrize(("error", "least"), [(CloudThrottled, 0.0), (CloudTransient, 0.5)])
def test_all_of_a_pause_is_left_to_chance_when_the_cloud_throttles(
    bench: Any, error: type[Exception], least: float
) -> None:
    """Full jitter: the nodes that were refused at one moment do not come back at one moment."""
    drawn: list[float] = []

    class Dice(random.Random):
        def uniform(self, a: float, b: float) -> float:
            drawn.append(a)
            return super().uniform(a, b)

    looks = iter([error("asked too often")] * 3)
    observe = bench.tools.observe

    def refuse(cx: Any) -> Any:
        if (refusal := next(looks, None)) is not None:
            raise refusal
        return observe(cx)

    bench.tools.observe = refuse
    runner = bench.runner()
    runner._rng = Dice(1)
    run = bench.start()
    assert runner.carry(bench.journal().run(run.id)).state == "done"
    assert drawn[:3] == [least] * 3
