"""When to look after a notice of the kernel: at once, gathered, not while a run is at it, and not without end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from functools import reduce
from operator import or_
from typing import Any

import pytest

from cocoon_net.errors import NodeError
from cocoon_net.lab.patience import eventually
from cocoon_net.node.notices import Stir, Topic
from cocoon_net.supervisor import mender
from cocoon_net.supervisor.mender import REST, TRUCE, TUG, WITHIN, Mended, Mender, rest, steps_of

LINK, RULES = Stir(frozenset((Topic.LINK,))), Stir(frozenset((Topic.RULES,)))


class Ear:
    """Notices as the test wants them."""

    def __init__(self, *heard: Stir | Exception) -> None:
        self.heard = deque(heard)

    def wait(self, seconds: float) -> Stir:
        if not self.heard:
            time.sleep(min(seconds, 0.01))
            return Stir()
        now = self.heard.popleft()
        if isinstance(now, Exception):
            raise now
        return now

    def wake(self) -> None:
        pass


def listening(ear: Ear, *outcomes: Mended, seconds: float = 1.0) -> list[Stir]:
    """What was asked to be mended."""
    asked: list[Stir] = []
    answers = deque(outcomes)

    def mend(stir: Stir, stopping: threading.Event) -> Mended:
        asked.append(stir)
        return answers.popleft() if answers else frozenset()

    one = Mender(ear, mend)  # type: ignore[arg-type]
    one.start()
    with contextlib.suppress(TimeoutError):
        eventually(lambda: not (ear.heard or answers), seconds)
    time.sleep(0.05)
    one.stop()
    return asked


@pytest.fixture(autouse=True)
def quick(monkeypatch: Any) -> None:
    for name in ("GATHER", "AGAIN"):
        monkeypatch.setattr(mender, name, 0.01)


def test_only_what_is_concerned_is_looked_at() -> None:
    assert steps_of(Stir()) == frozenset()
    assert steps_of(Stir(frozenset((Topic.ROUTE,)), frozenset((1,)))) == frozenset(), "routes are the DHCP server's"
    assert steps_of(LINK | RULES) == {"links", "bridge", "sysctl", "firewall"}
    assert steps_of(Stir(frozenset((Topic.LOST,)))) == {"links", "bridge", "sysctl", "firewall"}


def test_a_tug_of_war_is_not_fought_without_end() -> None:
    assert rest([], 0.0) == REST
    assert rest([(float(at), "jump") for at in range(TUG - 1)], TUG) == REST
    assert rest([(float(at), "jump") for at in range(TUG)], TUG) == TRUCE
    assert rest([(float(at), "jump") for at in range(TUG)], TUG + WITHIN) == REST, "it is over"
    assert rest([(0.0, f"route {number}") for number in range(1000)], 1.0) == REST, "much, and each of it once"


def test_what_comes_together_is_looked_at_together() -> None:
    assert listening(Ear(LINK, RULES)) == [LINK | RULES]


def test_ports_that_leave_their_bridge_one_after_the_other_are_looked_at_together() -> None:
    left = [Stir(frozenset((Topic.LINK,)), unplugged=frozenset(((port, 2),))) for port in range(50)]
    told = [notice for one in left for notice in (one, Stir())]  # of what is not ours the ear hears nothing
    assert listening(Ear(LINK, *told), seconds=3.0) == [LINK | reduce(or_, left)]


def test_ports_that_never_stop_leaving_keep_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mender, "LONGEST", 0.05)
    one, begun = Stir(frozenset((Topic.LINK,)), unplugged=frozenset(((3, 2),))), threading.Event()

    class Restless(Ear):
        def wait(self, seconds: float) -> Stir:
            time.sleep(0.001)
            return one

    def mend(stir: Stir, stopping: threading.Event) -> Mended:
        begun.set()
        return frozenset()

    restless = Mender(Restless(), mend)  # type: ignore[arg-type]
    restless.start()
    assert begun.wait(2.0)
    restless.stop()


def test_what_is_put_off_is_not_forgotten_and_takes_in_what_comes_meanwhile() -> None:
    ear = Ear(LINK, Stir(), RULES)
    assert listening(ear, None, None, frozenset(("a",)))[::2] == [LINK, LINK | RULES]


def test_a_look_that_fails_is_no_end() -> None:
    assert listening(Ear(NodeError("no notices"), LINK), seconds=3.0) == [LINK]


def test_it_stops_while_somebody_mends() -> None:
    begun = threading.Event()

    def mend(stir: Stir, stopping: threading.Event) -> Mended:
        begun.set()
        assert stopping.wait(5.0)
        return None

    one = Mender(Ear(LINK), mend)  # type: ignore[arg-type]
    one.start()
    assert begun.wait(2.0)
    began = time.monotonic()
    one.stop()
    assert time.monotonic() - began < 1.0
