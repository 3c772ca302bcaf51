"""The journal and the ledger: the only memory of the engine.

Rules it keeps: the intent is committed before the act and the outcome after it; a step's rows, its settling and the
move of the machine are one transaction; nothing here decides anything.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cocoon_net.engine.history import Deed, History
from cocoon_net.engine.machine import ABANDONED, DONE, PLANNED
from cocoon_net.engine.model import Change, Ledger, Origin, Row, Undertaken, Verb
from cocoon_net.engine.workflow import Plan
from cocoon_net.errors import CocoonError, WorldError
from cocoon_net.records import Instance, Record, decode, encode
from cocoon_net.spec import Spec
from cocoon_net.store import reading, trouble

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


class Journal:
    """Reads and writes runs, visits, operations, the ledger and the history. Used from one thread."""

    def __init__(self, database: Database, by: str = "", guard: Callable[[], None] = lambda: None) -> None:
        """``by`` is who acts, for the history: ``alice, pid 71``.

        ``guard`` raises when we may not act any more; it is asked before each act and before each commit.
        """
        self._db = database
        self.history = History(database, by)
        self.guard = guard

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make what is written inside one commit; a full or read-only disk becomes a StoreError."""
        self.guard()
        try:
            with self._db.atomic():
                yield
                self.guard()  # now that nobody else can write: who slept up to here must not commit
        except sqlite3.Error as error:
            raise trouble(error, "the journal cannot be written") from error

    def record(self, what: Deed, now: datetime, *, run: Run | None = None, by: str = "", **details: Any) -> None:
        """Enter a deed into the history: who (``by``, else whose journal it is) did what, to which run, with what.

        ``details`` are JSON-ready: the reason given, the spec, what was chosen.
        """
        about = {"run": run.id, "workflow": run.workflow, "lineage": run.lineage} if run else {}
        with self.transaction():
            self.history.add(what, _text(now), by=by, details=details, **about)

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
                    "started_at": _text(now),
                    "updated_at": _text(now),
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
                "UPDATE runs SET state = ?, reason = '', updated_at = ? WHERE id = ?", [state, _text(now), run]
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
                self.history.prune(_text(now))

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
            "at": _text(now),
        }
        with self.transaction():
            self._db.execute(
                "UPDATE runs SET reason = ?, updated_at = ? WHERE id = ?", [json.dumps(reason), _text(now), run]
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
                [run, step, _text(now)],
            )

    def intend(
        self, run: Run, changes: Mapping[str, Change], now: datetime, *, permanent: bool = False
    ) -> dict[str, int]:
        """Commit the intents of all changes (by token) at once, and what the ledger must know should we die in the act.

        An earlier operation of the same wish is ``repeated`` by the new one, which answers for both. Things that are
        ``permanent`` are never entered as created. Returns token -> id of its operation.
        """
        ids: dict[str, int] = {}
        with self.transaction():
            for token, change in changes.items():
                self._db.execute(
                    "UPDATE operations SET outcome = 'repeated' WHERE lineage = ? AND step = ? AND key = ? "
                    "AND token = ? AND settled = 0 AND outcome IN ('pending', 'unknown', 'done')",
                    [run.lineage, change.step, change.key, token],
                )
                cursor = self._db.execute(
                    "INSERT INTO operations (run, lineage, step, key, verb, token, want, seen, intended_at) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        run.id,
                        run.lineage,
                        change.step,
                        change.key,
                        change.verb.value,
                        token,
                        _json(change.want),
                        _json(change.seen),
                        _text(now),
                    ],
                )
                ids[token] = int(cursor.lastrowid or 0)
                self._db.execute(
                    "UPDATE ledger SET foreseen_by = ? WHERE step = ? AND key = ? AND foreseen_by IN "
                    "(SELECT id FROM operations WHERE lineage = ? AND token = ?)",
                    [ids[token], change.step, change.key, run.lineage, token],
                )
                self._foresee(change, ids[token], now, permanent)
                self._db.execute(
                    "UPDATE visits SET changes = changes + 1, waiting = '' WHERE run = ? AND step = ?",
                    [run.id, change.step],
                )
        return ids

    def _foresee(self, change: Change, operation: int, now: datetime, permanent: bool) -> None:
        """Enter a new thing as created before it is, and keep how a found thing was before our first change."""
        row: list[str | int | None]
        match change.verb:
            case Verb.CREATE if permanent:
                row = [Origin.FOUND.value, _json(change.want), None, None]
            case Verb.CREATE:
                row = [Origin.CREATED.value, _json(change.want), None, operation]
            case Verb.UPDATE:
                row = [Origin.FOUND.value, _json(change.seen), _json(change.seen), None]
            case Verb.DELETE:
                return
        self._db.execute(
            "INSERT INTO ledger (step, key, updated_at, origin, record, before, foreseen_by) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (step, key) DO UPDATE SET before = coalesce(before, excluded.before) "
            "WHERE ledger.origin = 'found'",
            [change.step, change.key, _text(now), *row],
        )

    def conclude(
        self,
        operation: int,
        outcome: str,
        now: datetime,
        *,
        error: BaseException | None = None,
        details: Mapping[str, str] | None = None,
    ) -> None:
        """Commit what became of an operation, as ``Undertaken.outcome`` spells it."""
        told = dict(details or {}) if error is None else {"error": type(error).__name__}
        world = error if isinstance(error, WorldError) else None
        with self.transaction():
            self._db.execute(
                "UPDATE operations SET ended_at = ?, outcome = ?, code = ?, message = ?, request_id = ?, details = ? "
                "WHERE id = ?",
                [
                    _text(now),
                    outcome,
                    world.code if world else "",
                    "" if error is None else str(error),
                    world.request_id if world else told.get("request_id", ""),
                    json.dumps(told),
                    operation,
                ],
            )

    def looked(self, run: str, step: str, waiting: str, calls: Mapping[tuple[str, str], int], again: datetime) -> None:
        """Count a look at a step that is not at rest, what it waits for, what it cost, and when the next one is due."""
        with self.transaction():
            self._db.execute(
                "UPDATE visits SET looks = looks + 1, waiting = ?, next_look_at = ? WHERE run = ? AND step = ?",
                [waiting, _text(again), run, step],
            )
            self._count(run, step, calls)

    def doubt(self, run: Run, step: str, tokens: Collection[str]) -> None:
        """Call the outcome of these wishes unknown: answered with success, and nothing to be seen of them."""
        with self.transaction():
            for token in tokens:
                self._db.execute(
                    "UPDATE operations SET outcome = 'unknown', message = 'answered with success and never seen' "
                    "WHERE lineage = ? AND step = ? AND token = ? AND outcome = 'done' AND settled = 0",
                    [run.lineage, step, token],
                )

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
                [row.step, row.key, row.origin.value, _json(row.record), _json(row.before), _text(now)],
            )
        self._db.execute("UPDATE operations SET settled = 1 WHERE step = ? AND settled = 0", [step])
        self._db.execute(
            "UPDATE operations SET outcome = 'resolved' WHERE step = ? AND outcome IN ('pending', 'unknown')", [step]
        )
        self._db.execute(
            "UPDATE visits SET settled_at = ?, looks = looks + 1, waiting = '', next_look_at = '', error = '' "
            "WHERE run = ? AND step = ?",
            [_text(now), run, step],
        )
        self._spent(run, step, seconds)
        self._count(run, step, calls)

    def skip(self, run: str, step: str, why: str, by: str, now: datetime) -> None:
        """Note in the visit of a step that the operator went past it; the ledger keeps what is known of it."""
        self.enter(run, step, now)
        skipped = json.dumps({"by": by, "why": why, "at": _text(now)})
        self._db.execute(
            "UPDATE visits SET skipped = ?, next_look_at = '' WHERE run = ? AND step = ?", [skipped, run, step]
        )

    # Operations of which nobody knows what became

    def unknown(self) -> list[dict[str, Any]]:
        """Return the operations whose outcome is not known, those of the newest run first."""
        return list(
            self._db.query(
                "SELECT operations.*, workflow, state FROM operations JOIN runs ON runs.id = operations.run "
                "WHERE outcome IN ('pending', 'unknown') ORDER BY runs.rowid DESC, operations.id"
            )
        )

    def unsettled(self, run: Run, step: str) -> list[tuple[str, Verb, Record | None, datetime]]:
        """Return what other runs began in a step and never saw at rest: key, verb, want, when."""
        rows = self._db.query(
            "SELECT run, key, verb, want, intended_at, max(id) FROM operations "
            "WHERE step = ? AND settled = 0 AND lineage = ? AND outcome NOT IN ('failed', 'not begun') GROUP BY key",
            [step, run.lineage],
        )
        return [
            (
                row["key"],
                Verb(row["verb"]),
                decode(json.loads(row["want"])) if row["want"] else None,
                datetime.fromisoformat(row["intended_at"]),
            )
            for row in rows
            if row["run"] != run.id
        ]

    def forget(self, operation: Mapping[str, Any]) -> bool:
        """Conclude an operation as forgotten; drops the row that was foreseen by it, and says whether there was one."""
        cursor = self._db.execute(
            "DELETE FROM ledger WHERE step = ? AND key = ? AND foreseen_by = ?",
            [operation["step"], operation["key"], operation["id"]],
        )
        self._db.execute("UPDATE operations SET outcome = 'forgotten' WHERE id = ?", [operation["id"]])
        return cursor.rowcount > 0

    def wish_anew(self, operation: Mapping[str, Any]) -> None:
        """Conclude an operation as retried: its wish counts as come to rest, so that the next one has a new token."""
        self._db.execute(
            "UPDATE operations SET settled = 1 WHERE lineage = ? AND step = ? AND key = ? AND token = ?",
            [operation["lineage"], operation["step"], operation["key"], operation["token"]],
        )
        self._db.execute("UPDATE operations SET outcome = 'retried' WHERE id = ?", [operation["id"]])

    def adopt(self, operation: Mapping[str, Any], record: Record, now: datetime) -> None:
        """Conclude an operation as adopted: the ledger names ``record`` as what it made."""
        self._db.execute(
            "INSERT OR REPLACE INTO ledger (step, key, origin, record, updated_at) VALUES (?, ?, ?, ?, ?)",
            [operation["step"], operation["key"], Origin.CREATED.value, _json(record), _text(now)],
        )
        self._db.execute("UPDATE operations SET outcome = 'adopted' WHERE id = ?", [operation["id"]])

    @reading("the journal")
    def incarnation(self, lineage: str, step: str, key: str) -> int:
        """Return how many operations on this key came to rest in this lineage."""
        (count,) = self._db.execute(
            "SELECT count(*) FROM operations WHERE lineage = ? AND step = ? AND key = ? AND settled = 1",
            [lineage, step, key],
        ).fetchone()
        return int(count)

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
                decode(json.loads(row["before"])) if row["before"] else None,
            )
            for row in rows
        }

    def open(self, lineage: str) -> tuple[Undertaken, ...]:
        """Return what was undertaken in a lineage and has not come to rest since, oldest first."""
        rows = self._db.query("SELECT * FROM operations WHERE lineage = ? AND settled = 0 ORDER BY id", [lineage])
        return tuple(
            Undertaken(
                Change(row["step"], row["key"], Verb(row["verb"]), _record(row["want"]), _record(row["seen"])),
                row["outcome"],
                json.loads(row["details"]),
            )
            for row in rows
        )

    # What `workflow show` reads

    @reading("the steps of a run")
    def visits(self, run: str) -> dict[str, dict[str, Any]]:
        """Return step -> its visit's columns."""
        return {row["step"]: row for row in self._db.query("SELECT * FROM visits WHERE run = ?", [run])}

    @reading("the journal")
    def operations(self, run: str) -> list[dict[str, Any]]:
        """Return the run's journal, oldest first."""
        return list(self._db.query("SELECT * FROM operations WHERE run = ? ORDER BY id", [run]))

    @reading("the calls of a run")
    def calls(self, run: str) -> dict[str, int]:
        """Return action -> how often the run asked the cloud for it."""
        rows = self._db.query("SELECT action, sum(count) AS n FROM calls WHERE run = ? GROUP BY action", [run])
        return {row["action"]: int(row["n"]) for row in rows}

    def refusals(self, run: str = "") -> dict[tuple[str, str], int]:
        """Return (action, code) -> how often the cloud answered a run so, or all runs; successes are left out."""
        where, values = ("WHERE run = ?", [run]) if run else ("", [])
        rows = self._db.query(
            f"SELECT action, code, sum(count) AS n FROM refused_calls {where} GROUP BY action, code", values
        )
        return {(row["action"], row["code"]): int(row["n"]) for row in rows}

    def answers(self) -> dict[tuple[str, str], int]:
        """Return (action, code) -> how often the cloud answered so, over all runs that are kept; no code is success."""
        refused = self.refusals()
        answers = dict(refused)
        for row in self._db.query("SELECT action, sum(count) AS n FROM calls GROUP BY action"):
            answers[row["action"], ""] = int(row["n"]) - sum(n for (a, _), n in refused.items() if a == row["action"])
        return answers

    def _count(self, run: str, step: str, calls: Mapping[tuple[str, str], int]) -> None:
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


def _record(text: str | None) -> Record | None:
    return decode(json.loads(text)) if text else None


def _json(record: Record | None) -> str | None:
    return None if record is None else json.dumps(encode(record))


def _text(now: datetime) -> str:
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
