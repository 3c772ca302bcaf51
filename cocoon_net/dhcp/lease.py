"""A lease, and the machine that says what may become of it.

::

    free ── offer ──▶ offered ── bind ──▶ bound ── release, expire, rebind ──▶ cooling ── reuse ──▶ free
      └───────────────── bind ─────────────▲  │ renew                             │
                        (a known client)   │  └─▶ bound                           │
                                           └──────────── bind (its own client) ───┘
    offered ── expire, refuse ──▶ free          offered, bound ── decline ──▶ quarantined ── reuse ──▶ free

A trigger of ``transitions`` costs 11-27 us, too much for each packet: ``MOVES`` is read out of the machine once.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, NamedTuple

from transitions import Machine

from cocoon_net.errors import InvariantError


class State(StrEnum):
    """Where an address is in its life."""

    FREE = "free"
    OFFERED = "offered"
    """Courtesy: held in memory for a client that has not asked yet; never written down."""
    BOUND = "bound"
    COOLING = "cooling"
    """Given back, and not yet given to another client; its own client may have it at once."""
    QUARANTINED = "quarantined"
    """A client said that somebody else uses it."""


FREE: Final = State.FREE
OFFERED: Final = State.OFFERED
BOUND: Final = State.BOUND
COOLING: Final = State.COOLING
QUARANTINED: Final = State.QUARANTINED
"""Plain names for the hot path: to read a member off its class takes 70 ns, and a lease looks at some forty."""


class Trigger(StrEnum):
    """What can happen to an address."""

    OFFER = "offer"
    BIND = "bind"
    RENEW = "renew"
    RELEASE = "release"
    EXPIRE = "expire"
    REBIND = "rebind"
    """Its client moved to another address."""
    REFUSE = "refuse"
    """Its client chose another server."""
    DECLINE = "decline"
    REUSE = "reuse"


class Client(NamedTuple):
    """Who speaks: docs/decisions/0006-who-is-a-client.md says when two of them are the same one."""

    mac: bytes
    id: bytes = b""
    """The client identifier, option 61; empty when there is none (RFC 2131 §4.2)."""
    port: str = ""
    """The bridge port; empty when nobody knows."""


class Lease(NamedTuple):
    """One address: its state, until when, and whose it is or was last. Times are Unix seconds."""

    address: int
    state: State
    ends: int
    """When the state ends by itself; 0 for a free address."""
    mac: bytes = b""
    """The client of this address, also its last one while free; empty for nobody. Names at most one address."""
    since: int = 0
    """When the state began; orders free addresses by how long they have not been used."""
    client_id: bytes = b""
    hostname: str = ""
    port: str = ""
    """The bridge port that the client was last served at; empty when nobody knows, e.g. after an import."""


def moved(lease: Lease, by: int) -> Lease:
    """Return a lease with its times moved by ``by`` seconds, for a clock that jumped by as much."""
    ends = 0 if lease.state is State.FREE else lease.ends + by
    return lease._replace(ends=ends, since=lease.since + by)


def owns(lease: Lease, client: Client) -> bool:
    """Whether a lease or an offer is a client's: the rule of docs/decisions/0006-who-is-a-client.md."""
    if lease.mac == client.mac:
        return lease.client_id == client.id or not client.id or not lease.client_id
    return bool(client.id and client.port) and lease.client_id == client.id and lease.port == client.port


TRANSITIONS: tuple[tuple[Trigger, State, State], ...] = (
    (Trigger.OFFER, State.FREE, State.OFFERED),
    (Trigger.OFFER, State.COOLING, State.COOLING),
    (Trigger.OFFER, State.OFFERED, State.OFFERED),
    (Trigger.OFFER, State.BOUND, State.BOUND),
    (Trigger.BIND, State.OFFERED, State.BOUND),
    (Trigger.BIND, State.FREE, State.BOUND),
    (Trigger.BIND, State.COOLING, State.BOUND),
    (Trigger.RENEW, State.BOUND, State.BOUND),
    (Trigger.RELEASE, State.BOUND, State.COOLING),
    (Trigger.EXPIRE, State.BOUND, State.COOLING),
    (Trigger.REBIND, State.BOUND, State.COOLING),
    (Trigger.REBIND, State.COOLING, State.COOLING),
    (Trigger.REBIND, State.FREE, State.FREE),
    (Trigger.EXPIRE, State.OFFERED, State.FREE),
    (Trigger.REFUSE, State.OFFERED, State.FREE),
    (Trigger.DECLINE, State.OFFERED, State.QUARANTINED),
    (Trigger.DECLINE, State.BOUND, State.QUARANTINED),
    (Trigger.REUSE, State.COOLING, State.FREE),
    (Trigger.REUSE, State.QUARANTINED, State.FREE),
)
"""(trigger, from, to): every legal move. What a client holds already stays as it is while it is offered again."""


def lease_machine() -> Machine:
    """Build the LeaseMachine; it starts ``free``."""
    return Machine(
        model=None,
        states=[state.value for state in State],
        transitions=[[trigger.value, source.value, target.value] for trigger, source, target in TRANSITIONS],
        initial=State.FREE.value,
        auto_transitions=False,
    )


def moves(machine: Any) -> dict[tuple[str, str], str]:
    """Read a machine's own table: (state, trigger) -> state."""
    return {
        (source, event.name): transition.dest
        for event in machine.events.values()
        for source, transitions in event.transitions.items()
        for transition in transitions
    }


MOVES: Final[dict[tuple[State, Trigger], State]] = {
    (State(source), Trigger(trigger)): State(target) for (source, trigger), target in moves(lease_machine()).items()
}
"""The LeaseMachine as a plain dict, for the hot path."""


def move(state: State, trigger: Trigger) -> State:
    """Return where ``trigger`` leads from ``state``. Raises InvariantError where it leads nowhere."""
    try:
        return MOVES[state, trigger]
    except KeyError:
        raise InvariantError(f"a lease that is {state} cannot {trigger}") from None
