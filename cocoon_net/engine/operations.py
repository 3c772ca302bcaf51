"""Operations: what was intended, what became of it, and those of which nobody knows.

The intent is committed before the act and the outcome after it. An outcome is ``pending``, ``done``, ``failed``,
``not begun`` or ``unknown``; ``resolved`` when a later look at rest told; ``adopted``, ``forgotten`` or ``retried``
when the operator concluded it. What a wish may have done is told by its last operation that may have acted: one that
was refused or never begun says nothing about those before it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cocoon_net.engine.model import Change, Origin, Undertaken, Verb
from cocoon_net.errors import CloudNotAsked, CocoonError, InvariantError, WorldError
from cocoon_net.records import Record, decode, encode
from cocoon_net.store import reading, trouble, writing

if TYPE_CHECKING:
    from sqlite_utils import Database

    from cocoon_net.engine.journal import Run


SAME_WISH = (
    "later.lineage = operations.lineage AND later.step = operations.step "
    "AND later.key = operations.key AND later.token = operations.token"
)
"""Joins two operations that asked for the same thing under the same token, as ``later`` and ``operations``."""


class Operations:
    """Writes operations down, with the rows of the ledger that they foresee, and reads them. Used from one thread."""

    def __init__(self, database: Database, guard: Callable[[], None]) -> None:
        """``guard`` raises when we may not act any more; it is asked before each act and before each commit."""
        self._db = database
        self.guard = guard

    @contextmanager
    def transaction(self, eager: bool = False) -> Iterator[None]:
        """Make what is written inside one commit; a full or read-only disk becomes a StoreError.

        ``eager``: it has the writer's lock before its first look, for who reads first, beside other writers.
        """
        self.guard()
        try:
            with writing(self._db) if eager else self._db.atomic():
                yield
                self.guard()  # now that nobody else can write: who slept up to here must not commit
        except sqlite3.Error as error:
            raise trouble(error, "the journal cannot be written") from error

    def intend(
        self, run: Run, changes: Mapping[str, Change], now: datetime, *, permanent: bool = False
    ) -> dict[str, int]:
        """Commit the intents of all changes (by token) at once, and what the ledger must know should we die in the act.

        Things that are ``permanent`` are never entered as created. Returns token -> id of its operation.
        """
        ids: dict[str, int] = {}
        with self.transaction():
            for token, change in changes.items():
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
                        encoded(change.want),
                        encoded(change.seen),
                        stamp(now),
                    ],
                )
                ids[token] = int(cursor.lastrowid or 0)
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
                row = [Origin.FOUND.value, encoded(change.want), None, None]
            case Verb.CREATE:
                row = [Origin.CREATED.value, encoded(change.want), None, operation]
            case Verb.UPDATE:
                row = [Origin.FOUND.value, encoded(change.seen), encoded(change.seen), None]
            case Verb.DELETE:
                return
        self._db.execute(
            "INSERT INTO ledger (step, key, updated_at, origin, record, before, foreseen_by) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (step, key) DO UPDATE SET before = coalesce(before, excluded.before) "
            "WHERE ledger.origin = 'found'",
            [change.step, change.key, stamp(now), *row],
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
                    stamp(now),
                    outcome,
                    world.code if world else "",
                    "" if error is None else str(error),
                    world.request_id if world else told.get("request_id", ""),
                    json.dumps(told),
                    operation,
                ],
            )

    def doubt(self, run: Run, step: str, tokens: Collection[str]) -> None:
        """Call the outcome of these wishes unknown: answered with success, and nothing to be seen of them."""
        with self.transaction():
            for token in tokens:
                self._db.execute(
                    "UPDATE operations SET outcome = 'unknown', message = 'answered with success and never seen' "
                    "WHERE lineage = ? AND step = ? AND token = ? AND outcome = 'done' AND settled = 0",
                    [run.lineage, step, token],
                )

    def open(self, lineage: str) -> tuple[Undertaken, ...]:
        """Return what was undertaken in a lineage and has not come to rest since, oldest first."""
        rows = self._db.query("SELECT * FROM operations WHERE lineage = ? AND settled = 0 ORDER BY id", [lineage])
        return tuple(
            Undertaken(
                Change(row["step"], row["key"], Verb(row["verb"]), decoded(row["want"]), decoded(row["seen"])),
                row["outcome"],
                json.loads(row["details"]),
            )
            for row in rows
        )

    @reading("the journal")
    def operations(self, run: str) -> list[dict[str, Any]]:
        """Return the run's journal, oldest first."""
        return list(self._db.query("SELECT * FROM operations WHERE run = ? ORDER BY id", [run]))

    # Operations of which nobody knows what became

    def unknown(self) -> list[dict[str, Any]]:
        """Return the operations whose outcome is not known, those of the newest run first.

        Of several of one wish, the last: it answers for those before it, unless it was refused or never begun.
        """
        return list(
            self._db.query(
                "SELECT operations.*, workflow, state FROM operations JOIN runs ON runs.id = operations.run "
                "WHERE outcome IN ('pending', 'unknown') AND NOT EXISTS (SELECT 1 FROM operations AS later "
                f"WHERE {SAME_WISH} AND later.id > operations.id AND later.outcome NOT IN ('failed', 'not begun')) "
                "ORDER BY runs.rowid DESC, operations.id"
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
                decoded(row["want"]),
                datetime.fromisoformat(row["intended_at"]),
            )
            for row in rows
            if row["run"] != run.id
        ]

    def forget(self, operation: Mapping[str, Any]) -> bool:
        """Conclude an operation as forgotten; drops the row that was foreseen by it, and says whether there was one."""
        cursor = self._db.execute(
            "DELETE FROM ledger WHERE step = :step AND key = :key AND foreseen_by IN "
            "(SELECT id FROM operations WHERE lineage = :lineage AND step = :step AND key = :key AND token = :token)",
            dict(operation),
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
            [operation["step"], operation["key"], Origin.CREATED.value, encoded(record), stamp(now)],
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


class NotBegun(CocoonError):
    """A change that stood in line when we were asked to stop."""


def verdict(error: BaseException | None) -> str:
    """Return what is known of a change that ended so, as ``Undertaken.outcome`` spells it. Pure.

    Raises what is no Exception at all: then we have ended, and have nothing to write.
    """
    match error:
        case None:
            return "done"
        case NotBegun() | CloudNotAsked():
            return "not begun"  # an apply is one side effect; whoever looks after it was refused keeps the refusal
        case InvariantError():
            return "unknown"  # a bug can strike before the act and after it
        case CocoonError():
            return "unknown" if error.retryable else "failed"
        case Exception():
            return "unknown"
        case _:
            raise error


def decoded(text: str | None) -> Record | None:
    """Read a record as a row has it."""
    return decode(json.loads(text)) if text else None


def encoded(record: Record | None) -> str | None:
    """Write a record as a row has it."""
    return None if record is None else json.dumps(encode(record))


def stamp(now: datetime) -> str:
    """Write a time as a row has it: RFC 3339, UTC, milliseconds."""
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
