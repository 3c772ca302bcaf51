"""pyroute2's ``IPRoute``, one for the whole process: what changes links and addresses goes through it.

It lives in one worker thread, whoever asks: pyroute2 keeps an event loop and a socket for each thread that calls it,
and never lets go of those of threads that ended. Nothing imports pyroute2 before something is to be changed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

PATIENCE = 10.0
"""Seconds that the kernel is given for one answer; it takes microseconds unless something holds the rtnl lock."""

_T = TypeVar("_T")


class _Worker:
    """The one thread that changes the kernel, with its IPRoute; both appear when they are first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._ipr: Any = None  # touched by the worker thread only

    def ask(self, call: Callable[[Any], _T]) -> _T:
        with self._lock:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="netlink")
            answer = self._thread.submit(self._call, call)
        return answer.result(PATIENCE)

    def _call(self, call: Callable[[Any], _T]) -> _T:
        from pyroute2 import IPRoute

        if self._ipr is None:
            self._ipr = IPRoute()
        try:
            return call(self._ipr)
        except OSError:
            self._release()  # the socket itself failed; the next call opens another
            raise

    def close(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.submit(self._release)
            thread.shutdown()

    def _release(self) -> None:
        ipr, self._ipr = self._ipr, None
        if ipr is not None:
            ipr.close()


_worker = _Worker()


def ask(call: Callable[[Any], _T]) -> _T:
    """Have ``call`` speak to the kernel through the one IPRoute, in the network namespace of whoever asked first.

    Raises OSError with the kernel's errno and what it said; TimeoutError when it does not answer.
    """
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        return _worker.ask(call)
    except NetlinkError as error:
        raise OSError(int(error.code), str(error.args[1]) if len(error.args) > 1 else "") from error


def close() -> None:
    """Close the socket and end its thread; the next call starts anew, in the caller's network namespace."""
    _worker.close()


def _forget() -> None:
    """After a fork the thread is the parent's: start with none."""
    global _worker
    _worker = _Worker()


os.register_at_fork(after_in_child=_forget)
