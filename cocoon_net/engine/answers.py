"""How the cloud answered this node: every call that anybody made, counted for as long as the database lives.

The counts of a run go when the run is forgotten; these stay, for a counter that falls is taken for one that was reset.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cocoon_net.store import reading

if TYPE_CHECKING:
    from sqlite_utils import Database


class Answers:
    """The table ``answers``: (action, code) -> count; no code is success."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, calls: Mapping[tuple[str, str], int]) -> None:
        """Count calls, in the transaction that is open."""
        for (action, code), count in calls.items():
            self._db.execute(
                "INSERT INTO answers (action, code, count) VALUES (?, ?, ?) "
                "ON CONFLICT (action, code) DO UPDATE SET count = count + excluded.count",
                [action, code, count],
            )

    @reading("the calls of this node")
    def read(self) -> dict[tuple[str, str], int]:
        """Return the counts."""
        return {(row["action"], row["code"]): int(row["count"]) for row in self._db.query("SELECT * FROM answers")}
