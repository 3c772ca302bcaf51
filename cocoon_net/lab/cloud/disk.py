"""The state of the simulated cloud on disk: one SQLite file that outlives a killed server.

``synchronous=OFF``: a commit reaches the page cache before the reply is sent, which is enough to survive
``kill -9``; only a crash of the whole machine may cost the latest calls, and the lab's namespaces with them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from cocoon_net.errors import StoreError
from cocoon_net.lab.cloud.records import Record, to_json
from cocoon_net.lab.cloud.world import World

_SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (kind TEXT, id TEXT, body TEXT NOT NULL, PRIMARY KEY (kind, id));
CREATE TABLE IF NOT EXISTS calls (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT, source TEXT, instance TEXT, access_key TEXT, service TEXT,
    action TEXT, parameters TEXT, unknown TEXT, status INTEGER, code TEXT, request_id TEXT, outcome TEXT,
    seconds REAL
);
"""


@dataclass(frozen=True, slots=True)
class CallRow:
    """One call as the log keeps it. Never holds a secret, a session token or a signature."""

    time: str
    source: str
    instance: str
    access_key: str
    service: str
    action: str
    parameters: dict[str, str]
    unknown: list[str]
    """Names of parameters that the action does not know; the API ignores them, a test should not."""
    status: int
    code: str
    request_id: str
    outcome: str
    """answered | lost (the effect happened, the reply did not arrive) | reset | garbled"""
    seconds: float


class Disk:
    """The open file. Not thread-safe: the caller holds the lock of the world."""

    def __init__(self, path: Path) -> None:
        try:
            path.touch(mode=0o600)
            path.chmod(0o600)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"cannot open the state of the lab's cloud at {path}: {error}",
                hint="remove the lab's directory (`cocoon-net lab down`) and build the lab again",
            ) from None

    def setting(self, name: str) -> str | None:
        """Return a stored setting."""
        row = self._db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def load(self) -> World | None:
        """Return the world as it was committed last, None if the file is new."""
        region = self.setting("region")
        if region is None:
            return None
        world = World(region)
        query = "SELECT id, body FROM records WHERE kind = ? ORDER BY rowid"
        for table in world.tables():
            table.fill(self._db.execute(query, (table.kind.__name__,)))
        world.faults = world.faults.set(json.loads(self.setting("faults") or "{}"))
        return world

    def save(
        self,
        changes: Iterable[tuple[str, str, Record | None]] = (),
        call: CallRow | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        """Write changes of the world, a call and settings in one transaction."""
        db = self._db
        db.execute("BEGIN")
        for kind, key, record in changes:
            if record is None:
                db.execute("DELETE FROM records WHERE kind = ? AND id = ?", (kind, key))
            else:
                db.execute(
                    "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body",
                    (kind, key, to_json(record)),
                )
        if call is not None:
            values = asdict(call)
            values["parameters"] = json.dumps(call.parameters)
            values["unknown"] = json.dumps(call.unknown)
            names = ", ".join(values)
            marks = ", ".join(f":{name}" for name in values)
            db.execute(f"INSERT INTO calls ({names}) VALUES ({marks})", values)
        for name, value in (settings or {}).items():
            db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))
        db.execute("COMMIT")

    def calls(self, since: int = 0) -> list[dict[str, object]]:
        """Return the calls with a sequence number above ``since``, oldest first."""
        cursor = self._db.execute("SELECT * FROM calls WHERE seq > ? ORDER BY seq", (since,))
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
        for row in rows:
            row["parameters"] = json.loads(row["parameters"])
            row["unknown"] = json.loads(row["unknown"])
        return rows

    def clear_calls(self) -> None:
        """Forget the logged calls; the sequence numbers go on."""
        self._db.execute("DELETE FROM calls")

    def counters(self) -> dict[str, dict[str, float]]:
        """Return, for each action: calls, errors, lost replies, and the seconds spent in all."""
        query = """SELECT action, count(*), sum(status >= 400 OR code != ''), sum(outcome != 'answered'),
                   round(sum(seconds), 6) FROM calls GROUP BY action ORDER BY action"""
        return {
            action: {"calls": calls, "errors": errors, "lost": lost, "seconds": seconds}
            for action, calls, errors, lost, seconds in self._db.execute(query)
        }

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def prepare_directory(path: Path) -> None:
    """Make the directory of the lab's cloud, readable by its owner only; raises ``StoreError``."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.chmod(0o700)
    except OSError as error:
        raise StoreError(
            f"cannot make the directory {path}: {error.strerror}", hint="choose another --directory"
        ) from None
