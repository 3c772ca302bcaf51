"""Whether a daemon serves this node: the lock says it, the PID file is only for those who look for it there."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from cocoon_net.errors import NodeError
from cocoon_net.locks import holder, locked
from cocoon_net.site import Site


@contextlib.contextmanager
def alone(site: Site, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Be the only daemon of this state directory. Raises Locked when there is one."""
    with locked(
        site.daemon_lock,
        what="a daemon serves this node already",
        owner="daemon",
        hint="one daemon per node: use it, or stop it (systemctl stop cocoon-net; kill -9 if it hangs)",
        say=say,
    ):
        yield


def daemon_owner(site: Site) -> str | None:
    """Return what the live daemon of this state directory wrote of itself, for people; None when there is none."""
    found = holder(site.daemon_lock)
    return None if found is None else str(found)


def daemon_pid(site: Site) -> int | None:
    """Return the live daemon's process id, None when there is none."""
    found = holder(site.daemon_lock)
    return found.pid if found is not None and found.pid else None


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
