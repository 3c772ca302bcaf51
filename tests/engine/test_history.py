"""The history of a node: nothing is changed in it, and only what is old and past is ever forgotten."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import pytest

from cocoon_net import __version__
from cocoon_net.engine import history
from cocoon_net.engine.history import ENTRIES_KEPT, Deed
from cocoon_net.engine.journal import Journal


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE run_history SET by = 'nobody'",
        "DELETE FROM run_history WHERE run <> ''",
        "DELETE FROM run_history WHERE run = ''",
        "INSERT OR REPLACE INTO run_history SELECT id, at, what, 'nobody', version, run, workflow, lineage, details "
        "FROM run_history",
    ],
)
def test_an_entry_is_neither_changed_nor_deleted(bench: Any, statement: str) -> None:
    bench.start()
    journal = bench.journal()
    journal.record(Deed.COLLECTED, bench.clock.now(), node="pool")  # of no run, and so of no lineage
    before = journal.history.entries()
    with pytest.raises(sqlite3.IntegrityError, match="the history"):
        journal._db.execute(statement)
    assert journal.history.entries() == before != []


def test_it_tells_who_did_what_with_which_spec_and_version(bench: Any) -> None:
    run = bench.init()
    bench.journal().record(Deed.UNLOCKED, bench.clock.now(), by="alice, pid 7", why="the holder hung")
    started, done, unlocked = bench.journal().history.entries()
    assert (started.what, started.by, started.run, started.version) == ("started", "a test", run.id, __version__)
    assert started.details["spec"] == run.spec.as_json()
    assert (done.what, done.run, done.lineage) == ("done", run.id, run.lineage)
    assert (unlocked.what, unlocked.by, unlocked.details) == ("unlocked", "alice, pid 7", {"why": "the holder hung"})
    assert [entry.what for entry in bench.journal().history.entries(run=run.id)] == ["started", "done"]


def test_a_run_and_its_entry_are_one_commit(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history.History, "add", _fail)
    with pytest.raises(RuntimeError):
        bench.start()
    assert bench.journal().runs() == []


def test_old_ended_runs_are_forgotten_but_never_the_open_lineage_or_the_newest_of_a_workflow(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "RUNS_KEPT", 3)
    past = [run.id for _ in range(4) for run in (bench.init(), bench.teardown())]
    adopted = bench.carry(bench.start("spec", "adopt")).id
    present = [adopted, *(bench.init().id for _ in range(5))]
    kept = [run.id for run in bench.journal().runs()][::-1]
    assert kept[0] == past[-1], "the newest teardown, though of a lineage that has ended"
    assert kept[1:] == present, "all of the open lineage"
    journal = bench.journal()
    for table in ("visits", "operations"):
        assert {row["run"] for row in journal._db.query(f"SELECT run FROM {table}")} <= set(kept)
    forgotten = [run for entry in journal.history.entries() for run in entry.details.get("runs", [])]
    assert forgotten == past[:-1]


def test_of_lineages_that_have_ended_the_newest_runs_stay(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "RUNS_KEPT", 5)
    past = [run.id for _ in range(4) for run in (bench.init(), bench.teardown())]
    assert [run.id for run in bench.journal().runs()][::-1] == past[-5:]


def test_what_the_cloud_was_asked_is_counted_on_when_its_run_is_forgotten(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "RUNS_KEPT", 0)
    journal = bench.journal()
    first = bench.init()
    with journal.transaction():
        journal._count(first.id, "tools", {("CreateSubnet", ""): 2, ("CreateSubnet", "FlowLimitExceeded"): 1})
    before = journal.answers.read()
    assert before == {("CreateSubnet", ""): 2, ("CreateSubnet", "FlowLimitExceeded"): 1}
    bench.teardown()
    bench.init(), bench.teardown()
    assert first.id not in {run.id for run in bench.journal().runs()}
    assert journal.answers.read() == before


def test_the_history_is_pruned_only_beyond_its_newest_entries_and_the_open_lineage(bench: Any) -> None:
    ended, _ = bench.init(), bench.teardown()
    run = bench.init()
    journal = bench.journal()
    row = ["", json.dumps({}), ENTRIES_KEPT + 5]
    with journal.transaction():
        journal._db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?3) INSERT INTO run_history "
            "(at, what, by, version, run, workflow, lineage, details) "
            "SELECT '', 'unlocked', '', '', '', '', ?1, ?2 FROM n",
            row,
        )
    with pytest.raises(sqlite3.IntegrityError, match="the open lineage"):
        journal._db.execute("DELETE FROM run_history WHERE run = ?", [run.id])
    bench.init()
    assert [entry.what for entry in Journal(journal._db).history.entries(run=run.id)] == ["started", "done"]
    assert journal.history.entries(run=ended.id) == []
    (count,) = journal._db.execute("SELECT count(*) FROM run_history").fetchone()
    assert count == ENTRIES_KEPT + 2


def _fail(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("no room")
