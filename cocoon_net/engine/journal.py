"""The journal and the ledger: the only memory of the engine.

Rules it keeps: the intent is committed before the act and the outcome after it; a step's rows, its settling and the
move of the machine are one transaction; nothing here decides anything.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cocoon_net.engine.answers import Answers
from cocoon_net.engine.history import Deed, History
from cocoon_net.engine.machine import ABANDONED, DONE, PLANNED
from cocoon_net.engine.model import Ledger, Origin, Row
from cocoon_net.engine.operations import Operations, decoded, encoded, stamp
from cocoon_net.engine.workflow import Plan
from cocoon_net.errors import CocoonError, WorldError
from cocoon_net.records import Instance, decode, encode
from cocoon_net.spec import Spec
from cocoon_net.store import reading

if TYPE_CHECKING:
    from sqlite_utils import Database


@dataclass(frozen=True, slots=True)
class Run:
    """A run as its row says."""

    id: str
    workflow: str
    lineage: str
    state: str
    reason: Mapping[str, Any]
    """Why it is parked: ``error``, ``message``, ``hint``, ``step``, ``key``, ``code``; empty when it is not."""
    spec: Spec
    instance: Instance | None
    plan: Plan
    version: str
    started_by: str
    started_at: str
    updated_at: str
    seconds: float

    @property
    def ended(self) -> bool:
        """Whether it is done or abandoned."""
        return self.state in (DONE, ABANDONED)


class Journal(Operations):
    """Reads and writes runs, visits, operations, the ledger and the history. Used from one thread."""

    def __init__(self, database: Database, by: str = "", guard: Callable[[], None] = lambda: None) -> None:
        """``by`` is who acts, for the history: ``alice, pid 71``; ``guard`` as ``Operations`` takes it."""
        super().__init__(database, guard)
        self.history = History(database, by)
        self.answers = Answers(database)

    def record(self, what: Deed, now: datetime, *, run: Run | None = None, by: str = "", **details: Any) -> None:
        """Enter a deed into the history: who (``by``, else whose journal it is) did what, to which run, with what.

        ``details`` are JSON-ready: the reason given, the spec, what was chosen.
        """
        about = {"run": run.id, "workflow": run.workflow, "lineage": run.lineage} if run else {}
        with self.transaction():
            self.history.add(what, stamp(now), by=by, details=details, **about)

    # Runs

    def start(self, plan: Plan, spec: Spec, instance: Instance | None, *, version: str, by: str, now: datetime) -> Run:
        """Write a new run down, in the lineage that is open or in a new one, and return it."""
        lineage = self.lineage() or secrets.token_hex(8)
        run = f"{plan.name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        with self.transaction():
            self._db.table("meta").upsert({"name": "lineage", "value": lineage}, pk="name")
            self._db.table("runs").insert(
                {
                    "id": run,
                    "workflow": plan.name,
                    "lineage": lineage,
                    "state": PLANNED,
                    "spec": json.dumps(spec.as_json()),
                    "instance": json.dumps(encode(instance)) if instance else None,
                    "plan": json.dumps(plan.as_json()),
                    "version": version,
                    "started_by": by,
                    "started_at": stamp(now),
                    "updated_at": stamp(now),
                }
            )
            self.record(Deed.STARTED, now, run=self.run(run), by=by, spec=spec.as_json())
        return self.run(run)

    def lineage(self) -> str:
        """Return the lineage that is open, empty when a teardown ended the last one."""
        return self.note("lineage")

    @reading("the notes of this node")
    def note(self, name: str) -> str:
        """Return a small fact of this node (table ``meta``), empty when it was never noted."""
        rows = list(self._db.query("SELECT value FROM meta WHERE name = ?", [name]))
        return str(rows[0]["value"]) if rows else ""

    def run(self, run: str) -> Run:
        """Return the run of this id; KeyError if there is none."""
        with reading("the runs"):
            found = [_run(row) for row in self._db.query("SELECT * FROM runs WHERE id = ?", [run])]
        if not found:
            raise KeyError(run)
        return found[0]

    @reading("the runs")
    def runs(self) -> list[Run]:
        """Return all runs, the newest first."""
        return [_run(row) for row in self._db.query("SELECT * FROM runs ORDER BY rowid DESC")]

    @reading("the runs")
    def unfinished(self) -> Run | None:
        """Return the run that is neither done nor abandoned; there is at most one."""
        rows = self._db.query(
            "SELECT * FROM runs WHERE state NOT IN (?, ?) ORDER BY rowid DESC LIMIT 1", [DONE, ABANDONED]
        )
        return next((_run(row) for row in rows), None)

    def latest(self, *workflows: str) -> Run | None:
        """Return the newest run of these workflows that is done."""
        return next((run for run in self.runs() if run.workflow in workflows and run.state == DONE), None)

    def moved(self, run: str, state: str, now: datetime, why: str = "") -> None:
        """Write the machine's new state down; a teardown that is done and left nothing ends the lineage.

        With the end of a run the history is extended, with the operator's reason, and pruned by its rule.
        """
        with self.transaction():
            self._db.execute(
                "UPDATE runs SET state = ?, reason = '', updated_at = ? WHERE id = ?", [state, stamp(now), run]
            )
            if state == DONE:
                self._db.execute(
                    "DELETE FROM meta WHERE name = 'lineage' AND EXISTS "
                    "(SELECT 1 FROM runs WHERE id = ? AND workflow = 'teardown') AND NOT EXISTS (SELECT 1 FROM ledger)",
                    [run],
                )
            if state in (DONE, ABANDONED):
                deed = Deed.DONE if state == DONE else Deed.ABANDONED
                ended = self.run(run)
                told = {"why": why} if why else {}
                self.record(deed, now, run=ended, by=self.history.by or ended.started_by, **told)
                self.history.prune(stamp(now))

    def park(
        self,
        run: str,
        step: str,
        error: CocoonError,
        calls: Mapping[tuple[str, str], int],
        seconds: float,
        now: datetime,
    ) -> None:
        """Note why a run stopped short, in its row and in the step's, and what the look that it stopped in has cost."""
        reason = {
            "error": type(error).__name__,
            "message": error.message,
            "hint": error.hint,
            "step": step,
            "key": error.key if isinstance(error, WorldError) else "",
            "code": error.code if isinstance(error, WorldError) else "",
            "exit_code": error.exit_code,
            "at": stamp(now),
        }
        with self.transaction():
            self._db.execute(
                "UPDATE runs SET reason = ?, updated_at = ? WHERE id = ?", [json.dumps(reason), stamp(now), run]
            )
            self._db.execute(
                "UPDATE visits SET error = ?, next_look_at = '' WHERE run = ? AND step = ?",
                [json.dumps(reason), run, step],
            )
            self._count(run, step, calls)
            self._spent(run, step, seconds)

    # Steps

    def enter(self, run: str, step: str, now: datetime) -> None:
        """Note that a run looks at a step, for the first time or again."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO visits (run, step, entered_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                [run, step, stamp(now)],
            )

    def looked(self, run: str, step: str, waiting: str, calls: Mapping[tuple[str, str], int], again: datetime) -> None:
        """Count a look at a step that is not at rest, what it waits for, what it cost, and when the next one is due."""
        with self.transaction():
            self._db.execute(
                "UPDATE visits SET looks = looks + 1, waiting = ?, next_look_at = ? WHERE run = ? AND step = ?",
                [waiting, stamp(again), run, step],
            )
            self._count(run, step, calls)

    def settle(
        self,
        run: str,
        step: str,
        rows: Sequence[Row],
        calls: Mapping[tuple[str, str], int],
        seconds: float,
        now: datetime,
    ) -> None:
        """Write down what a step looks after now that it is at rest: its rows replace those it had."""
        self._db.execute("DELETE FROM ledger WHERE step = ?", [step])
        for row in rows:
            self._db.execute(
                "INSERT INTO ledger (step, key, origin, record, before, updated_at) VALUES (?, ?, ?, ?, ?, ?)",
                [row.step, row.key, row.origin.value, encoded(row.record), encoded(row.before), stamp(now)],
            )
        self._db.execute("UPDATE operations SET settled = 1 WHERE step = ? AND settled = 0", [step])
        self._db.execute(
            "UPDATE operations SET outcome = 'resolved' WHERE step = ? AND outcome IN ('pending', 'unknown')", [step]
        )
        self._db.execute(
            "UPDATE visits SET settled_at = ?, looks = looks + 1, waiting = '', next_look_at = '', error = '' "
            "WHERE run = ? AND step = ?",
            [stamp(now), run, step],
        )
        self._spent(run, step, seconds)
        self._count(run, step, calls)

    def skip(self, run: str, step: str, why: str, by: str, now: datetime) -> None:
        """Note in the visit of a step that the operator went past it; the ledger keeps what is known of it."""
        self.enter(run, step, now)
        skipped = json.dumps({"by": by, "why": why, "at": stamp(now)})
        self._db.execute(
            "UPDATE visits SET skipped = ?, next_look_at = '' WHERE run = ? AND step = ?", [skipped, run, step]
        )

    @reading("the ledger")
    def ledger(self) -> Ledger:
        """Return all that we look after."""
        rows = self._db.query("SELECT step, key, origin, record, before FROM ledger")
        return {
            (row["step"], row["key"]): Row(
                row["step"],
                row["key"],
                Origin(row["origin"]),
                decode(json.loads(row["record"])),
                decoded(row["before"]),
            )
            for row in rows
        }

    # What `workflow show` reads

    @reading("the steps of a run")
    def visits(self, run: str) -> dict[str, dict[str, Any]]:
        """Return step -> its visit's columns."""
        return {row["step"]: row for row in self._db.query("SELECT * FROM visits WHERE run = ?", [run])}

    @reading("the steps of a run")
    def skipped(self, run: str) -> frozenset[str]:
        """Return the steps of a run that the operator went past."""
        rows = self._db.query("SELECT step FROM visits WHERE run = ? AND skipped <> ''", [run])
        return frozenset(row["step"] for row in rows)

    @reading("the calls of a run")
    def calls(self, run: str) -> dict[str, int]:
        """Return action -> how often the run asked the cloud for it."""
        rows = self._db.query("SELECT action, sum(count) AS n FROM calls WHERE run = ? GROUP BY action", [run])
        return {row["action"]: int(row["n"]) for row in rows}

    @reading("the calls of a run")
    def refusals(self, run: str) -> dict[tuple[str, str], int]:
        """Return (action, code) -> how often the cloud answered a run so; successes are left out."""
        rows = self._db.query(
            "SELECT action, code, sum(count) AS n FROM refused_calls WHERE run = ? GROUP BY action, code", [run]
        )
        return {(row["action"], row["code"]): int(row["n"]) for row in rows}

    def _count(self, run: str, step: str, calls: Mapping[tuple[str, str], int]) -> None:
        self.answers.add(calls)
        for (action, code), count in calls.items():
            self._db.execute(
                "INSERT INTO calls (run, step, action, count) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (run, step, action) DO UPDATE SET count = count + excluded.count",
                [run, step, action, count],
            )
            if code:
                self._db.execute(
                    "INSERT INTO refused_calls (run, step, action, code, count) VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT (run, step, action, code) DO UPDATE SET count = count + excluded.count",
                    [run, step, action, code, count],
                )

    def _spent(self, run: str, step: str, seconds: float) -> None:
        self._db.execute("UPDATE visits SET seconds = seconds + ? WHERE run = ? AND step = ?", [seconds, run, step])
        self._db.execute("UPDATE runs SET seconds = seconds + ? WHERE id = ?", [seconds, run])


def _run(row: dict[str, Any]) -> Run:
    plan = Plan.from_json(json.loads(row["plan"]))
    if row["state"] not in (PLANNED, DONE, ABANDONED, *(stage.name for stage in plan.stages)):
        raise ValueError(f"{row['id']} stands in {row['state']!r}, which is no state of it")
    return Run(
        id=row["id"],
        workflow=row["workflow"],
        lineage=row["lineage"],
        state=row["state"],
        reason=json.loads(row["reason"]) if row["reason"] else {},
        spec=Spec.from_json(json.loads(row["spec"])),
        instance=decode(json.loads(row["instance"])) if row["instance"] else None,
        plan=plan,
        version=row["version"],
        started_by=row["started_by"],
        started_at=row["started_at"],
        updated_at=row["updated_at"],
        seconds=row["seconds"],
    )
