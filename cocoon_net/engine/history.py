"""The history of a node: who did what to its runs, when, with which version; written once and never changed.

The database itself refuses to change an entry, and to delete any that the rule below keeps. The rule, applied whenever
a run ends: of the ended runs the newest ``RUNS_KEPT`` stay, of the history the newest ``ENTRIES_KEPT`` entries; and
always the newest run of each workflow and everything of the lineage that is open.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from cocoon_net import __version__
from cocoon_net.store import reading

if TYPE_CHECKING:
    from sqlite_utils import Database

RUNS_KEPT = 100
"""Ended runs that are kept with their visits, operations and calls; some 30 kB each."""

ENTRIES_KEPT = 10_000
"""Entries of the history that are kept, some 5 MB; the trigger of the table says the same."""


class Deed(StrEnum):
    """What can be done to the runs of a node."""

    STARTED = "started"
    RESUMED = "resumed"
    RETRIED = "retried"
    SKIPPED = "skipped"
    ABANDONED = "abandoned"
    RESOLVED = "resolved"
    DONE = "done"
    APPLIED = "applied"
    """A plan that was written earlier was started."""
    UNLOCKED = "unlocked"
    COLLECTED = "collected"
    """Things in the cloud that nobody looks after were removed."""
    RECOVERED = "recovered"
    """The database was made anew from what was left of it."""
    PRUNED = "pruned"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the history. ``run``, ``workflow`` and ``lineage`` are empty where no run was meant."""

    id: int
    at: str
    what: str
    by: str
    version: str
    run: str
    workflow: str
    lineage: str
    details: Mapping[str, Any]


class History:
    """Reads, extends and prunes the history. ``by`` is who is told of where an entry names nobody."""

    def __init__(self, database: Database, by: str = "") -> None:
        self._db = database
        self.by = by

    def add(
        self,
        what: Deed,
        now: str,
        *,
        by: str = "",
        run: str = "",
        workflow: str = "",
        lineage: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an entry, in the transaction that is open."""
        who = by or self.by or "nobody said who"
        self._db.execute(
            "INSERT INTO run_history (at, what, by, version, run, workflow, lineage, details) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [now, what.value, who, __version__, run, workflow, lineage, json.dumps(dict(details or {}))],
        )

    @reading("the history")
    def entries(self, most: int = ENTRIES_KEPT, run: str = "") -> list[Entry]:
        """Return the newest entries, oldest first; only those of one run when it is named."""
        where, values = ("WHERE run = ?", [run]) if run else ("", [])
        rows = self._db.query(f"SELECT * FROM run_history {where} ORDER BY id DESC LIMIT ?", [*values, most])
        return [Entry(**{**row, "details": json.loads(row["details"])}) for row in rows][::-1]

    def prune(self, now: str) -> list[str]:
        """Forget what the rule does not keep, in the transaction that is open; returns the ids of the runs."""
        rows = self._db.query(
            "SELECT id FROM runs WHERE state IN ('done', 'abandoned') "
            "AND rowid NOT IN (SELECT max(rowid) FROM runs GROUP BY workflow) "
            "AND lineage IS NOT (SELECT value FROM meta WHERE name = 'lineage') "
            "AND rowid NOT IN "
            "(SELECT rowid FROM runs WHERE state IN ('done', 'abandoned') ORDER BY rowid DESC LIMIT ?)",
            [RUNS_KEPT],
        )
        gone = [str(row["id"]) for row in rows]
        for run in gone:
            for table, column in (
                ("calls", "run"),
                ("refused_calls", "run"),
                ("visits", "run"),
                ("operations", "run"),
                ("runs", "id"),
            ):
                self._db.execute(f"DELETE FROM {table} WHERE {column} = ?", [run])
        if gone:
            self.add(Deed.PRUNED, now, details={"runs": gone})
        self._db.execute(
            "DELETE FROM run_history WHERE id <= (SELECT max(id) FROM run_history) - ? "
            "AND (lineage = '' OR lineage IS NOT (SELECT value FROM meta WHERE name = 'lineage'))",
            [ENTRIES_KEPT],
        )
        return gone
