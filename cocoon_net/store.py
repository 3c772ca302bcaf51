"""The one SQLite database of a node.

WAL with ``synchronous=FULL``: a committed transaction is on the disk (https://www.sqlite.org/pragma.html). Every
migration of ``schema`` is recorded by sqlite-utils.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cocoon_net.errors import CocoonError, Damaged, Refused, StoreError
from cocoon_net.locks import refusal
from cocoon_net.schema import MIGRATIONS, SCHEMA

if TYPE_CHECKING:
    from sqlite_utils import Database

MENDED_BY = (
    "the next `cocoon-net daemon`, `init` or `teardown` keeps the damaged file aside and rebuilds it; "
    "see 'A damaged database' in docs/operations.md"
)
"""What to type about a damaged database."""


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
    with _usable(connection, path):
        tune(connection)
        database = Database(connection)
        _migrate(database, path)
        if check:
            _check(database, path)
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
    with _usable(copy, path):
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
    return database


@contextlib.contextmanager
def _usable(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Close the connection to the database at ``path`` unless all went well; what SQLite says becomes a StoreError."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # what SQLite quotes need not be UTF-8
        connection.close()
        raise trouble(error, f"{path} cannot be used") from error
    except BaseException:
        connection.close()
        raise


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
def writing(database: Database) -> Iterator[None]:
    """Make what is written inside one commit; inside of another such, a part of it. Raises sqlite3.Error.

    It has the writer's lock before its first look. Who reads first and writes then is refused at once, without the
    bounded wait, when another connection has committed in between (https://www.sqlite.org/rescode.html#busy_snapshot).
    """
    if database.conn.in_transaction:
        with database.atomic():
            yield
        return
    database.execute("BEGIN IMMEDIATE")
    with database.conn:
        yield


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
    connection.execute("PRAGMA cache_size = -512")  # KB of each connection: the kernel has the file in memory as well


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
