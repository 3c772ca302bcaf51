"""The operator's hand on a run: skip the step in which it stands, and say what became of an operation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cocoon_net import pending, runs
from cocoon_net.engine.model import Change, Origin
from cocoon_net.errors import CloudError, CloudTransient, NotSettled, SpecError
from cocoon_net.records import Sysctl


@pytest.fixture
def desk(bench: Any) -> Any:
    """The operator's desk on the bench's database; what is said is kept."""
    said: list[str] = []
    return SimpleNamespace(journal=bench.journal(), clock=bench.clock, say=said.append, said=said)


def refuse(change: Change) -> None:
    if change.key == "tool-2":
        raise CloudError("no tool-2 today")


def lose(change: Change) -> None:
    raise CloudTransient("the answer was lost")


def parked(bench: Any, hook: str, how: Any, error: type[Exception]) -> Any:
    setattr(bench.tools, hook, how)
    run = bench.start()
    with pytest.raises(error):
        bench.carry(run)
    setattr(bench.tools, hook, lambda change: None)
    return run


def test_only_the_state_in_which_a_run_stands_can_be_skipped(bench: Any, desk: Any) -> None:
    with pytest.raises(SpecError, match="no unfinished run"):
        runs.skip(desk, "tools", "x")
    run = bench.start()
    with pytest.raises(SpecError, match="has not begun"):
        runs.skip(desk, "tools", "x")
    parked_in = parked(bench, "before_apply", refuse, CloudError)
    with pytest.raises(SpecError, match="stands in 'tools': 'lamps' cannot be skipped"):
        runs.skip(desk, "lamps", "x")
    assert bench.journal().run(parked_in.id).state == "tools"
    assert run.id != parked_in.id


def test_a_skipped_step_is_noted_with_who_and_why_and_its_rows_stay(bench: Any, desk: Any) -> None:
    run = parked(bench, "before_apply", refuse, CloudError)
    before = bench.journal().ledger()
    assert runs.skip(desk, "tools", "the vendor looks at it").state == "lamps"
    visit = bench.journal().visits(run.id)["tools"]
    assert "the vendor looks at it" in visit["skipped"]
    assert visit["settled_at"] is None
    assert bench.journal().ledger() == before
    assert bench.carry(run).state == "done"
    skipped = [entry for entry in bench.journal().history.entries() if entry.what == "skipped"]
    assert [(one.run, one.details) for one in skipped] == [(run.id, {"step": "tools", "why": "the vendor looks at it"})]
    bench.teardown()
    assert bench.tools.things == {}, "what it made is not forgotten"


def test_a_teardown_that_skipped_something_does_not_end_the_lineage(bench: Any, desk: Any) -> None:
    bench.init()
    bench.tools.before_apply = refuse
    run = bench.start("nothing", "teardown")
    with pytest.raises(CloudError):
        bench.carry(run)
    runs.skip(desk, "tools", "somebody deletes it by hand")
    assert bench.journal().run(run.id).state == "done"
    assert bench.journal().lineage() == run.lineage, "the next teardown knows what was left"
    bench.tools.before_apply = lambda change: None
    bench.teardown()
    assert bench.tools.things == {}
    assert bench.journal().lineage() == ""


def test_an_unknown_outcome_is_listed_once_however_often_it_was_asked(bench: Any, desk: Any) -> None:
    bench.tools.lag = 10**6
    run = parked(bench, "after_apply", lose, NotSettled)
    assert len(bench.journal().operations(run.id)) > 3
    rows = pending.pending(bench.journal())
    assert [(row["key"], row["verb"], row["outcome"]) for row in rows] == [
        (f"tool-{n}", "create", "unknown") for n in (1, 2, 3)
    ]
    assert rows[0]["wanted"]["name"] == "tool-1"
    assert rows[0]["message"] == "the answer was lost"
    assert rows[0]["type"] == [
        "cocoon-net workflow retry",
        f"cocoon-net workflow resolve {rows[0]['op']} --retry",
        f"cocoon-net workflow resolve {rows[0]['op']} --forget",
    ]
    bench.tools.lag = 0
    bench.carry(run)
    assert pending.pending(bench.journal()) == [], "the next look told"


def test_what_the_newest_run_left_open_comes_first(bench: Any, desk: Any) -> None:
    bench.lamps.before_apply = lose
    first = bench.start()
    with pytest.raises(NotSettled):
        bench.carry(first)
    runs.abandon(desk, first)
    del bench.tools.things["tool-1"]
    second = parked(bench, "before_apply", lose, NotSettled)
    assert [(row["run"], row["key"]) for row in pending.pending(bench.journal())] == [
        (second.id, "tool-1"), (first.id, "lamp"),
    ]  # fmt: skip


def test_a_remembered_token_whose_thing_is_gone_is_left_behind_by_retry(bench: Any, desk: Any) -> None:
    """The cloud answers the old token with success, and nothing appears: no look gets past that by itself."""
    run = bench.start()
    bench.tools.tokens = _Remembering()
    with pytest.raises(NotSettled, match="to show its create"):
        bench.carry(run)
    with pytest.raises(NotSettled):
        bench.carry(run)
    for row in pending.pending(bench.journal()):
        assert "new wish" in pending.wish_anew(desk, row["op"])
    assert pending.pending(bench.journal()) == [], "the operator has spoken"
    bench.tools.tokens = {token: "old" for _, _, token in bench.tools.applied}
    assert bench.carry(run).state == "done"
    assert len(bench.tools.things) == 3
    assert [e.details["how"] for e in bench.journal().history.entries() if e.what == "resolved"] == ["retry"] * 3


class _Remembering(dict[str, str]):
    """A cloud that made each thing of a token long ago; somebody has deleted it since."""

    def __contains__(self, token: object) -> bool:
        return True


def test_what_is_forgotten_is_not_taken_for_ours_when_somebody_makes_it(bench: Any, desk: Any) -> None:
    run = parked(bench, "before_apply", lose, NotSettled)
    operation = {row["key"]: row["op"] for row in pending.pending(bench.journal())}["tool-2"]
    assert "names tool-2 no more" in pending.forget(desk, operation)
    assert ("tools", "tool-2") not in bench.journal().ledger()
    assert bench.journal().ledger()["tools", "tool-1"].origin is Origin.CREATED
    with pytest.raises(SpecError, match=f"no operation {operation} whose outcome is unknown"):
        pending.forget(desk, operation)
    bench.tools.things["tool-2"] = Sysctl("tool-2", "1")  # the operator makes it himself
    bench.carry(run)
    bench.teardown()
    assert bench.tools.things == {"tool-2": Sysctl("tool-2", "1")}


def test_of_a_thing_that_was_there_before_us_the_ledger_keeps_how_it_was(bench: Any, desk: Any) -> None:
    bench.tools.things["tool-2"] = Sysctl("tool-2", "0")
    run = parked(bench, "before_apply", lambda change: lose(change) if change.verb == "update" else None, NotSettled)
    (row,) = pending.pending(bench.journal())
    assert (row["key"], row["verb"]) == ("tool-2", "update")
    assert "the ledger stays as it is" in pending.forget(desk, row["op"])
    bench.carry(run)
    bench.teardown()
    assert bench.tools.things == {"tool-2": Sysctl("tool-2", "0")}, "as it was before us"


def test_only_what_has_an_id_can_be_adopted(bench: Any, desk: Any) -> None:
    bench.tools.lag = 10**6
    parked(bench, "after_apply", lose, NotSettled)
    operation = pending.pending(bench.journal())[0]["op"]
    with pytest.raises(SpecError, match="only a subnet or an interface"):
        pending.adopt(desk, operation, "eni-abc")


def test_giving_up_is_entered_with_its_reason(bench: Any, desk: Any) -> None:
    run = parked(bench, "before_apply", refuse, CloudError)
    runs.abandon(desk, runs.unfinished(desk), "the quota does not come")
    last = bench.journal().history.entries()[-1]
    assert (last.what, last.run, last.details) == ("abandoned", run.id, {"why": "the quota does not come"})
