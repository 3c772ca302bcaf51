"""The daemon's memory: when Python looks for cycles in it, and when what is free goes back to the kernel.

Cycles are searched for never while it comes up, seldom afterwards; young ones after each audit, all once an hour.

A lease has no cycles and lives long: with Python's own numbers a table of 60,000 was searched in vain every few
seconds of a storm, for 5 us a lease and 20 ms at once. What does make cycles is rare and small: a repair through
pyroute2 leaves 4 KB, an error its traceback.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator

SELDOM = (2_000, 50, 1_000)
"""Objects made, and not freed again, before the young ones are searched, and so on (``gc.set_threshold``)."""

_LIBC = ctypes.CDLL(None)
_ARENA_MAX = -8  # M_ARENA_MAX of mallopt(3)


@contextlib.contextmanager
def resting() -> Iterator[None]:
    """Have nothing searched until ``settle``, and everything as it was before in the end.

    From now on, and for good, all threads share two heaps (mallopt(3)): with one each, those that come and go leave 16
    half empty.
    """
    before = gc.get_threshold()
    gc.disable()
    if hasattr(_LIBC, "mallopt"):
        _LIBC.mallopt(_ARENA_MAX, 2)
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
        gc.enable()


def settle() -> None:
    """Search for the last time what there is by now: it stays, and no later search need read it. Then seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*SELDOM)
    gc.enable()


def collect() -> None:
    """Search everything that came since ``settle``: 10 ms with 16,000 decisions in the ring."""
    gc.collect()


def release() -> None:
    """Search what is young, and give free pages back to the kernel (malloc_trim(3)): about a millisecond.

    A heap shrinks by itself only from its top: what lies there keeps all below it. Without glibc nothing is given back.
    """
    gc.collect(1)
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)
