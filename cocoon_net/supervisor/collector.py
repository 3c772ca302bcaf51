"""When Python looks for cycles in the daemon: never while it comes up, seldom afterwards, all of it once an hour.

A lease has no cycles and lives long: with Python's own numbers a table of 60,000 was searched in vain every few
seconds of a storm, for 5 us a lease and 20 ms at once. What does make cycles is rare and small: a repair through
pyroute2 leaves 4 KB, an error its traceback.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

SELDOM = (10_000, 50, 1_000)
"""Objects made, and not freed again, before the young ones are searched, and so on (``gc.set_threshold``)."""


@contextlib.contextmanager
def resting() -> Iterator[None]:
    """Have nothing searched until ``settle``, and everything as it was before in the end."""
    before = gc.get_threshold()
    gc.disable()
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
    """Search everything that came since ``settle``."""
    gc.collect()
