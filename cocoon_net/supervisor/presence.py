"""Whether a daemon serves this node: the lock says it, the PID file is only for those who look for it there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from cocoon_net.errors import Locked, NodeError
from cocoon_net.site import Site
from cocoon_net.store import locked

_PATIENCE = 0.3
"""Seconds to wait for a lock that a passing ``daemon_owner`` may hold for the blink of a look."""


def lock_file(site: Site) -> Path:
    """Return where the daemon's lock is."""
    return site.state_dir / "daemon.lock"


@contextlib.contextmanager
def alone(site: Site) -> Iterator[None]:
    """Be the only daemon of this state directory. Raises Locked when there is one."""
    deadline = time.monotonic() + _PATIENCE
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(
                    locked(
                        lock_file(site),
                        what="a daemon serves this node already",
                        owner=f"daemon, pid {os.getpid()}",
                        hint="one daemon per node: use it, or stop it (systemctl stop cocoon-net)",
                    )
                )
                break
            except Locked:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.02)
        yield


def daemon_owner(site: Site) -> str | None:
    """Return what the live daemon of this state directory wrote of itself, None when there is none.

    Takes the lock for an instant, shared, and only to see whether somebody holds it.
    """
    return _held(lock_file(site))


def daemon_pid(site: Site) -> int | None:
    """Return the live daemon's process id, None when there is none."""
    owner = daemon_owner(site)
    if owner is None:
        return None
    try:
        return int(json.loads(owner)["pid"])
    except (ValueError, KeyError, TypeError):
        return None


def reload_running(site: Site) -> bool:
    """Tell the live daemon to read the pool again (SIGHUP); returns whether there was one to tell."""
    pid = daemon_pid(site)
    if pid is None:
        return False
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # The descriptor stands for the process that had this pid; it is the daemon if that still holds the lock.
        if daemon_pid(site) != pid:
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGHUP)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextlib.contextmanager
def pid_written(path: Path) -> Iterator[None]:
    """Keep our PID in ``path`` (decimal, mode 0644); on a clean end it is removed if it is still ours."""
    text = f"{os.getpid()}\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        temporary.write_text(text, encoding="ascii")
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise NodeError(
            f"the PID file {path} cannot be written: {error.strerror or error}", hint="give another --run-dir"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.read_text(encoding="ascii") == text:
                path.unlink()


def _held(path: Path) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 4096, 0).decode(errors="replace").strip() or "somebody"
    finally:
        os.close(descriptor)
    return None
