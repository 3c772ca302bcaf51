"""Files with exactly one content, replaced as a whole: who reads one sees the old or the new, never a part.

The temporary name ends in ``.tmp``: cocoon loads every ``*.conflist`` of its directory. It holds the writer's process
id, so that what a killed writer left behind is told from what a living one is about to rename.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cocoon_net.engine.model import Call, Change, Context, Seen, Verb, Via
from cocoon_net.errors import CocoonError, InvariantError, NodeError, Refused
from cocoon_net.records import File

DIRECTORY_MODE = 0o750
"""Of a directory that we make: that of the Go cocoon-net."""

_TICK = 1_000_000
"""Nanoseconds by which a file's time is moved on when the clock did not."""

_PIECES = 1_024
"""Of one system call (IOV_MAX)."""

_counter = itertools.count()


class Files:
    """Keys are the names of ``paths``; a file's record carries its key as path, the real place is ours to know.

    ``ours`` is the mark of every file: True where the place itself says that we wrote it.
    """

    def __init__(self, paths: Mapping[str, Path], *, ours: bool | None = None) -> None:
        self._paths = dict(paths)
        self._ours = ours

    def observe(self, cx: Context) -> Seen:
        """Read every file. Raises NodeError, Refused for one that is there and cannot be read."""
        seen: dict[str, File] = {}
        for key, path in self._paths.items():
            try:
                content = path.read_bytes().decode(errors="surrogateescape")
                mode = path.stat().st_mode & 0o7777
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _refusal(error, f"read {path}") from error
            seen[key] = File(key, content, mode, self._ours)
        return seen

    def calls(self, change: Change, cx: Context) -> tuple[Call, ...]:
        """Write or remove the file."""
        path = self._paths.get(change.key)
        match change.want:
            case File(content=content, mode=mode):
                size = len(content.encode(errors="surrogateescape"))
                return (Call(Via.FILE, f"write {path}: {size} bytes, mode {mode:04o}"),)
            case _:
                return (Call(Via.FILE, f"rm {path}"),)

    def apply(self, change: Change, token: str, cx: Context) -> Mapping[str, str]:
        """Write or remove one file, and what killed writers left beside it. Raises NodeError, Refused."""
        path = self._paths.get(change.key)
        if path is None:
            raise InvariantError(f"there is no file {change.key!r} among {sorted(self._paths)}")
        sweep(path)
        match (change.verb, change.want):
            case (Verb.DELETE, _):
                remove(path)
            case (_, File(content=content, mode=mode)):
                write_atomic(path, content.encode(errors="surrogateescape"), mode)
            case _:
                raise InvariantError(f"files cannot apply {change.want!r}")
        return {"path": str(path)}


def write_atomic(path: Path, data: bytes | Sequence[bytes], mode: int = 0o644, *, fsync: bool = True) -> None:
    """Replace ``path`` by a file of ``data`` with ``mode``, whatever the umask; its directory is made when missing.

    Large ``data`` may come in pieces: to join megabytes would hold up every other thread, to write them does not.

    The file's time is later than that of the one it replaces: readers that cache by time and size see every change.
    With ``fsync`` the file and its name are on disk on return. Raises NodeError, Refused; ``path`` is whole then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{next(_counter)}.tmp")
    try:
        path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(temporary, flags, mode), "wb", buffering=0) as file:
                _write(file.fileno(), (data,) if isinstance(data, bytes) else data)
                os.fchmod(file.fileno(), mode)
                _move_on(path, file.fileno())
                if fsync:
                    os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)  # only there when something went wrong
        if fsync:
            _sync_directory(path.parent)
    except OSError as error:
        raise _refusal(error, f"write {path}") from error


def _write(descriptor: int, pieces: Sequence[bytes]) -> None:
    for at in range(0, len(pieces), _PIECES):
        batch = pieces[at : at + _PIECES]
        written = os.writev(descriptor, batch)
        if written < sum(map(len, batch)):  # the disk is about to be full, or a signal came
            rest = memoryview(b"".join(batch))[written:]
            while rest:
                rest = rest[os.write(descriptor, rest) :]


def remove(path: Path) -> None:
    """Remove a file; one that is not there is success. Raises NodeError, Refused."""
    try:
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            _sync_directory(path.parent)
    except NotADirectoryError:
        return
    except OSError as error:
        raise _refusal(error, f"remove {path}") from error


def sweep(path: Path) -> None:
    """Remove the temporary files of ``path`` whose writers are dead. Raises NodeError, Refused."""
    stale = re.compile(rf"\.{re.escape(path.name)}\.(\d+)-\d+\.tmp(-journal)?")
    try:
        for other in path.parent.iterdir():
            if (match := stale.fullmatch(other.name)) and not _alive(int(match[1])):
                other.unlink(missing_ok=True)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise _refusal(error, f"clean up beside {path}") from error


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _move_on(path: Path, descriptor: int) -> None:
    """Give the new file a time later than that of the file it replaces."""
    try:
        before = path.stat().st_mtime_ns
    except FileNotFoundError:
        return
    now = os.fstat(descriptor)
    if now.st_mtime_ns <= before:
        os.utime(descriptor, ns=(now.st_atime_ns, before + _TICK))


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refusal(error: OSError, wanted: str) -> CocoonError:
    message = f"cannot {wanted}: {error.strerror}"
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return Refused(message, hint="run as root; `lsattr` shows a file that was made immutable")
        case errno.ENOSPC | errno.EDQUOT:
            return NodeError(message, hint="free some space there: `df -h`", code="ENOSPC")
        case errno.EROFS:
            return NodeError(message, hint="the file system is mounted read-only: `dmesg` may say why", code="EROFS")
        case code:
            hint = "`namei -l` with that path shows what is on the way to it, `dmesg` what the disk says"
            return NodeError(message, hint=hint, code=errno.errorcode.get(code or 0, ""))
