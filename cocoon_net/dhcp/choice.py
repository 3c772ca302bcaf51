"""Which address a client gets, and which it could have. ``takes`` and ``choose`` read the table and change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from cocoon_net.dhcp.lease import COOLING, FREE, QUARANTINED, Client, Lease, owns
from cocoon_net.dhcp.pool import Pool
from cocoon_net.dhcp.table import Table

ANSWERED = 2
"""Seconds within which a client takes an offer, if it does: its guest asks for it at once (RFC 2131 §4.4.1)."""

_LOOKS = 16
"""At how many of the oldest offers is looked for one that may go to another client; few are for a reservation."""

_RESTING = 64
"""At how many of the addresses that have cooled longest is looked for one that may be given on."""


def takes(table: Table, address: int, client: Client) -> bool:
    """Whether a client could have ``address`` now: nobody else has it, and no reservation says otherwise."""
    pool = table.pool
    if address not in pool.members:
        return False
    if not pool.owners:
        return _spare(table, address, client)
    if pool.owners.get(address, client.mac) != client.mac:
        return False
    kept = pool.kept.get(client.mac)
    if kept is None or kept.address == address:
        return _spare(table, address, client, kept is not None)
    # While its own address cannot be had, it is served like any other.
    return not _spare(table, kept.address, client, True) and _spare(table, address, client)


def _spare(table: Table, address: int, client: Client, kept: bool = False) -> bool:
    lease = table.at(address)
    state = lease.state
    if state is FREE:
        return True
    # The operator's word, its last client's own, or need: against what is only for safety.
    if state is COOLING and (kept or lease.address in table.returned or not table.unused):
        return True
    return state is not QUARANTINED and owns(lease, client)


def choose(table: Table, client: Client, wished: int, now: int) -> int | None:
    """Choose the address to offer: the one kept for the client, its own, its wish, the one on offer to it.

    Else the one that has not been used for the longest time; and before it gets nothing, the one that has cooled
    longest, or that was offered longest ago to somebody who did not take it (RFC 2131 §2.2: nothing is reserved).
    """
    kept = table.pool.kept.get(client.mac) if table.pool.kept else None
    if kept is not None and takes(table, kept.address, client):
        return kept.address
    own = table.held(client)
    if own is not None and takes(table, own.address, client):
        return own.address
    if wished and (wished in table.unused or (wished in table.returned and wished in table.resting)):
        return wished
    given = table.offered(client)
    if given is not None:
        return given.address
    if table.unused:
        return next(iter(table.unused))
    if table.resting:
        return next(iter(table.resting))
    return _untaken(table, client, now)


def _untaken(table: Table, client: Client, now: int) -> int | None:
    """Return the oldest offer that may go to another client: of the same port, or older than its client needs."""
    offers = _unkept(table)
    return next((one.address for one in offers if one.port == client.port or now - one.since > ANSWERED), None)


def lapsed(table: Table, port: str, now: int) -> int | None:
    """Return an old offer of ``port`` that nobody took and that another client behind it may have, if there is one."""
    return next((one.address for one in _unkept(table) if one.port == port and now - one.since > ANSWERED), None)


def rested(table: Table, port: str) -> int | None:
    """Return a cooling address that was last used behind ``port``, else one that its client gave back."""
    oldest, leases = list(islice(table.resting, _RESTING)), table.leases
    own = next((address for address in oldest if leases[address].port == port), None)
    return own if own is not None else next((address for address in oldest if address in table.returned), None)


def _unkept(table: Table) -> Iterator[Lease]:
    """Return the oldest offers, but those of addresses that are reserved."""
    offers, owners = table.offers, table.pool.owners
    return (offers[address] for address in islice(offers, _LOOKS) if address not in owners)


def adopt(table: Table, pool: Pool) -> None:
    """Serve another pool from now on, and forget the offers that their clients could not take any more."""
    table.adopt(pool)
    for address, offer in list(table.offers.items()):
        if not takes(table, address, Client(offer.mac, offer.client_id, offer.port)):
            table.withdraw(address)
