"""A process that outlives the command which started it, known by PID and start time so that no other is ever hit."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Task:
    """A process. ``started``: clock ticks from boot to its start (proc_pid_stat(5), field 22)."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Tell whether this very process runs; a zombie does not."""
        return look(self.pid) == self


def look(pid: int) -> Task | None:
    """Return the process that has this PID now, None if nothing runs under it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name is in parentheses and may contain anything, also parentheses.
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else Task(pid, int(fields[18]))


def end(tasks: Iterable[Task], patience: float = 2.0) -> None:
    """End processes: SIGTERM, after ``patience`` seconds SIGKILL; returns when they have ended."""
    with contextlib.ExitStack() as stack:
        handles: dict[int, Task] = {}
        for task in tasks:
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(task.pid)
                stack.callback(os.close, handle)
                # Only with the handle open can the PID not become somebody else's between look and kill.
                if task.alive:
                    handles[handle] = task
        for number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
            for handle in handles:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
            _wait(handles, wait)


def _wait(handles: dict[int, Task], seconds: float) -> None:
    """Take those out of ``handles`` that have ended within ``seconds``; a child of ours is reaped."""
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    deadline = time.monotonic() + seconds
    while handles and (left := deadline - time.monotonic()) > 0:
        for handle, _ in poll.poll(left * 1000):
            poll.unregister(handle)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(handles[handle].pid, os.WNOHANG)
            del handles[handle]
