"""The durable side of DHCP: what has been promised, on disk before it is spoken.

One transaction with ``synchronous=FULL`` for a whole batch; plain ``sqlite3`` underneath, for sqlite-utils builds its
SQL anew for each row (1.1 ms). The server reads everything once, at the start, and only writes afterwards.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from ipaddress import IPv4Address
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from cocoon_net import records
from cocoon_net.dhcp.decision import Reason
from cocoon_net.dhcp.histogram import Histogram
from cocoon_net.dhcp.lease import Lease, State
from cocoon_net.dhcp.reservation import Reservation
from cocoon_net.dhcp.tuples import NEW
from cocoon_net.engine.model import Call, Change, Context, Seen, Verb, Via
from cocoon_net.errors import InvariantError, SpecError, StoreError
from cocoon_net.formats import lease_file
from cocoon_net.formats.lease_file import LeaseRow
from cocoon_net.store import reading, trouble

if TYPE_CHECKING:
    from sqlite_utils import Database

HISTORY = 100_000
"""Rows of history that are kept, about 8 MB."""

FORGET_AFTER = 1_000
"""Rows of history after which old ones go, in the same commit: guests that renew all day must not fill the disk."""

PATIENCE = 1_000
"""Milliseconds for the busy_timeout of the server's connection: a client asks again after 4 s."""

TOGETHER: Final = 8
"""Rows of one INSERT: for each of them, sqlite3 lets go of the interpreter four times."""

_PUT: Final = "INSERT OR REPLACE INTO leases (address, state, ends, mac, since, client_id, hostname, port) VALUES"
_NOTE: Final = "INSERT INTO history (at, address, mac, state, reason) VALUES"
_FORGET = (  # twice as many as have come, so that what is too much grows less and a commit does not take long
    "DELETE FROM history WHERE id <= min((SELECT max(id) FROM history) - ?, (SELECT min(id) FROM history) + ?)"
)
_RESERVE = "INSERT OR REPLACE INTO reservations (mac, address, hostname, options, since) VALUES (?, ?, ?, ?, ?)"
_LEASES = "SELECT address, state, ends, mac, since, client_id, hostname, port FROM leases"


class Note(NamedTuple):
    """One line of history."""

    at: int
    address: int
    mac: str
    state: str
    reason: str


Line = tuple[int, int, str, str, str]
"""A Note, or the plain tuple of its fields, which sqlite3 reads in a quarter of the time."""


class Book:
    """The tables ``leases``, ``pool`` and ``history`` of one database, written by the server's loop alone.

    And ``reservations``, which an operator's command writes and the server reads when it is told to reload.
    """

    def __init__(self, database: Database) -> None:
        self._connection = database.conn
        self._fresh = FORGET_AFTER
        """Rows of history since old ones went; those of lives that ended before they cut any are cut at once."""
        self.commits = 0
        self.times = Histogram()
        """Of each commit, fsync and all."""

    @reading("the leases")
    def leases(self) -> list[Lease]:
        """Read every lease, some 400,000 a second. Raises Damaged when one cannot be read."""
        # By the dictionary and without the constructor's keywords: a daemon starts with all of them.
        states = {state.value: state for state in State}
        from_hex = bytes.fromhex
        return [
            NEW(Lease, (address, states[state], ends, from_hex(mac.replace(":", "")), since, client_id, hostname, port))
            for address, state, ends, mac, since, client_id, hostname, port in self._connection.execute(_LEASES)
        ]

    def commit(self, leases: Iterable[Lease], notes: Sequence[Line]) -> None:
        """Make a batch durable, all of it or nothing: on return it has survived a power cut. Raises StoreError."""
        connection = self._connection
        # Plain strings and bytearrays: sqlite3 looks for an adapter of everything else, 0.5 us each time.
        rows = [
            (address, state._value_, ends, mac.hex(":"), since, bytearray(client_id), hostname, port)
            for address, state, ends, mac, since, client_id, hostname, port in leases
        ]
        began = time.perf_counter()
        try:
            connection.execute("BEGIN IMMEDIATE")
            _insert(connection, _PUT, rows)
            _insert(connection, _NOTE, notes)
            fresh = self._fresh + len(notes)
            if fresh >= FORGET_AFTER:
                connection.execute(_FORGET, (HISTORY, 2 * fresh))
                fresh = 0
            connection.commit()
        except sqlite3.Error as error:
            self._abandon()
            raise trouble(error, f"{len(rows)} leases could not be written") from error
        self._fresh = max(0, fresh)
        self.commits += 1
        self.times.observe(time.perf_counter() - began)

    @reading("the history of leases")
    def history(self, mac: str = "", most: int = 100) -> list[Note]:
        """Return the newest lines, oldest first; of one client when ``mac`` is given (lower case, colons)."""
        query = "SELECT at, address, mac, state, reason FROM history {} ORDER BY id DESC LIMIT ?"
        where, values = ("WHERE mac = ?", (mac, most)) if mac else ("", (most,))
        return [Note(*row) for row in self._connection.execute(query.format(where), values)][::-1]

    @reading("the history of leases")
    def newest(self) -> int | None:
        """Return when the newest line of the history was written, by the clock of then; None without one."""
        row = self._connection.execute("SELECT at FROM history ORDER BY id DESC LIMIT 1").fetchone()
        return None if row is None else int(row[0])

    @reading("the history of leases")
    def returned(self) -> set[int]:
        """Return the cooling addresses of which the history says last that their clients gave them back."""
        cooling = "SELECT address FROM leases WHERE state = ?"
        last = f"SELECT address, reason, max(id) FROM history WHERE address IN ({cooling}) GROUP BY address"
        query = f"SELECT address FROM ({last}) WHERE reason = ?"
        values = (State.COOLING._value_, Reason.RELEASED._value_)
        return {address for (address,) in self._connection.execute(query, values)}

    @reading("the pool")
    def pool(self) -> records.Pool | None:
        """Read what may be leased; None before the first init. Raises StoreError."""
        row = self._connection.execute("SELECT record FROM pool WHERE id = 1").fetchone()
        if row is None:
            return None
        pool = records.decode(json.loads(row[0]))
        if not isinstance(pool, records.Pool):
            raise InvariantError(f"it is a {type(pool).__name__}")
        return pool

    def put_pool(self, pool: records.Pool | None, now: datetime) -> None:
        """Write down what may be leased from now on; None forgets it, and with it all leases, reservations and history.

        Raises StoreError.
        """
        try:
            with self._connection:
                if pool is None:
                    for table in ("pool", "leases", "reservations", "history"):
                        self._connection.execute(f"DELETE FROM {table}")
                else:
                    row = (json.dumps(records.encode(pool), separators=(",", ":")), int(now.timestamp()))
                    self._connection.execute(
                        "INSERT OR REPLACE INTO pool (id, record, updated_at) VALUES (1, ?, ?)", row
                    )
        except sqlite3.Error as error:
            self._abandon()
            raise trouble(error, "the pool could not be written") from error

    @reading("the reservations")
    def reservations(self) -> list[Reservation]:
        """Read what is kept for whom, by address. Raises StoreError."""
        query = "SELECT mac, address, hostname, options FROM reservations ORDER BY address"
        return [
            Reservation(_bytes(mac), IPv4Address(address), hostname, _options(options))
            for mac, address, hostname, options in self._connection.execute(query)
        ]

    def reserve(self, reservation: Reservation, now: int) -> Reservation | None:
        """Keep an address for a client from the server's next reload on; returns what its client had before.

        Raises SpecError when it is not of the pool or kept for another client, StoreError.
        """
        mac, address = reservation.mac.hex(":"), reservation.address
        pool = self.pool()
        if pool is None or address not in pool.addresses:
            raise SpecError(
                f"{address} is not of the pool{f' of {pool.subnet}' if pool else ', for there is none'}: "
                "no interface of this node would carry its traffic",
                hint="`cocoon-net status` lists the addresses that can be reserved"
                if pool
                else "run `cocoon-net init`",
            )
        before = {one.mac: one for one in self.reservations()}
        for one in before.values():
            if one.address == address and one.mac != reservation.mac:
                owner = one.mac.hex(":")
                raise SpecError(
                    f"{address} is reserved for {owner}", hint=f"`cocoon-net lease unreserve {owner}` gives it up"
                )
        options = json.dumps({str(code): value.hex() for code, value in reservation.options.items()})
        try:
            with self._connection:
                self._connection.execute(_RESERVE, (mac, int(address), reservation.hostname, options, now))
        except sqlite3.Error as error:
            self._abandon()
            raise StoreError(f"{address} could not be reserved: {error}") from error
        return before.get(reservation.mac)

    def unreserve(self, mac: bytes) -> Reservation | None:
        """Give up what is kept for a client, from the server's next reload on; returns it. Raises StoreError."""
        before = next((one for one in self.reservations() if one.mac == mac), None)
        try:
            with self._connection:
                self._connection.execute("DELETE FROM reservations WHERE mac = ?", (mac.hex(":"),))
        except sqlite3.Error as error:
            self._abandon()
            raise StoreError(f"the reservation of {mac.hex(':')} could not be given up: {error}") from error
        return before

    def adopt(self, path: Path, now: int) -> list[str]:
        """Take over the Go tool's leases.json, when this book has no lease yet; returns a complaint per bad row.

        Leases that have ended are kept as their client's last address. Raises StoreError when the file is there and
        cannot be read as a whole: starting without it would give one address to two guests.
        """
        if self._connection.execute("SELECT 1 FROM leases LIMIT 1").fetchone():
            return []
        try:
            rows, complaints = lease_file.parse(path.read_text(encoding="utf-8"), str(path))
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError, SpecError) as error:
            raise StoreError(
                f"the leases of the Go cocoon-net cannot be taken over from {path}: {error}",
                hint="repair the file, or move it away and expect every guest to ask for its address again",
            ) from error
        by_address = {int(row.address): _imported(row, now) for row in rows}
        if by_address:
            notes = [
                Note(now, one.address, one.mac.hex(":"), one.state.value, "imported") for one in by_address.values()
            ]
            self.commit(by_address.values(), notes)
        return complaints

    def _abandon(self) -> None:
        """Leave a transaction that failed; after a full disk SQLite may have left it already."""
        if self._connection.in_transaction:
            self._connection.rollback()


class PoolInventory:
    """The pool as the engine sees it: one key, ``pool``, that is a row of our own database.

    It is read through ``database``, and written through a connection of its own, from ``connect``: changes are applied
    in threads while the runner's own thread writes the journal, and one connection has one transaction for all.
    """

    KEY = "pool"

    def __init__(self, database: Database, connect: Callable[[], Database]) -> None:
        self._book = Book(database)
        self._connect = connect

    def observe(self, cx: Context) -> Seen:
        """Read the pool. Raises StoreError."""
        pool = self._book.pool()
        return {} if pool is None else {self.KEY: pool}

    def calls(self, change: Change, cx: Context) -> tuple[Call, ...]:
        """Write or forget the pool in our own database; a plan may not know the addresses yet, but how many."""
        match change.want:
            case records.Pool() as pool:
                sets = [r for r in cx.records("addresses").values() if isinstance(r, records.AddressSet)]
                later = f"{sum(each.count for each in sets)} addresses, which the cloud will choose"
                what = f"{len(pool.addresses)} addresses" if pool.addresses else later
                return (Call(Via.DATABASE, f"write the pool: {what}"),)
            case _:
                return (Call(Via.DATABASE, "forget the pool and its leases"),)

    def apply(self, change: Change, token: str, cx: Context) -> Mapping[str, str]:
        """Write or forget the pool; forgetting takes the leases along. Raises StoreError."""
        match change.verb, change.want:
            case Verb.DELETE, _:
                pool = None
            case _, records.Pool() as wanted:
                pool = wanted
            case _, other:
                raise InvariantError(f"the pool cannot become {other!r}")
        with closing(self._connect()) as database:
            Book(database).put_pool(pool, cx.now)
        return {}


def _imported(row: LeaseRow, now: int) -> Lease:
    address, mac = int(row.address), _bytes(row.mac)
    if row.expires > now:
        return Lease(address, State.BOUND, row.expires, mac, now)
    return Lease(address, State.FREE, 0, mac, max(row.expires, 0))


def _bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _options(text: str) -> dict[int, bytes]:
    return {int(code): bytes.fromhex(value) for code, value in json.loads(text).items()}


def _insert(connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Insert rows, ``TOGETHER`` of them at a time, and one by one what is left."""
    if not rows:
        return
    row, whole = f"({', '.join('?' * len(rows[0]))})", len(rows) - len(rows) % TOGETHER
    many = [tuple(chain.from_iterable(rows[at : at + TOGETHER])) for at in range(0, whole, TOGETHER)]
    connection.executemany(f"{statement} {', '.join([row] * TOGETHER)}", many)
    connection.executemany(f"{statement} {row}", rows[whole:])
