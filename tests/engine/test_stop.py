"""Stories of a run that is stopped, or that stumbles in the middle of its changes: what is known is written down."""

from __future__ import annotations

from typing import Any

import pytest

from cocoon_net.engine import runner
from cocoon_net.engine.journal import Journal
from cocoon_net.engine.model import Change, Origin
from cocoon_net.errors import (
    CloudError,
    CloudNotAsked,
    CloudTransient,
    InvariantError,
    Locked,
    NotSettled,
    Refused,
    StoreError,
)
from cocoon_net.events import ChangeApplied
from cocoon_net.locks import locked, unlock
from cocoon_net.pending import pending
from cocoon_net.records import Sysctl


def outcomes(bench: Any, run: Any) -> dict[str, str]:
    return {row["key"]: row["outcome"] for row in bench.journal().operations(run.id)}


def fail(key: str, error: BaseException) -> Any:
    def apply(change: Change) -> None:
        if change.key == key:
            raise error

    return apply


def test_a_refusal_in_the_middle_leaves_no_outcome_open(bench: Any) -> None:
    bench.tools.before_apply = fail("tool-2", Refused("denied", hint="give the role a policy"))
    run = bench.start()
    with pytest.raises(Refused):
        bench.carry(run)
    assert outcomes(bench, run) == {"tool-1": "done", "tool-2": "failed", "tool-3": "done"}
    assert bench.journal().run(run.id).reason["error"] == "Refused"


def test_a_bug_in_the_middle_parks_the_run_and_nobody_can_say_what_became_of_it(bench: Any) -> None:
    bench.tools.after_apply = fail("tool-2", KeyError("NetworkInterfaceId"))
    run = bench.start()
    with pytest.raises(InvariantError, match=r"'tools' failed by a bug: KeyError: 'NetworkInterfaceId'"):
        bench.carry(run)
    assert outcomes(bench, run) == {"tool-1": "done", "tool-2": "unknown", "tool-3": "done"}
    assert bench.journal().run(run.id).reason["exit_code"] == 70
    bench.tools.after_apply = lambda change: None
    assert bench.carry(run).state == "done"


def test_an_interrupt_in_the_middle_waits_for_what_is_under_way_and_writes_it_down(bench: Any) -> None:
    run, journal = bench.start(), bench.journal()
    carrier = bench.runner(journal)

    interrupts = iter([KeyboardInterrupt()])

    def interrupt(event: ChangeApplied) -> None:
        if error := next(interrupts, None):
            raise error

    carrier._bus.subscribe(ChangeApplied, interrupt)
    with pytest.raises(NotSettled, match="by a signal"):
        carrier.carry(run)
    assert outcomes(bench, run) == {"tool-1": "done", "tool-2": "done", "tool-3": "done"}


def test_an_outcome_that_finds_no_room_costs_only_itself(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Journal.conclude
    full = iter([StoreError("disk full")])

    def conclude(self: Journal, *args: Any, **kwargs: Any) -> None:
        if error := next(full, None):
            raise error
        original(self, *args, **kwargs)

    monkeypatch.setattr(Journal, "conclude", conclude)
    run = bench.start()
    with pytest.raises(StoreError):
        bench.carry(run)
    assert sorted(outcomes(bench, run).values()) == ["done", "done", "pending"]
    assert bench.carry(run).state == "done"


def test_asked_to_stop_it_finishes_the_call_begins_nothing_new_and_parks(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "SIDE_BY_SIDE", 1)

    def ask(change: Change) -> None:
        bench.stop.asked = "SIGTERM"

    bench.tools.before_apply = ask
    run = bench.start()
    with pytest.raises(NotSettled, match="stopped by SIGTERM in 'tools'") as raised:
        bench.carry(run)
    assert "run init --resume" in raised.value.hint
    assert raised.value.exit_code == 75
    assert [key for _, key, _ in bench.tools.applied] == ["tool-1"]
    assert outcomes(bench, run) == {"tool-1": "done", "tool-2": "not begun", "tool-3": "not begun"}
    messages = {row["key"]: row["message"] for row in bench.journal().operations(run.id)}
    assert messages["tool-3"] == "not begun: SIGTERM came first"
    assert bench.journal().run(run.id).reason["message"].startswith("stopped by SIGTERM")
    bench.stop.asked, bench.tools.before_apply = "", lambda change: None
    assert bench.carry(run).state == "done"


def test_a_call_whose_turn_never_came_was_not_begun(bench: Any) -> None:
    """Asked to stop while it waits until the API may be asked: nothing of it is in doubt afterwards."""

    def wait(change: Change) -> None:
        bench.stop.asked = "SIGTERM"
        raise CloudNotAsked("not asked: SIGTERM came while the API was not to be asked so often")

    bench.tools.before_apply = wait
    run = bench.start()
    with pytest.raises(NotSettled, match="stopped by SIGTERM in 'tools'"):
        bench.carry(run)
    assert set(outcomes(bench, run).values()) == {"not begun"}
    assert pending(bench.journal()) == []


@pytest.mark.parametrize("error", [CloudNotAsked("not asked: SIGTERM came first"), CloudError("no", code="Quota")])
def test_what_was_lost_stays_in_doubt_when_the_second_call_is_not_made_or_refused(bench: Any, error: Exception) -> None:
    """The answer to a first call was lost; what comes of asking again says nothing about what it did."""
    bench.tools.lag = 10**6

    def lose(change: Change) -> None:
        bench.tools.before_apply = again
        raise CloudTransient("the answer was lost", code="timeout")

    def again(change: Change) -> None:
        if len(bench.tools.applied) == 3:
            bench.stop.asked = "SIGTERM"
            raise error

    bench.tools.after_apply = lose
    run = bench.start()
    with pytest.raises(NotSettled if isinstance(error, CloudNotAsked) else CloudError):
        bench.carry(run)
    assert len(bench.tools.things) == 3, "all three were made"
    doubted = pending(bench.journal())
    assert [(row["key"], row["outcome"]) for row in doubted] == [(f"tool-{n}", "unknown") for n in (1, 2, 3)]
    operator = Journal(bench.journal()._db, "an operator")
    row = next(row for row in operator.unknown() if row["key"] == "tool-1")
    assert operator.forget(row), "the ledger foresaw it"
    assert ("tools", "tool-1") not in operator.ledger()
    assert [row["key"] for row in pending(operator)] == ["tool-2", "tool-3"]


def test_a_second_call_that_may_have_acted_answers_for_the_first(bench: Any) -> None:
    bench.tools.lag = 10**6

    def lose(change: Change) -> None:
        bench.stop.asked = "SIGTERM" if len(bench.tools.applied) >= 6 else ""
        raise CloudTransient("the answer was lost", code="timeout")

    bench.tools.after_apply = lose
    run = bench.start()
    with pytest.raises(NotSettled):
        bench.carry(run)
    assert len(bench.journal().operations(run.id)) == 6
    ids = [row["op"] for row in pending(bench.journal())]
    assert len(ids) == 3 and min(ids) > 3, "a line for each wish: its last"


def test_a_teardown_does_not_wait_for_what_was_never_begun(bench: Any) -> None:
    run, journal = bench.start(), bench.journal()
    original = journal.intend

    def intend(*args: Any, **more: Any) -> Any:
        ids = original(*args, **more)
        bench.stop.asked = "SIGTERM"
        return ids

    journal.intend = intend
    with pytest.raises(NotSettled):
        bench.runner(journal).carry(run)
    assert set(outcomes(bench, run).values()) == {"not begun"}
    bench.stop.asked = ""
    bench.journal().moved(run.id, "abandoned", bench.clock.now())
    assert bench.teardown().state == "done"
    assert bench.clock.monotonic() < 1


def test_a_run_that_waits_stops_at_once_and_says_what_it_waited_for(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.tools.busy = {"tool-1": 10**6}
    original = bench.clock.sleep

    def sleep(seconds: float) -> None:
        original(seconds)
        if bench.clock.monotonic() > 20:
            bench.stop.asked = "SIGINT"

    monkeypatch.setattr(bench.clock, "sleep", sleep)
    run = bench.start()
    with pytest.raises(NotSettled, match="stopped by SIGINT in 'tools', which waits for tool-1 to rest"):
        bench.carry(run)
    assert bench.clock.monotonic() < 20.5, "not at the end of a pause of up to five seconds"


def test_asked_during_a_look_it_changes_nothing(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = bench.tools.observe

    def observe(cx: Any) -> Any:
        bench.stop.asked = "SIGTERM"
        return original(cx)

    monkeypatch.setattr(bench.tools, "observe", observe)
    run = bench.start()
    with pytest.raises(NotSettled):
        bench.carry(run)
    assert bench.tools.applied == []
    assert outcomes(bench, run) == {}


def test_who_loses_the_lock_in_a_transaction_does_not_commit_it_and_begins_no_other(bench: Any) -> None:
    run, path, begun = bench.start(), bench.path.with_name("run.lock"), []
    with locked(path, what="x", owner="init") as lock:
        journal = Journal(bench.journal()._db, "a test", lock.require)
        with pytest.raises(Locked, match="taken away by the operator"), journal.transaction():
            journal._db.execute("UPDATE runs SET state = 'done'")
            unlock(path, lock.holder.id, by="the operator")
        assert journal.run(run.id).state == "planned"
        with pytest.raises(Locked), journal.transaction():
            begun.append(run)
    assert begun == []


def test_the_next_look_is_written_down_before_the_wait(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.tools.busy = {"tool-1": 3}
    told: list[tuple[str, str]] = []
    original = bench.clock.sleep

    def sleep(seconds: float) -> None:
        visit = next(iter(bench.journal().visits(run.id).values()))
        told.append((visit["waiting"], visit["next_look_at"]))
        original(seconds)

    monkeypatch.setattr(bench.clock, "sleep", sleep)
    run = bench.start()
    bench.carry(run)
    assert told[0][0] == "tool-1 to rest"
    assert told[0][1] > "2026-01-01T00:00:00"
    assert bench.journal().visits(run.id)["tools"]["next_look_at"] == "", "it waits no more"


def test_what_was_answered_and_never_seen_is_in_doubt(bench: Any) -> None:
    bench.tools.lag = 10**6
    run = bench.start()
    with pytest.raises(NotSettled, match="to show its create") as raised:
        bench.carry(run)
    assert "workflow pending" in raised.value.hint
    rows = pending(bench.journal())
    assert {(row["outcome"], row["message"]) for row in rows} == {("unknown", "answered with success and never seen")}
    assert len(rows) == 3


def test_a_thing_that_cannot_be_absent_is_never_entered_as_made_by_us(bench: Any) -> None:
    """A kernel setting that showed up late: it is not ours to delete, and a teardown does not wait for it to go."""
    bench.permanent = True
    bench.tools.after_apply = fail("tool-2", Refused("denied"))
    with pytest.raises(Refused):
        bench.init()
    assert {row.origin for row in bench.journal().ledger().values()} == {Origin.FOUND}
    unfinished = bench.journal().unfinished()
    bench.journal().moved(unfinished.id, "abandoned", bench.clock.now())
    bench.teardown()
    assert sorted(bench.tools.things) == ["tool-1", "tool-2", "tool-3"]
    assert bench.clock.monotonic() < 1
    assert bench.tools.things["tool-1"] == Sysctl("tool-1", "1")
