"""The /32 route of each lease: a machine per address, driven by leases, moved in batches.

::

    absent ── install ──▶ installing ── confirm ──▶ present ── withdraw ──▶ withdrawing ── confirm ──▶ absent
      ▲                       │ fail                   ▲                         │ fail
      └───────────────────────┘                        └─────────────────────────┘

An ACK is spoken only from ``present``; an address goes to another client only from ``absent``. What the kernel does
is confirmed by the kernel: a route that would not go is still present.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Final, Protocol

from transitions import Machine

from cocoon_net.dhcp.histogram import Histogram
from cocoon_net.dhcp.lease import moves
from cocoon_net.errors import CocoonError, InvariantError
from cocoon_net.events import Bus, Event, RouteFailed, RouteInstalled, RouteWithdrawn


class RouteState(StrEnum):
    """Where a route is in its life."""

    ABSENT = "absent"
    INSTALLING = "installing"
    PRESENT = "present"
    WITHDRAWING = "withdrawing"


ABSENT: Final = RouteState.ABSENT
INSTALLING: Final = RouteState.INSTALLING
PRESENT: Final = RouteState.PRESENT
WITHDRAWING: Final = RouteState.WITHDRAWING


class RouteTrigger(StrEnum):
    """What can happen to a route."""

    INSTALL = "install"
    WITHDRAW = "withdraw"
    CONFIRM = "confirm"
    FAIL = "fail"
    LOSE = "lose"
    """The kernel dropped it, with its link."""
    FIND = "find"
    """The kernel has it already, from an earlier life of ours."""


ROUTE_TRANSITIONS: tuple[tuple[RouteTrigger, RouteState, RouteState], ...] = (
    (RouteTrigger.INSTALL, RouteState.ABSENT, RouteState.INSTALLING),
    (RouteTrigger.CONFIRM, RouteState.INSTALLING, RouteState.PRESENT),
    (RouteTrigger.FAIL, RouteState.INSTALLING, RouteState.ABSENT),
    (RouteTrigger.WITHDRAW, RouteState.PRESENT, RouteState.WITHDRAWING),
    (RouteTrigger.CONFIRM, RouteState.WITHDRAWING, RouteState.ABSENT),
    (RouteTrigger.FAIL, RouteState.WITHDRAWING, RouteState.PRESENT),
    (RouteTrigger.LOSE, RouteState.PRESENT, RouteState.ABSENT),
    (RouteTrigger.FIND, RouteState.ABSENT, RouteState.PRESENT),
)
"""(trigger, from, to): every legal move."""


def route_machine() -> Machine:
    """Build the RouteMachine; it starts ``absent``."""
    return Machine(
        model=None,
        states=[state.value for state in RouteState],
        transitions=[[trigger.value, source.value, target.value] for trigger, source, target in ROUTE_TRANSITIONS],
        initial=RouteState.ABSENT.value,
        auto_transitions=False,
    )


ROUTE_MOVES: Final[dict[tuple[RouteState, RouteTrigger], RouteState]] = {
    (RouteState(source), RouteTrigger(trigger)): RouteState(target)
    for (source, trigger), target in moves(route_machine()).items()
}
"""The RouteMachine as a plain dict, for the hot path."""


class Wire(Protocol):
    """The kernel's side: ``cocoon_net.node.routewire.RouteWire`` of one link."""

    def change(self, present: Sequence[int], absent: Sequence[int]) -> dict[int, int]:
        """Have these routes and not those; returns the failures, address -> errno. Raises WorldError."""
        ...

    def present(self) -> set[int]:
        """Return the addresses that have a route of ours."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class Routes:
    """The state of every route; absent ones are not kept. ``bus`` gets what happened."""

    def __init__(self, bus: Bus, now: Callable[[], datetime]) -> None:
        self._bus = bus
        self._now = now
        self._states: dict[int, RouteState] = {}
        self._wire: Wire | None = None
        self.failures = 0
        """Refusals by the kernel since the start."""
        self.times = Histogram()
        """Of each batch of changes, until the kernel has answered."""
        self.doubtful = False
        """Whether the kernel owes us an answer: only a new ``connect`` can say what it has."""

    def state(self, address: int) -> RouteState:
        """Return where the route of ``address`` is."""
        return self._states.get(address, ABSENT)

    def __len__(self) -> int:
        return len(self._states)

    def doubt(self) -> None:
        """Note that what we remember may not be so."""
        self.doubtful = True

    def connect(self, wire: Wire, bound: Collection[int]) -> set[int]:
        """Start on a (new) link: have the routes of ``bound`` and no other of ours; returns those that failed.

        Nothing that we remember counts: the kernel is asked what it has. Raises WorldError.
        """
        self.disconnect()
        self._move(list(self._states), RouteTrigger.LOSE)
        found = wire.present()
        self._wire, self.doubtful = wire, False
        self._move(found, RouteTrigger.FIND)
        failed = self.install([address for address in bound if address not in found])
        return failed | self.withdraw([address for address in found if address not in bound])

    def disconnect(self) -> None:
        """Let go of the link; until the next ``connect`` every change fails."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def lose(self, addresses: Iterable[int]) -> None:
        """Take routes for gone: somebody else removed or replaced them."""
        self._move([address for address in addresses if self.state(address) is PRESENT], RouteTrigger.LOSE)

    def install(self, addresses: Iterable[int]) -> set[int]:
        """Have routes to ``addresses``; returns those that could not be had. Present ones cost nothing."""
        todo = [address for address in addresses if address not in self._states]
        return self._change(todo, RouteTrigger.INSTALL)

    def withdraw(self, addresses: Iterable[int]) -> set[int]:
        """Have no routes to ``addresses``; returns those that would not go."""
        todo = [address for address in addresses if self.state(address) is PRESENT]
        return self._change(todo, RouteTrigger.WITHDRAW)

    def _change(self, todo: list[int], trigger: RouteTrigger) -> set[int]:
        if not todo:
            return set()
        self._move(todo, trigger)
        began = time.perf_counter()
        failures = self._ask(todo, trigger is RouteTrigger.INSTALL)
        self.times.observe(time.perf_counter() - began)
        at, events = self._now(), list[Event]()
        happened = RouteInstalled if trigger is RouteTrigger.INSTALL else RouteWithdrawn
        heard = self._bus.hears(happened)
        done = [address for address in todo if address not in failures] if failures else todo
        self._move(done, RouteTrigger.CONFIRM)
        self._move(failures, RouteTrigger.FAIL)
        self.failures += len(failures)
        if heard:
            events.extend(happened(at, IPv4Address(address)) for address in done)
        events.extend(RouteFailed(at, IPv4Address(address), code) for address, code in failures.items())
        self._bus.publish(events)
        return set(failures)

    def _ask(self, todo: list[int], installing: bool) -> dict[int, int]:
        if self._wire is None:
            return dict.fromkeys(todo, errno.ENODEV)
        try:
            return self._wire.change(todo, ()) if installing else self._wire.change((), todo)
        except CocoonError:
            # Nothing is known of any of them. Taken as failed: asking again for what is there already is harmless.
            self.doubt()
            return dict.fromkeys(todo, errno.EIO)

    def _move(self, addresses: Collection[int], trigger: RouteTrigger) -> None:
        """Move routes; the machine is asked once for all that are in the same state. Raises InvariantError."""
        states = self._states
        before: RouteState | None = None
        target = ABSENT
        for address in addresses:
            state = states.get(address, ABSENT)
            if state is not before:
                before, target = state, _move(state, trigger)
            if target is ABSENT:
                del states[address]
            else:
                states[address] = target


def _move(state: RouteState, trigger: RouteTrigger) -> RouteState:
    target = ROUTE_MOVES.get((state, trigger))
    if target is None:
        raise InvariantError(f"a route that is {state} cannot {trigger}")
    return target
