"""What a packet, a timer or an operator leads to: a value, so that deciding can be tested and undone."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address
from typing import Final, NamedTuple

from cocoon_net.dhcp.lease import BOUND, COOLING, Client, Lease, State, Trigger, move
from cocoon_net.dhcp.options import ACK, MessageType
from cocoon_net.dhcp.table import Table
from cocoon_net.dhcp.tuples import NEW
from cocoon_net.events import AddressInUse, Event, LeaseBound, LeaseExpired, LeaseReleased, LeaseRenewed


class Reason(StrEnum):
    """Why it was decided so; counted by the server, written to the history."""

    OFFERED = "offered"
    BOUND = "bound"
    RENEWED = "renewed"
    INFORMED = "informed"
    RELEASED = "released"
    ENDED = "ended by order"
    DECLINED = "declined"
    EXPIRED = "expired"
    COOLED = "cooled"
    HEALED = "healed"
    EXHAUSTED = "no address is free"
    OTHER_SERVER = "the client chose another server"
    OTHER_SUBNET = "the relay is in another subnet"
    NO_RECORD = "we have no record of the client"
    NO_ADDRESS = "the message names no address"
    NOT_ITS_OWN = "the address is not the client's"
    NOT_A_REQUEST = "not a client's message"
    WRONG_SUBNET = "the address is not in this subnet"
    NOT_IN_POOL = "the address is not served here"
    TAKEN = "the address belongs to another client"
    RESERVED = "a reservation keeps the address for another client, or another for this one"
    UNKEPT = "it could not be written down or routed"
    CONFLICT = "somebody uses the address without a lease"
    TOO_OFTEN = "the port asks too often"
    FORGED = "the frame is not from the client that it names"
    FOREIGN_RELAY = "the relay's address belongs to a guest at another port"
    OTHER_PORT = "the client is served at another port"
    CROWDED = "the port has its share of addresses"


RENEWED: Final = Reason.RENEWED


class Decision(NamedTuple):
    """What to say, what to write down first, and what to tell the rest of the program afterwards.

    An address whose lease becomes ``BOUND`` is routed before the reply; one that stops being so is unrouted after
    the commit.
    """

    reason: Reason
    kind: MessageType | None = None
    """The reply; None is silence."""
    address: int = 0
    """``yiaddr`` of the reply."""
    seconds: int = 0
    """The lease time that the reply promises."""
    changes: tuple[Lease, ...] = ()
    """To commit, all or none."""
    offer: Lease | None = None
    """To hold in memory."""
    withdrawn: int = 0
    """An offer to forget."""
    events: tuple[Event, ...] = ()
    """Without that of a lease that was promised: ``promised`` makes it."""


def silence(reason: Reason) -> Decision:
    """Say nothing, change nothing."""
    return Decision(reason)


def bind(table: Table, address: int, client: Client, seconds: int, now: int, hostname: str = "") -> Decision:
    """Promise ``address`` to a client for ``seconds``; whatever else it held is given back in the same commit."""
    old, mac = table.at(address), client.mac
    renewed = old.state is BOUND and old.mac == mac
    fields = (
        address,
        move(old.state, Trigger.RENEW if old.state is BOUND else Trigger.BIND),
        now + seconds,
        mac,
        old.since if renewed else now,
        client.id or (old.client_id if old.mac == mac else b""),
        hostname or (old.hostname if old.mac == mac else ""),
        client.port,
    )
    lease = NEW(Lease, fields)
    reason = RENEWED if renewed else Reason.BOUND
    held = table.held(client)
    if held is None or held.address == address:
        return NEW(Decision, (reason, ACK, address, seconds, (lease,), None, 0, ()))
    left = leave(table, held, now)
    return Decision(reason, ACK, address, seconds, (*left.changes, lease), events=left.events)


def promised(decision: Decision, now: int) -> LeaseBound | LeaseRenewed:
    """Return the event of an ACK with a lease. Apart from the others, for a storm makes more of them than are told."""
    lease = decision.changes[-1]
    at, address, mac, until = when(now), IPv4Address(lease.address), name(lease.mac), when(lease.ends)
    if decision.reason is RENEWED:
        return LeaseRenewed(at, address, mac, until)
    return LeaseBound(at, address, mac, until, lease.hostname)


def leave(table: Table, lease: Lease, now: int) -> Decision:
    """Take ``lease`` from its client for good: it moves on, or the address is not ours to give any more."""
    state = move(lease.state, Trigger.REBIND)
    if lease.state is not BOUND:
        return Decision(Reason.RELEASED, changes=(lease._replace(mac=b"", client_id=b""),))
    event = LeaseReleased(when(now), IPv4Address(lease.address), name(lease.mac), "rebind")
    cooling = Lease(lease.address, state, now + table.pool.terms.cooling, since=now, port=lease.port)
    return Decision(Reason.RELEASED, changes=(cooling,), events=(event,))


def release(table: Table, lease: Lease, now: int, by: str) -> Decision:
    """End a bound lease before its time; the address stays its client's while nobody else needs it."""
    event = LeaseReleased(when(now), IPv4Address(lease.address), name(lease.mac), by)
    reason = Reason.RELEASED if by == "client" else Reason.ENDED
    return Decision(reason, changes=(_cool(table, lease, Trigger.RELEASE, now),), events=(event,))


def conflicting(table: Table, address: int, mac: bytes, now: int) -> Decision:
    """Quarantine an address on offer that ``mac`` answers for, though it has no lease of it."""
    until = now + table.pool.terms.quarantine
    quarantined = Lease(address, move(table.at(address).state, Trigger.DECLINE), until, since=now)
    event = AddressInUse(when(now), IPv4Address(address), name(mac), when(until))
    return Decision(Reason.CONFLICT, changes=(quarantined,), events=(event,))


def end(table: Table, lease: Lease, now: int) -> Decision:
    """End whatever state of an address has run out of time."""
    match lease.state:
        case State.OFFERED:
            return Decision(Reason.EXPIRED, withdrawn=lease.address)
        case State.BOUND:
            event = LeaseExpired(when(now), IPv4Address(lease.address), name(lease.mac))
            return Decision(Reason.EXPIRED, changes=(_cool(table, lease, Trigger.EXPIRE, now),), events=(event,))
        case _:
            # Its client's name stays on it: whoever comes back finds its address again, if nobody took it.
            state = move(lease.state, Trigger.REUSE)
            reason = Reason.COOLED if lease.state is COOLING else Reason.HEALED
            return Decision(reason, changes=(lease._replace(state=state, ends=0, since=now),))


def _cool(table: Table, lease: Lease, trigger: Trigger, now: int) -> Lease:
    return lease._replace(state=move(lease.state, trigger), ends=now + table.pool.terms.cooling, since=now)


@lru_cache(maxsize=64)
def when(seconds: int) -> datetime:
    """Return Unix seconds as people and events know them; a batch asks for the same few again and again."""
    return datetime.fromtimestamp(seconds, UTC)


def name(mac: bytes) -> str:
    """Return a MAC in lower case with colons."""
    return mac.hex(":")
