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
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cocoon_net.errors import CocoonError, Damaged, Refused, StoreError
from cocoon_net.locks import refusal

if TYPE_CHECKING:
    from sqlite_utils import Database

SCHEMA = "cocoon_net"

MENDED_BY = (
    "the next `cocoon-net daemon`, `init` or `teardown` keeps the damaged file aside and rebuilds it; "
    "see 'A damaged database' in docs/operations.md"
)
"""What to type about a damaged database."""

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


_REFUSED_CALLS = """
CREATE TABLE refused_calls (        -- of the counted calls those that were not answered with success
    run TEXT NOT NULL REFERENCES runs(id),
    step TEXT NOT NULL,
    action TEXT NOT NULL,
    code TEXT NOT NULL,             -- the cloud's, else the kind of error
    count INTEGER NOT NULL,
    PRIMARY KEY (run, step, action, code)
) STRICT;
"""

_ANSWERS = """
CREATE TABLE answers (              -- how the cloud answered this node, whoever asked; runs come and go
    action TEXT NOT NULL,
    code TEXT NOT NULL,             -- empty for success
    count INTEGER NOT NULL,
    PRIMARY KEY (action, code)
) STRICT;
INSERT INTO answers SELECT action, code, sum(count) FROM refused_calls GROUP BY action, code;
INSERT INTO answers SELECT action, '', sum(count) - coalesce(
    (SELECT sum(count) FROM refused_calls WHERE refused_calls.action = calls.action), 0
) FROM calls GROUP BY action;
"""

_FINDINGS = """
CREATE TABLE findings (             -- what audits found; one row from when it began until it was over
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,             -- audit.finding.Kind
    key TEXT NOT NULL,
    says TEXT NOT NULL,
    advice TEXT NOT NULL,
    evidence TEXT NOT NULL,         -- JSON: source, what it says, whether it agrees
    first_seen TEXT NOT NULL,
    confirmed INTEGER NOT NULL,     -- passes that bore it out
    last_seen TEXT NOT NULL,
    resolved TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX findings_open ON findings (kind, key) WHERE resolved = '';

CREATE TABLE audits (               -- the passes of the service
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    seconds REAL NOT NULL,
    unknown TEXT NOT NULL,          -- JSON: area -> why it could not be looked at
    repaired TEXT NOT NULL          -- JSON: a line each
) STRICT;
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
    "0006_refused_calls": _statements(_REFUSED_CALLS),
    "0007_findings": _statements(_FINDINGS),
    "0008_answers": _statements(_ANSWERS),
}


def open_database(path: Path, *, check: bool = False) -> Database:
    """Open (and create, mode 0600) the database at ``path``, migrated to this version's schema.

    With ``check``, for whoever acts on it or serves from it, every page is looked at, too (``PRAGMA integrity_check``:
    30 ms for 60,000 leases), and every table. Raises Refused when it may not be written, StoreError when it cannot be
    or is of a newer version, Damaged.
    """
    from sqlite_utils import Database

    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        if _lost(path):
            raise _gone(path)
        # Only a new file may be opened other than by SQLite: closing any descriptor of it would take away the locks
        # of this process's other connections (https://www.sqlite.org/howtocorrupt.html, section 2.2).
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise refusal(path, error) from error
    connection = sqlite3.connect(path, timeout=10.0, check_same_thread=False)
    try:
        tune(connection)
        database = Database(connection)
        _migrate(database, path)
        if check:
            _check(database, path)
    except (sqlite3.Error, UnicodeDecodeError) as error:  # what SQLite quotes need not be UTF-8
        connection.close()
        raise trouble(error, f"{path} cannot be used") from error
    except BaseException:
        connection.close()
        raise
    return database


def is_there(path: Path) -> bool:
    """Whether there is a database, or was: one that is gone and has left a backup is damaged, not unknown."""
    return path.exists() or backup_of(path).exists()


def open_copy(path: Path) -> Database:
    """Read the database at ``path`` into memory, migrated there: whatever is written to it is never written to disk.

    Raises StoreError when it is of a newer version, Damaged.
    """
    from sqlite_utils import Database

    if _lost(path):
        raise _gone(path)
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
    except (sqlite3.Error, UnicodeDecodeError) as error:
        copy.close()
        raise trouble(error, f"{path} cannot be used") from error
    except BaseException:
        copy.close()
        raise
    return database


def trouble(error: sqlite3.Error | UnicodeDecodeError, what: str) -> StoreError:
    """Return the error for what SQLite said: the file system's fault, another process's, or a damaged file.

    ``what`` begins the message: ``the journal cannot be written``.
    """
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)  # none: a text that is not UTF-8
    message = f"{what}: {error}"
    if code in (sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS):
        return Damaged(message, hint=MENDED_BY)
    match code & 0xFF:
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN:
            hint = "make room in the state directory (`df -h`, `dmesg`), then give the same command again"
            return StoreError(message, hint=f"{hint}: nothing is lost")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return StoreError(message, hint="the file system is read-only? `dmesg` may say why; nothing is lost")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreError(message, hint="another process keeps the database (`fuser -v` shows it): end that one")
        case _:
            return Damaged(message, hint=MENDED_BY)


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what a damaged row makes of its reader into Damaged; ``what`` is what is read: ``the ledger``."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise trouble(error, f"{what} cannot be read") from error
    except (StoreError, Refused):
        raise
    except (CocoonError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise Damaged(f"{what} cannot be read: a row holds what nobody wrote: {error}", hint=MENDED_BY) from error


def backup_of(path: Path) -> Path:
    """Return where the backup of a database is."""
    return path.with_name(f"{path.name}.backup")


def back_up(path: Path) -> None:
    """Replace the backup of the database by a copy of it as it is now, checked and on disk before it takes the name.

    Writers are not held up: in WAL mode a reader is in nobody's way, and SQLite copies without the interpreter's lock
    (https://www.sqlite.org/backup.html). Raises StoreError; the old backup is whole then.
    """
    final = backup_of(path)
    temporary = final.with_name(f".{final.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(contextlib.closing(sqlite3.connect(path, timeout=1.0)))
            target = stack.enter_context(contextlib.closing(sqlite3.connect(temporary)))
            target.execute("PRAGMA synchronous = OFF")  # once, below
            source.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")  # one file, whole by itself
            found = target.execute("PRAGMA integrity_check(1)").fetchall()
        if found != [("ok",)]:
            raise Damaged(f"{path} is damaged: {_first(found)}", hint=MENDED_BY)
        temporary.chmod(0o600)
        sync(temporary)
        temporary.replace(final)
        sync(final.parent)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise trouble(error, f"{final} cannot be written") from error
    except OSError as error:
        raise refusal(final, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


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


def _lost(path: Path) -> bool:
    """Say whether SQLite would take for new what was there before: a backup is left of it."""
    backup = backup_of(path)
    return not (path.exists() and path.stat().st_size) and backup.exists() and backup.stat().st_size > 0


def _gone(path: Path) -> Damaged:
    return Damaged(f"{path} is empty or gone, and was not: it has a backup", hint=MENDED_BY)


def _check(database: Database, path: Path) -> None:
    """Look at every page, and whether every table is there as it was made. Raises Damaged."""
    found = database.execute("PRAGMA integrity_check(1)").fetchall()
    if found != [("ok",)]:
        raise Damaged(f"{path} is damaged: {_first(found)}", hint=MENDED_BY)
    with contextlib.closing(open_memory()) as sound:
        missing = sorted(_schema(sound) - _schema(database))
    if missing:
        raise Damaged(f"{path} is damaged: its {missing[0][0]} {missing[0][1]} is not as it was made", hint=MENDED_BY)


def _schema(database: Database) -> set[tuple[str, str, str]]:
    return set(
        database.execute("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE '_sqlite%'")
    )


def _first(found: list[tuple[str]]) -> str:
    """Return what ``integrity_check`` found, in one line."""
    return " ".join(str(found[0][0]).split()) if found else "it cannot be checked"


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, on disk on return."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _migrate(database: Database, path: Path, *, keep: bool = True) -> None:
    """Bring the schema up to this version; ``keep`` puts a copy of the old one beside it first."""
    from sqlite_utils import Migrations

    known = Migrations(SCHEMA)
    for name, migration in MIGRATIONS.items():
        known(name=name)(migration)
    applied = {m.name for m in known.applied(database)}
    newer = sorted(applied - set(MIGRATIONS))
    if newer and set(MIGRATIONS) - applied:  # a newer version has all of ours, too
        raise Damaged(f"{path} is damaged: it has a migration {newer[0]!r} that nobody made", hint=MENDED_BY)
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
    with database.atomic():  # all or nothing: what is half made would look like an old one to the next who opens it
        known.apply(database)
