"""Waiting for what others do, here or in another process: to look again and again, for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

EVERY = 0.02
"""Seconds between two looks."""

_T = TypeVar("_T")


def eventually(what: Callable[[], _T], seconds: float = 20.0, *, why: Callable[[], str] = str) -> _T:
    """Return ``what()`` as soon as it is true. Raises TimeoutError, with what it was and what ``why()`` says."""
    until = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > until:
            raise TimeoutError(f"still {found!r} after {seconds:g} s {why()}".rstrip())
        time.sleep(EVERY)
    return found
