"""Typed events, and the small bus they travel on.

Events are facts that have happened: frozen, past tense, cheap. Whoever publishes does not know who listens; a
listener that fails is logged and never breaks the publisher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address
from typing import Any, TypeVar


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, and when (UTC)."""

    at: datetime


@dataclass(frozen=True, slots=True)
class LeaseBound(Event):
    """A lease was promised for the first time, or to another client: the ACK was committed, routed and spoken."""

    address: IPv4Address
    mac: str
    expires: datetime
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class LeaseRenewed(Event):
    """A client's lease got a later end."""

    address: IPv4Address
    mac: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class LeaseReleased(Event):
    """A lease ended before its time; ``by`` is ``client``, ``control`` or ``rebind``."""

    address: IPv4Address
    mac: str
    by: str


@dataclass(frozen=True, slots=True)
class LeaseExpired(Event):
    """A lease ended because its client did not renew it."""

    address: IPv4Address
    mac: str


@dataclass(frozen=True, slots=True)
class LeaseDeclined(Event):
    """A client said that somebody else uses the address; it is quarantined until ``until``."""

    address: IPv4Address
    mac: str
    until: datetime


@dataclass(frozen=True, slots=True)
class AddressInUse(Event):
    """``mac`` answers for an address that it was never leased; it is quarantined until ``until``."""

    address: IPv4Address
    mac: str
    until: datetime


@dataclass(frozen=True, slots=True)
class PoolExhausted(Event):
    """A client asked and no address was free."""

    mac: str


@dataclass(frozen=True, slots=True)
class PortRefused(Event):
    """Messages from a bridge port were not answered: ``count`` since the last such event, the latest from ``mac``."""

    port: str
    reason: str
    mac: str
    count: int


@dataclass(frozen=True, slots=True)
class RouteInstalled(Event):
    """The /32 route of a lease is in the kernel."""

    address: IPv4Address


@dataclass(frozen=True, slots=True)
class RouteWithdrawn(Event):
    """The /32 route of a lease is gone from the kernel."""

    address: IPv4Address


@dataclass(frozen=True, slots=True)
class RouteFailed(Event):
    """The kernel refused a route; ``errno`` is its reason."""

    address: IPv4Address
    errno: int


@dataclass(frozen=True, slots=True)
class StepEntered(Event):
    """A run has begun to look at a step."""

    run: str
    step: str


@dataclass(frozen=True, slots=True)
class StepWaiting(Event):
    """A step is not at rest yet; ``why`` says what it waits for."""

    run: str
    step: str
    why: str


@dataclass(frozen=True, slots=True)
class ChangeApplied(Event):
    """One change was made; ``key`` and ``verb`` as in the journal."""

    run: str
    step: str
    key: str
    verb: str


@dataclass(frozen=True, slots=True)
class StepSettled(Event):
    """A step's world is as wanted; ``changes`` were needed since the run entered it."""

    run: str
    step: str
    changes: int
    seconds: float


E_ = TypeVar("E_", bound=Event)


class Bus:
    """Hands each event to the listeners of its type, in the publisher's thread, in order of subscription."""

    def __init__(self, on_error: Callable[[Event, Exception], None] | None = None) -> None:
        self._listeners: dict[type[Event], list[Callable[[Any], None]]] = {}
        self._counters: dict[type[Event], Callable[[type[Event], int], int]] = {}
        self._on_error = on_error

    def subscribe(self, kind: type[E_], listener: Callable[[E_], None]) -> None:
        """Call ``listener`` for every event of exactly ``kind``; ``Event`` itself means all of them."""
        self._listeners.setdefault(kind, []).append(listener)
        for counted in list(self._counters) if kind is Event else [kind]:
            self._counters.pop(counted, None)

    def hears(self, kind: type[Event]) -> bool:
        """Whether anybody listens to ``kind``: what nobody would hear need not be made."""
        return kind in self._listeners or Event in self._listeners

    def count(self, kind: type[Event], counter: Callable[[type[Event], int], int]) -> None:
        """Have ``counter`` asked before so many events are made: it counts some, and returns how many to make.

        Only while ``kind`` has one listener: another one wants to hear of each.
        """
        if len(self._listeners.get(kind, ())) + len(self._listeners.get(Event, ())) == 1:
            self._counters[kind] = counter

    def wants(self, kind: type[Event], count: int) -> int:
        """Return how many of ``count`` events that have just happened are to be made and published."""
        counter = self._counters.get(kind)
        return counter(kind, count) if counter is not None else count if self.hears(kind) else 0

    def publish(self, events: Iterable[Event]) -> None:
        """Deliver ``events`` one after the other."""
        for event in events:
            for listener in (*self._listeners.get(type(event), ()), *self._listeners.get(Event, ())):
                try:
                    listener(event)
                except Exception as error:
                    if self._on_error is None:
                        raise
                    self._on_error(event, error)
