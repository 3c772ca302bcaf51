"""A damaged database: kept aside, and rebuilt from what is nearest to the truth and still whole.

::

    damaged ─▶ aside ─▶ backup, if it passes ─▶ leases.json ─▶ the kernel's routes ─▶ the cloud's tags
                        (else: a new one)        the daemon's start                   the next init

The first two belong to whoever acts or serves, under its lock and the other one's: nobody else may have the file open.
Leases come back at the daemon's next start: ``leases.json`` is newer than any backup, and a route of ours without a
lease says that somebody uses the address. What cannot be known is kept from others rather than given to them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from cocoon_net.clock import JUMP
from cocoon_net.dhcp.book import Book, Note
from cocoon_net.dhcp.lease import Lease, State, moved
from cocoon_net.dhcp.settings import Terms
from cocoon_net.engine.history import Deed
from cocoon_net.engine.journal import Journal
from cocoon_net.errors import CocoonError, Damaged, Locked, SpecError
from cocoon_net.formats import lease_file
from cocoon_net.formats.lease_file import LeaseRow
from cocoon_net.locks import locked, refusal
from cocoon_net.node import files, netlink
from cocoon_net.node.routewire import RouteWire
from cocoon_net.records import BRIDGE, Pool
from cocoon_net.site import Site
from cocoon_net.store import back_up, backup_of, open_database, reading, sync

if TYPE_CHECKING:
    from sqlite_utils import Database

NOTE = "rebuilt"
"""The name of the note in ``meta``: what was found and done; its leases are ``recalled`` or still to be."""

_MAC = ":".join(["[0-9a-f][0-9a-f]"] * 6)
_STRANGE = (
    f"SELECT 1 FROM leases WHERE state NOT IN ({', '.join('?' * len(State))}) "
    f"OR NOT (mac = '' OR mac GLOB '{_MAC}') LIMIT 1"
)
"""Leases that nobody can have written."""

_SHOWN = ("meta", "visits", "operations", "calls", "refused_calls", "answers", "run_history")
"""Tables that nobody acts on, but whoever shows a run reads."""

_JSON = ("details", "want", "seen", "error", "skipped")
"""Their columns of JSON."""

ECHO_WITHIN = 1.0
"""Seconds that a guest is given to answer ARP."""

Say = Callable[[str], None]


def open_sound(site: Site, other: Path, say: Say, by: str) -> Database:
    """Open the database, checked, for a command that acts or serves and holds its lock; rebuild a damaged one.

    ``other`` is the lock of those who could have it open besides: the daemon's for a command, a command's for the
    daemon. Raises Damaged while one of them lives, StoreError, Refused.
    """
    files.sweep(backup_of(site.database))
    try:
        return _opened(site.database)
    except Damaged as damage:
        try:
            with locked(other, what="it cannot be rebuilt now", owner="recovery"):
                return _rebuild(site, damage, say, by)
        except Locked as error:
            raise Damaged(
                f"{damage.message}; {error.owner} may still use it",
                hint="stop that one first (`systemctl stop cocoon-net` stops a daemon), then give this command again",
            ) from error


def require_sound(database: Database) -> None:
    """Read every row that somebody acts on. Raises Damaged for one that nobody can have written."""
    journal, book = Journal(database), Book(database)
    journal.runs()
    journal.ledger()
    book.pool()
    book.reservations()
    with reading("the leases"):  # in SQLite, 60 ms for 60,000: the server will read them all anyway
        if database.execute(_STRANGE, [state.value for state in State]).fetchone():
            raise ValueError("its state or its MAC is none")
        for _ in database.execute("SELECT hostname, port FROM leases"):
            pass
    for table in _SHOWN:
        with reading(f"the table {table}"):
            for row in database.query(f"SELECT * FROM {table}"):
                for column in _JSON:
                    if row.get(column):
                        json.loads(row[column])


def keep(path: Path, say: Say) -> None:
    """Bring the backup up to date; a failure is only told, for it harms nobody now."""
    try:
        back_up(path)
    except CocoonError as error:
        say(f"no new backup of the database: {error.told}")


def _opened(path: Path) -> Database:
    database = open_database(path, check=True)
    try:
        require_sound(database)
    except BaseException:
        database.close()
        raise
    return database


# Rebuilding


def _rebuild(site: Site, damage: Damaged, say: Say, by: str) -> Database:
    """Keep the damaged files aside and put the backup, or an empty database, in their place."""
    now = datetime.now(UTC)
    say(f"the database is damaged: {damage.message}")
    backup, age = _sound_backup(site.database, say)
    kept = _set_aside(site.database, now, ("-wal", "-shm", "", *(() if backup else (".backup",))))
    if kept:
        say(f"kept aside as {', '.join(kept)}")
    if backup is not None:
        backup.replace(site.database)
        source = f"the backup of {age}"
        lost = f"what was written after {age}; leases come back from {site.lease_file.name} and the kernel's routes"
        then = "nothing: this command goes on; the next look finds in the cloud what the backup does not know"
    elif site.pool_file.exists():
        source = f"nothing; {site.pool_file} has the pool"
        lost = "the runs and their history, who made what, how settings were before; leases come back as above"
        then = "`cocoon-net init` with the flags of this node finds its interfaces by their tags"
    else:
        source, then = "nothing", "`cocoon-net init` with the flags of this node finds its interfaces by their tags"
        lost = "the runs and their history, the pool, who made what, how settings were before"
    database = _opened(site.database)
    journal = Journal(database, by)
    with journal.transaction():
        note = {"at": now.isoformat(timespec="seconds"), "source": source, "recalled": False}
        database.table("meta").upsert({"name": NOTE, "value": json.dumps(note)}, pk="name")
    journal.record(Deed.RECOVERED, now, found=damage.message, kept=kept, source=source, lost=lost)
    say(f"rebuilt from: {source}")
    say(f"lost: {lost}")
    say(f"next: {then}")
    return database


def _sound_backup(path: Path, say: Say) -> tuple[Path | None, str]:
    """Return a copy of the backup that has passed every check, and when it was made; None when there is none."""
    backup = backup_of(path)
    copy = backup.with_name(f".{backup.name}.{os.getpid()}-0.tmp")
    try:
        data, made = backup.read_bytes(), backup.stat().st_mtime
        copy.write_bytes(data)
        copy.chmod(0o600)
        _opened(copy).close()
        sync(copy)
    except FileNotFoundError:
        return None, ""
    except Damaged as error:
        _remove(copy)
        say(f"the backup is of no use, too: {error.message}")
        return None, ""
    except OSError as error:
        _remove(copy)
        raise refusal(copy, error) from error
    except BaseException:
        _remove(copy)
        raise
    return copy, datetime.fromtimestamp(made, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _set_aside(path: Path, now: datetime, suffixes: Iterable[str]) -> list[str]:
    """Rename the files of the database; returns their new names. The log goes first: it must never meet another."""
    kept = []
    mark = f"damaged-{now:%Y%m%dT%H%M%SZ}"
    try:
        for suffix in suffixes:
            old = path.with_name(path.name + suffix)
            if old.exists():
                new = old.with_name(f"{old.name}.{mark}" if suffix == ".backup" else f"{path.name}.{mark}{suffix}")
                old.rename(new)
                kept.append(new.name)
        sync(path.parent)
    except OSError as error:
        raise refusal(path, error) from error
    return sorted(kept)


# Leases


def recall(site: Site, database: Database, pool: Pool, now: int) -> list[str]:
    """Compare the book with ``leases.json``, and after a rebuild with the kernel; returns what was put right, in lines.

    ``leases.json`` is written after each commit, so a lease in it that the book has never heard of was lost by the
    book. After a rebuild all of the file goes before the book, which is older. Raises StoreError, NodeError.
    """
    book = Book(database)
    note = json.loads(Journal(database).note(NOTE) or "{}")
    rebuilt = bool(note) and not note.get("recalled")
    told = _keep_time(book, now)
    rows, lines = _rows(site.lease_file, database, rebuilt)
    if not rows and not rebuilt:
        return [*told, *lines]
    table = {lease.address: lease for lease in book.leases()}
    found = dict(missed(table, rows, now, trust=rebuilt))
    if rebuilt:
        found |= _in_use(pool, table | found, now)
    if found:
        notes = [Note(now, one.address, one.mac.hex(":"), one.state.value, "recalled") for one in found.values()]
        book.commit(found.values(), notes)
        lines += [
            f"{IPv4Address(one.address)} is {one.state.value}, for {one.mac.hex(':') or 'somebody uses it'}: recalled"
            for one in found.values()
        ]
    if rebuilt:
        journal = Journal(database)
        with journal.transaction():
            done = json.dumps({**note, "recalled": True})
            database.table("meta").upsert({"name": NOTE, "value": done}, pk="name")
    return [*told, *lines]


def _keep_time(book: Book, now: int) -> list[str]:
    """Move all times along when the clock can hardly be the one by which the book was last written.

    Either it stands before the newest line, or so far after it that every lease would be over at once: the node was
    off for long, or its clock is wrong until time synchronisation has seen to it. Each lease keeps what it had left.
    """
    newest = book.newest()
    by = 0 if newest is None else now - newest
    if -JUMP <= by <= Terms().lease:
        return []
    leases = [moved(lease, by) for lease in book.leases()]
    book.commit(leases, [Note(now, 0, "", "clock", f"{by} s after the line before")])
    return [
        f"the clock stands {by} s after the newest entry of the book: {len(leases)} leases keep the time they had left"
    ]


def missed(
    table: Mapping[int, Lease], rows: Iterable[LeaseRow], now: int, *, trust: bool
) -> Iterator[tuple[int, Lease]]:
    """Say which leases of the file the book lacks, and with ``trust``, which it has older. Pure."""
    held = {lease.mac: lease.address for lease in table.values() if lease.state is State.BOUND}
    for row in rows:
        address, mac = int(row.address), bytes.fromhex(row.mac.replace(":", ""))
        have = table.get(address)
        if row.expires <= now or (have is not None and not trust):
            continue
        if have is not None and have.state is State.BOUND and have.mac == mac and have.ends >= row.expires:
            continue
        before = held.get(mac)
        if before is not None and before != address:
            if not trust:  # whatever the book says of the client, somebody may use what it has never heard of
                yield address, Lease(address, State.QUARANTINED, row.expires, b"", now)
                continue
            old = table[before]
            yield before, Lease(before, State.COOLING, now + Terms().cooling, b"", now, old.client_id)
        yield address, Lease(address, State.BOUND, row.expires, mac, now)


def _rows(path: Path, database: Database, whole: bool) -> tuple[list[LeaseRow], list[str]]:
    """Read the file; unless ``whole``, only when it names an address that the book has never heard of."""
    try:
        data = path.read_bytes()
        if not whole and data.startswith(b"[") and data.endswith(b"]\n"):  # the common case: 50 ms for 60,000 leases
            known = {
                socket.inet_ntoa(a.to_bytes(4)).encode() for (a,) in database.execute("SELECT address FROM leases")
            }
            if known.issuperset(re.findall(rb'"ip":"([0-9.]+)"', data)):
                return [], []
        return lease_file.parse(data.decode(), str(path))
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [f"{path} cannot be read: {error.strerror or error}"]
    except (SpecError, UnicodeDecodeError) as error:
        return [], [f"{path} is of no use: {error}"]


def _in_use(pool: Pool, table: Mapping[int, Lease], now: int) -> dict[int, Lease]:
    """Return a lease for each routed address that has none: its neighbour's, else nobody's, for a lease time."""
    bridge = netlink.link(BRIDGE)
    if bridge is None:
        return {}
    with RouteWire(bridge.index) as wire:
        routed = wire.present() & {int(address) for address in pool.addresses}
    bare = {a for a in routed if (lease := table.get(a)) is None or lease.state is not State.BOUND}
    if not bare:
        return {}
    macs = _neighbours(bridge.index, bare)
    held = {lease.mac for lease in table.values() if lease.state is State.BOUND}
    found: dict[int, Lease] = {}
    for address in sorted(bare):
        mac = macs.get(address, b"")
        if not mac or mac in held:
            found[address] = Lease(address, State.QUARANTINED, now + Terms().lease, b"", now)
        else:
            found[address] = Lease(address, State.BOUND, now + Terms().lease, mac, now)
            held.add(mac)
    return found


def _neighbours(index: int, addresses: set[int]) -> dict[int, bytes]:
    """Return the MACs behind ``addresses``; those that the kernel does not know it is made to ask for."""
    deadline = time.monotonic() + ECHO_WITHIN
    asked = False
    while True:
        known = {int(a): bytes.fromhex(mac.replace(":", "")) for a, mac in netlink.neighbours(index).items()}
        unknown = addresses - set(known)
        if not unknown or time.monotonic() >= deadline:
            return known
        if not asked:
            asked = True
            with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                out.setblocking(False)
                for address in unknown:
                    with contextlib.suppress(OSError):
                        out.sendto(b"", (str(IPv4Address(address)), 9))  # discard: all that counts is the ARP before it
        time.sleep(0.05)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
