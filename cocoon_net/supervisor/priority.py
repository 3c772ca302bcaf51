"""How a process that started a session gives way to everybody else on this node, and how it claims a share after all.

SCHED_IDLE alone does not do it. Where the kernel shares out its processors between sessions (sched(7), autogroup), it
weighs session against session: an idle process in one of its own is not idle to the others, and who wakes up there
waits for the end of its time slice, which is the next tick. So the session gets the smallest share, and the process
asks for longer slices than others have: since Linux 6.12 who wants a shorter one has the processor at once
(sched_setattr(2), ``sched_runtime``). Older kernels take the number and do nothing with it. What is started later
inherits both. docs/decisions/0017-idle-is-not-idle-to-another-session.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
from pathlib import Path
from typing import NamedTuple

SLICE = 0.01
"""Seconds; everybody else's is one to three milliseconds, and a guest that only computes waits no longer than this."""

LEAST = 19
"""Niceness of a session that has 15 parts of a processor where others have 1,024."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275), "riscv64": (274, 275)}.get(platform.machine())
"""The numbers of sched_setattr(2) and sched_getattr(2), for which libc has no functions before glibc 2.41."""
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""struct sched_attr: size, policy, flags, nice, priority, runtime in ns, deadline, period."""


class Priority(NamedTuple):
    """How a process is scheduled."""

    policy: int
    nice: int
    slice: float
    """Seconds; 0 where the kernel does not tell."""


def give_way(pid: int) -> None:
    """Have a process run only where nobody else wants the processor; what the kernel refuses stays as it is.

    Its slice comes first: to SCHED_IDLE the kernel takes none.
    """
    _set_slice(pid, SLICE)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    _weigh(pid, LEAST)


def insist(pid: int, nice: int) -> None:
    """Give a process its share of a busy processor: each of its threads has a policy of its own (sched(7)).

    Being nice comes first: without CAP_SYS_NICE, SCHED_IDLE may only be left for what RLIMIT_NICE allows.
    """
    _weigh(pid, nice)
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, int(task.name), nice)
            os.sched_setscheduler(int(task.name), os.SCHED_OTHER, os.sched_param(0))


def priority(pid: int) -> Priority:
    """Return how a process is scheduled, 0 is this one. Raises OSError for one that is not there."""
    policy, nice = os.sched_getscheduler(pid), os.getpriority(os.PRIO_PROCESS, pid)
    attributes = ctypes.create_string_buffer(_ATTRIBUTES.size)
    if _CALLS is None or _LIBC.syscall(_CALLS[1], pid, attributes, _ATTRIBUTES.size, 0):
        return Priority(policy, nice, 0.0)
    return Priority(policy, nice, _ATTRIBUTES.unpack(attributes.raw)[5] / 1e9)


def _set_slice(pid: int, seconds: float) -> None:
    if _CALLS is None:
        return
    with contextlib.suppress(OSError):
        nice = os.getpriority(os.PRIO_PROCESS, pid)
        attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, int(seconds * 1e9), 0, 0)
        _LIBC.syscall(_CALLS[0], pid, attributes, 0)


def _weigh(pid: int, nice: int) -> None:
    """Set the share of a process's session; a kernel without them, or one that was asked just now, leaves it."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(nice), encoding="ascii")
