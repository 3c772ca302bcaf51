"""The one SQLite database of a node.

WAL with ``synchronous=FULL``: a committed transaction is on the disk (https://www.sqlite.org/pragma.html). Every
migration is recorded by sqlite-utils and never edited once released. Times are RFC 3339 text in UTC where people
read them, and integer seconds in the DHCP tables, which the hot path reads back.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cocoon_net.errors import Refused, StoreError

if TYPE_CHECKING:
    from sqlite_utils import Database

SCHEMA = "cocoon_net"

_ENGINE = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    workflow TEXT NOT NULL,
    lineage TEXT NOT NULL,
    state TEXT NOT NULL,            -- planned, a step's name, done, abandoned
    reason TEXT NOT NULL DEFAULT '',-- why it is parked; JSON of the error, '' when it is not
    spec TEXT NOT NULL,             -- JSON
    instance TEXT,                  -- JSON of the facts, NULL where the cloud was not asked
    plan TEXT NOT NULL,             -- the resolved workflow: an upgrade cannot change a run in flight
    version TEXT NOT NULL,
    started_by TEXT NOT NULL,
    started_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    seconds REAL NOT NULL DEFAULT 0 -- time spent acting, over all its processes
) STRICT;

CREATE TABLE visits (               -- one row per step of a run
    run TEXT NOT NULL REFERENCES runs(id),
    step TEXT NOT NULL,
    entered_at TEXT NOT NULL,
    settled_at TEXT,
    looks INTEGER NOT NULL DEFAULT 0,
    changes INTEGER NOT NULL DEFAULT 0,
    seconds REAL NOT NULL DEFAULT 0,
    waiting TEXT NOT NULL DEFAULT '',
    error TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run, step)
) STRICT;

CREATE TABLE calls (                -- what a run asked of the cloud, counted
    run TEXT NOT NULL REFERENCES runs(id),
    step TEXT NOT NULL,
    action TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (run, step, action)
) STRICT;

CREATE TABLE operations (           -- the journal: the intent before the act, the outcome after
    id INTEGER PRIMARY KEY,
    run TEXT NOT NULL REFERENCES runs(id),
    lineage TEXT NOT NULL,
    step TEXT NOT NULL,
    key TEXT NOT NULL,
    verb TEXT NOT NULL,
    token TEXT NOT NULL,
    want TEXT,
    seen TEXT,
    intended_at TEXT NOT NULL,
    ended_at TEXT,
    outcome TEXT NOT NULL DEFAULT 'pending', -- pending, done, failed, unknown; resolved: a later look answered it
    code TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '',
    request_id TEXT NOT NULL DEFAULT '',
    details TEXT NOT NULL DEFAULT '{}',
    settled INTEGER NOT NULL DEFAULT 0       -- its step has come to rest since
) STRICT;
CREATE INDEX operations_of_key ON operations (lineage, step, key);
CREATE INDEX operations_of_run ON operations (run, id);

CREATE TABLE ledger (               -- what we look after
    step TEXT NOT NULL,
    key TEXT NOT NULL,
    origin TEXT NOT NULL,
    record TEXT NOT NULL,
    before TEXT,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (step, key)
) STRICT;
"""

_DHCP = """
CREATE TABLE pool (                 -- what may be leased; one row
    id INTEGER PRIMARY KEY CHECK (id = 1),
    record TEXT NOT NULL,           -- JSON of records.Pool
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE leases (               -- what was promised; offers are never written down
    address INTEGER PRIMARY KEY,    -- as an integer; times in Unix seconds
    state TEXT NOT NULL,            -- free, bound, cooling, quarantined
    ends INTEGER NOT NULL,          -- when the state ends by itself
    mac TEXT NOT NULL,              -- the client, also the last one of a free address; '' for nobody
    since INTEGER NOT NULL,
    client_id BLOB NOT NULL,
    hostname TEXT NOT NULL
) STRICT;

CREATE TABLE history (              -- what became of leases, and why
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    address INTEGER NOT NULL,
    mac TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;
"""

_HISTORY = """
CREATE TABLE run_history (          -- who did what to the runs of this node; never changed
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    what TEXT NOT NULL,             -- engine.history.Deed
    by TEXT NOT NULL,
    version TEXT NOT NULL,
    run TEXT NOT NULL,              -- '' where no run is meant; no reference, it outlives the run
    workflow TEXT NOT NULL,
    lineage TEXT NOT NULL,
    details TEXT NOT NULL           -- JSON: the spec, the reason given, what was chosen
) STRICT;
CREATE INDEX run_history_of_run ON run_history (run, id);
CREATE TRIGGER run_history_is_not_changed BEFORE UPDATE ON run_history
BEGIN SELECT raise(ABORT, 'the history is not changed'); END;
CREATE TRIGGER run_history_is_not_replaced BEFORE INSERT ON run_history
WHEN EXISTS (SELECT 1 FROM run_history WHERE id = new.id)
BEGIN SELECT raise(ABORT, 'the history is not changed'); END;
CREATE TRIGGER run_history_is_kept BEFORE DELETE ON run_history
WHEN old.id > (SELECT max(id) FROM run_history) - 10000
    OR (old.lineage <> '' AND old.lineage IS (SELECT value FROM meta WHERE name = 'lineage'))
BEGIN SELECT raise(ABORT, 'the history keeps its newest 10000 entries and the open lineage'); END;
ALTER TABLE visits ADD COLUMN next_look_at TEXT NOT NULL DEFAULT '';  -- while it waits
ALTER TABLE visits ADD COLUMN skipped TEXT NOT NULL DEFAULT '';       -- JSON: by, why, at
ALTER TABLE ledger ADD COLUMN foreseen_by INTEGER;  -- the operation that is to make it; NULL once it was seen at rest
"""

_RESERVATIONS = """
CREATE TABLE reservations (         -- addresses that the operator keeps for one client each
    mac TEXT PRIMARY KEY,
    address INTEGER NOT NULL UNIQUE,
    hostname TEXT NOT NULL,
    options TEXT NOT NULL,          -- JSON: code -> value in hex
    since INTEGER NOT NULL
) STRICT;
"""

_LEASE_PORT = """
-- the bridge port that the client was last served at: a lease belongs to it while it exists
ALTER TABLE leases ADD COLUMN port TEXT NOT NULL DEFAULT '';
"""


def _statements(script: str) -> Callable[[Database], None]:
    """Run a script statement by statement: ``executescript`` would commit the migration's transaction."""

    def migrate(database: Database) -> None:
        pending = ""
        for line in script.splitlines(keepends=True):
            pending += line
            if sqlite3.complete_statement(pending):
                database.execute(pending)
                pending = ""

    return migrate


MIGRATIONS: dict[str, Callable[[Database], None]] = {
    "0001_engine": _statements(_ENGINE),
    "0002_dhcp": _statements(_DHCP),
    "0004_reservations": _statements(_RESERVATIONS),
    "0003_history": _statements(_HISTORY),
    "0005_lease_port": _statements(_LEASE_PORT),
}


def open_database(path: Path) -> Database:
    """Open (and create, mode 0600) the database at ``path``, migrated to this version's schema.

    Raises Refused when it may not be written, StoreError when it cannot be, is damaged, or is of a newer version.
    """
    from sqlite_utils import Database

    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        # Only a new file may be opened other than by SQLite: closing any descriptor of it would take away the locks
        # of this process's other connections (https://www.sqlite.org/howtocorrupt.html, section 2.2).
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except PermissionError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}", hint="run as root") from error
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written: {error.strerror}",
            hint="give --state-dir a directory that can be written",
        ) from error
    connection = sqlite3.connect(path, timeout=10.0, check_same_thread=False)
    try:
        tune(connection)
        database = Database(connection)
        _migrate(database, path)
    except sqlite3.Error as error:
        connection.close()
        raise _unusable(path, error) from error
    except BaseException:
        connection.close()
        raise
    return database


def open_copy(path: Path) -> Database:
    """Read the database at ``path`` into memory, migrated there: whatever is written to it is never written to disk.

    Raises StoreError when it is damaged or of a newer version.
    """
    from sqlite_utils import Database

    log = path.with_name(f"{path.name}-wal")
    copy = sqlite3.connect(":memory:", check_same_thread=False)
    try:
        while True:
            # Without a log nobody has it open, and looking must not make one (https://www.sqlite.org/wal.html).
            busy = log.exists()
            source = sqlite3.connect(f"{path.absolute().as_uri()}?{'mode=ro' if busy else 'immutable=1'}", uri=True)
            with contextlib.closing(source):
                source.backup(copy)
            if busy or not log.exists():
                break
        database = Database(copy)
        _migrate(database, path, keep=False)
    except sqlite3.Error as error:
        copy.close()
        raise _unusable(path, error) from error
    except BaseException:
        copy.close()
        raise
    return database


def _unusable(path: Path, error: sqlite3.Error) -> StoreError:
    return StoreError(
        f"{path} cannot be used: {error}", hint="keep the file, and see 'A damaged database' in docs/operations.md"
    )


def open_memory() -> Database:
    """Open an empty database in memory, for looking at a node that has none."""
    from sqlite_utils import Database

    database = Database(sqlite3.connect(":memory:", check_same_thread=False))
    _migrate(database, Path(":memory:"), keep=False)
    return database


def tune(connection: sqlite3.Connection) -> None:
    """Set what every connection to the database needs: WAL, FULL, foreign keys, a bounded wait for the writer."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA busy_timeout = 10000")


def _migrate(database: Database, path: Path, *, keep: bool = True) -> None:
    """Bring the schema up to this version; ``keep`` puts a copy of the old one beside it first."""
    from sqlite_utils import Migrations

    known = Migrations(SCHEMA)
    for name, migration in MIGRATIONS.items():
        known(name=name)(migration)
    newer = sorted({m.name for m in known.applied(database)} - set(MIGRATIONS))
    if newer:
        raise StoreError(
            f"{path} was written by a newer cocoon-net: it has {', '.join(newer)}",
            hint="install that version again, or restore the backup it made before it upgraded the database",
        )
    pending = known.pending(database)
    if keep and pending and len(pending) < len(MIGRATIONS):
        backup = sqlite3.connect(path.with_suffix(f".before-{pending[0].name}"))
        with contextlib.closing(backup):
            database.conn.backup(backup)
    known.apply(database)
