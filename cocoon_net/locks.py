"""The locks of whoever acts on a node, and what becomes of them when he dies, hangs, or wakes up too late.

The lock is a ``flock``: the kernel frees it with the last descriptor, however the process ends. The line in the file
says who holds it. A holder that is certainly dead (no process of that number and start time: only a child of its
holds the descriptor still) is replaced without asking. One that lives and hangs loses its lock only by
``unlock``, with the lock's exact id: the file is taken away, the next one locks a new one, and the old holder finds
at ``Lock.require`` that the file at the path is not the one it has open, and may do nothing more.

Taking, looking and taking away happen under a ``flock`` of the directory, for an instant: without it two could find
the same dead holder, and the second one take the first one's new lock away.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cocoon_net.errors import CocoonError, Locked, Refused, SpecError, StoreError

AUDIT = "audit --repair"
"""The owner of the lock while an audit puts right what it finds; the daemon starts one every few minutes."""

AUDIT_WITHIN = 180.0
"""Seconds in which an audit ends: the daemon gives its own 150."""

_PATIENCE = 1.0
"""Seconds to wait for the directory: whoever has it needs microseconds."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock, as it wrote of itself; what an older version did not write is empty."""

    id: str = ""
    owner: str = "somebody"
    """For people: the command, or ``daemon``."""
    pid: int = 0
    space: str = ""
    """The pid namespace in which ``pid`` means something."""
    boot: str = ""
    """/proc/sys/kernel/random/boot_id."""
    started: int = 0
    """When its process began, in clock ticks since the boot (proc(5), ``stat`` field 22)."""
    command: str = ""
    since: str = ""

    @property
    def dead(self) -> bool:
        """Whether it certainly is, where its lock is held. Unknown is not dead: an older version, another pid space.

        Nor is one with another boot id: no ``flock`` outlives a boot, so it is one who sees another /proc (a service's
        sandbox inside of a container whose boot id is its own), or another machine on the same disk.
        """
        return self.boot == _boot() and self.space == _space() and _started(self.pid) != self.started

    def __str__(self) -> str:
        since = f", since {self.since}" if self.since else ""
        lock = f", lock {self.id}" if self.id else ""
        return f"{self.owner} (pid {self.pid}{since}{lock})" if self.pid else self.owner


class Lock:
    """A lock that this process holds."""

    def __init__(self, path: Path, descriptor: int, holder: Holder) -> None:
        self._path = path
        self._descriptor = descriptor
        self._file = _identity(os.fstat(descriptor))
        self.holder = holder

    def require(self) -> None:
        """Raise Locked when the lock was taken away; costs one ``stat``. To be asked before every act."""
        try:
            there = _identity(self._path.stat())
        except FileNotFoundError:
            there = None
        except OSError as error:
            raise refusal(self._path, error) from error
        if there != self._file:
            by = _read(self._descriptor).owner
            raise Locked(
                f"the lock of this {self.holder.owner} was taken away by {by}: it stops here and writes nothing more",
                hint="`cocoon-net workflow show` tells where the run stands; its --resume goes on",
                owner=by,
            )

    def release(self) -> None:
        """Give it back; the file stays, empty."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


@contextlib.contextmanager
def locked(
    path: Path,
    *,
    what: str,
    owner: str,
    hint: str = "",
    say: Callable[[str], None] | None = None,
    after_audit: bool = False,
) -> Iterator[Lock]:
    """Hold the lock at ``path``, for what ``owner`` names, until the end or our death.

    ``what`` begins the message of the Locked that is raised when another one lives; ``say`` is told when a dead one's
    lock is taken over, and when an audit is waited for. ``after_audit``: an audit is, for it comes by itself and ends
    soon, so nobody should have to type a command twice for it. Raises Refused, StoreError when the file cannot be
    written.
    """
    tell = say or (lambda line: None)
    deadline = time.monotonic() + AUDIT_WITHIN
    told = False
    while True:
        try:
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            with _latch(path.parent):
                lock = _take(path, what, owner, hint, tell)
            break
        except OSError as error:
            raise refusal(path, error) from error
        except Locked as error:
            if not after_audit or not error.owner.startswith(AUDIT) or time.monotonic() >= deadline:
                raise
            if not told:
                tell(f"waiting for {error.owner} to end")
                told = True
        time.sleep(0.05)
    try:
        yield lock
    finally:
        lock.release()


def holder(path: Path) -> Holder | None:
    """Return who holds the lock at ``path``; None when nobody alive does. Raises Refused, StoreError."""
    try:
        with _latch(path.parent), _opened(path, os.O_RDONLY) as descriptor:
            if _try(descriptor, fcntl.LOCK_SH):
                return None
            found = _read(descriptor)
            return None if found.dead else found
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refusal(path, error, "read") from error


def unlock(path: Path, lock: str, *, by: str) -> Holder:
    """Take the lock of id ``lock`` away from its holder and return that one; it is fenced from then on.

    ``by`` is what it will be told. Raises SpecError when nobody holds the lock, or one of another id.
    """
    try:
        with _latch(path.parent), _opened(path, os.O_RDWR) as descriptor:
            found = None if _try(descriptor, fcntl.LOCK_SH) else _read(descriptor)
            if found is None:
                raise FileNotFoundError(path)
            if not found.id or found.id != lock:
                raise SpecError(
                    f"the lock {lock!r} is not the one that is held: that is {found}",
                    hint=f"if it hangs: cocoon-net workflow unlock {found.id}" if found.id else f"kill {found.pid}",
                )
            with contextlib.suppress(OSError):  # courtesy: a full disk must not keep the lock
                _write(descriptor, Holder(owner=by))
            path.unlink()
            return found
    except FileNotFoundError:
        raise SpecError(f"nobody holds {path}", hint="nothing is in the way: give your command again") from None
    except OSError as error:
        raise refusal(path, error) from error


def refusal(path: Path, error: OSError, verb: str = "written") -> CocoonError:
    """Return the error for a state file that the system refused."""
    message = f"{path} cannot be {verb}: {error.strerror or error}"
    if isinstance(error, PermissionError):
        return Refused(message, hint="run as root; `lsattr` shows a file that was made immutable")
    return StoreError(message, hint="see `df -h` and `dmesg`, or give --state-dir a directory that can be written")


def _take(path: Path, what: str, owner: str, hint: str, say: Callable[[str], None]) -> Lock:
    """Lock the file and write into it who we are. The directory is held."""
    descriptor = _open(path, os.O_RDWR | os.O_CREAT)
    try:
        if _try(descriptor, fcntl.LOCK_EX):
            left = _read(descriptor)
            if left.pid:
                say(f"{left} died without giving {path.name} back")
        else:
            other = _read(descriptor)
            if not other.dead:
                raise Locked(
                    f"{what}: {other} holds {path}",
                    hint=hint or _ways_out(other),
                    owner=str(other),
                )
            say(f"{other} is dead, and only a child of it holds {path.name}: the lock is taken over")
            path.unlink()
            os.close(descriptor)
            descriptor = _open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ourselves = Holder(
            id=secrets.token_hex(3),
            owner=owner,
            pid=os.getpid(),
            space=_space(),
            boot=_boot(),
            started=_started(os.getpid()),
            command=" ".join(sys.argv),
            since=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        _write(descriptor, ourselves)
    except BaseException:
        os.close(descriptor)
        raise
    return Lock(path, descriptor, ourselves)


def _ways_out(other: Holder) -> str:
    hangs = f"; if it hangs: `cocoon-net workflow unlock {other.id}`" if other.id else ""
    return f"wait for it, or stop it (kill {other.pid}){hangs}"


@contextlib.contextmanager
def _latch(directory: Path) -> Iterator[None]:
    """Hold the directory for an instant. Raises Locked when somebody else does for longer than that."""
    deadline = time.monotonic() + _PATIENCE
    with _opened(directory, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        while not _try(descriptor, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise Locked(
                    f"another process keeps {directory} locked",
                    hint=f"`fuser -v {directory}` shows it: it was stopped while it took a lock",
                )
            time.sleep(0.005)
        yield


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = _open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(descriptor: int) -> Holder:
    """Read the line; a file without one, or with another's scribble, names nobody."""
    text = os.pread(descriptor, 8192, 0).decode(errors="replace").strip()
    try:
        data = json.loads(text)
        return Holder(
            id=str(data.get("id", "")),
            owner=str(data["owner"]),
            pid=int(data.get("pid", 0)),
            space=str(data.get("space", "")),
            boot=str(data.get("boot", "")),
            started=int(data.get("started", 0)),
            command=str(data.get("command", "")),
            since=str(data.get("since", "")),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return Holder(owner=text or Holder().owner)


def _write(descriptor: int, line: Holder) -> None:
    data = (json.dumps(asdict(line)) + "\n").encode()
    if os.pwrite(descriptor, data, 0) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(descriptor, len(data))


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _space() -> str:
    return str(Path("/proc/self/ns/pid").readlink())


def _started(pid: int) -> int:
    """Return when the process began; 0 when there is none, or it is a corpse that nobody has buried."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    words = text.rpartition(")")[2].split()  # the command's name may hold anything
    return 0 if words[0] in "ZX" else int(words[19])
