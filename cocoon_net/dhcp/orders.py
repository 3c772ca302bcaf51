"""Orders to the server's loop from other threads: left in a queue, carried out in the loop, waited for."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from cocoon_net.errors import CocoonError, NodeTransient

ANSWER_WITHIN = 5.0
"""Seconds; as long as vk-cocoon waits for us."""

_T = TypeVar("_T")


class Orders:
    """A queue with a descriptor to poll.

    An order takes the time in Unix seconds; its CocoonError goes to whoever gave it.
    """

    def __init__(self) -> None:
        self._queue: deque[tuple[Callable[[int], Any], Future[Any]]] = deque()
        self._open = threading.Event()
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)

    def ask(self, act: Callable[[int], _T]) -> _T:
        """Have the loop call ``act`` and return what it returned. Raises NodeTransient when nobody answers."""
        if not self._open.is_set():
            raise NodeTransient("the DHCP server is not running", hint="see `systemctl status cocoon-net`")
        answer: Future[_T] = Future()
        self._queue.append((act, answer))
        self.wake()
        try:
            return answer.result(ANSWER_WITHIN)
        except TimeoutError:
            raise NodeTransient(f"the DHCP server did not answer within {ANSWER_WITHIN:.0f} s") from None

    def wake(self) -> None:
        """Have the loop wake up, with nothing to do."""
        os.eventfd_write(self.descriptor, 1)

    def obey(self, now: int) -> None:
        """Carry out what has been asked. Called by the loop."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)
        while self._queue:
            act, answer = self._queue.popleft()
            try:
                answer.set_result(act(now))
            except CocoonError as error:
                answer.set_exception(error)

    def open(self) -> None:
        """Take orders from now on."""
        self._open.set()

    def close(self) -> None:
        """Take no more; who waits is told at once."""
        self._open.clear()
        while self._queue:
            self._queue.popleft()[1].set_exception(NodeTransient("the DHCP server is stopping"))

    def wait(self, seconds: float) -> bool:
        """Wait until orders are taken; False when they are not within ``seconds``."""
        return self._open.wait(seconds)
