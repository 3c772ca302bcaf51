"""What one can ask about leases and order of them: the same questions whether a daemon lives or not.

``LiveDesk`` stands in the daemon, behind the control socket; ``ClosedDesk`` works on the database of a node without
one, under the daemon's lock where it writes. Both answer JSON-ready values: docs/control-socket.md describes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from ipaddress import AddressValueError, IPv4Address
from typing import TYPE_CHECKING, Any, Protocol

from cocoon_net.dhcp.book import Book, Note
from cocoon_net.dhcp.decision import Reason, name, when
from cocoon_net.dhcp.lease import Lease, State, Trigger, move
from cocoon_net.dhcp.reservation import Reservation
from cocoon_net.dhcp.settings import Terms, parse
from cocoon_net.dhcp.trace import as_json
from cocoon_net.errors import CocoonError, NodeTransient, SpecError
from cocoon_net.site import Site
from cocoon_net.store import open_database
from cocoon_net.supervisor.presence import alone

if TYPE_CHECKING:
    from cocoon_net.dhcp.server import Server

HISTORY = 50
"""Lines of history with a trace."""

Document = dict[str, Any]
Options = Mapping[int, bytes]


class Desk(Protocol):
    """The questions and the orders. MACs are in lower case with colons. Raises CocoonError."""

    def leases(self, everything: bool) -> list[Document]:
        """Return the bound leases, by address; ``everything`` also what is offered, cooling or quarantined."""
        ...

    def client(self, mac: str) -> Document:
        """Return the leases of a MAC, in whatever state, and what is offered to it and reserved for it."""
        ...

    def trace(self, mac: str, since: int) -> Document:
        """Return what was decided about a MAC after number ``since``; with 0, its history from the book, too."""
        ...

    def release(self, mac: str) -> object:
        """End the leases of a MAC; idempotent."""
        ...

    def reservations(self) -> list[Document]:
        """Return what is kept for whom, by address."""
        ...

    def reserve(self, mac: str, address: str, hostname: str, options: Options | None) -> Document:
        """Keep an address for a MAC; no options are those that it had. Raises SpecError when that is not possible."""
        ...

    def unreserve(self, mac: str) -> object:
        """Keep nothing for a MAC any more; idempotent."""
        ...


def lease_row(lease: Lease) -> Document:
    """Return a lease as people know it."""
    return {
        "mac": name(lease.mac),
        "ip": str(IPv4Address(lease.address)),
        "state": lease.state.value,
        "expiry": _text(lease.ends) if lease.ends else "",
        "since": _text(lease.since),
        "hostname": lease.hostname,
        "client_id": lease.client_id.hex(),
        "port": lease.port,
    }


def lease_rows(leases: Iterable[Lease]) -> list[Document]:
    """Return leases as people know them, by address."""
    return [lease_row(lease) for lease in sorted(leases, key=lambda lease: lease.address)]


def reservation_row(one: Reservation) -> Document:
    """Return a reservation as people know it."""
    return {
        "mac": name(one.mac),
        "ip": str(one.address),
        "hostname": one.hostname,
        "options": {str(code): value.hex() for code, value in one.options.items()},
    }


def history_row(note: Note) -> Document:
    """Return a line of history as people know it."""
    return {"at": _text(note.at), "ip": str(IPv4Address(note.address)), "state": note.state, "reason": note.reason}


class _Books:
    """What both desks do with a connection of their own: nobody waits for the server's."""

    def __init__(self, site: Site) -> None:
        self._site = site

    @contextlib.contextmanager
    def _book(self) -> Iterator[Book]:
        if not self._site.database.exists():
            raise SpecError(f"there is no database in {self._site.state_dir}", hint="run `cocoon-net init` first")
        with contextlib.closing(open_database(self._site.database)) as database:
            yield Book(database)

    def _history(self, mac: str) -> list[Document]:
        with self._book() as book:
            return [history_row(note) for note in book.history(mac, HISTORY)]

    def reservations(self) -> list[Document]:
        """Return what is kept for whom, by address."""
        with self._book() as book:
            return [reservation_row(one) for one in book.reservations()]

    def reserve(self, mac: str, address: str, hostname: str, options: Options | None) -> Document:
        """Keep an address for a MAC; no options are those that it had."""
        try:
            ip = IPv4Address(address)
        except AddressValueError:
            raise SpecError(f"{address!r} is not an IPv4 address", hint="e.g. 172.20.100.77") from None
        with self._book() as book:
            key = _key(mac)
            before = next((one for one in book.reservations() if one.mac == key), None)
            if options is None:
                options = before.options if before else {}
            kept = Reservation(key, ip, hostname, options)
            book.reserve(kept, int(datetime.now(UTC).timestamp()))
        self._changed()
        return reservation_row(kept)

    def unreserve(self, mac: str) -> object:
        """Keep nothing for a MAC any more; returns whether something was kept."""
        with self._book() as book:
            before = book.unreserve(_key(mac))
        if before is not None:
            self._changed()
        return before is not None

    def _kept(self, mac: str) -> Document | None:
        return next((row for row in self.reservations() if row["mac"] == mac), None)

    def _changed(self) -> None:
        """Have the reservations obeyed."""


class LiveDesk(_Books):
    """The desk of the daemon; ``reload`` has the server read the reservations again. Called from several threads."""

    def __init__(self, site: Site, server: Server, reload: Callable[[], None]) -> None:
        super().__init__(site)
        self._server, self._reload = server, reload

    def leases(self, everything: bool) -> list[Document]:
        """Return the leases as the server has them now."""
        server = self._server
        more = (*server.offers(), *server.others()) if everything else ()
        return self._rows((*server.leases(), *more))

    def _rows(self, leases: Iterable[Lease]) -> list[Document]:
        """Return leases as people know them, and which of them are stranded: their address is not served any more."""
        found = sorted(leases, key=lambda lease: lease.address)
        return [{**lease_row(one), "stranded": not self._server.serves(one.address)} for one in found]

    def client(self, mac: str) -> Document:
        """Return all that is known of a MAC now."""
        key = _key(mac)
        offers = [lease for lease in self._server.offers() if lease.mac == key]
        return {
            "mac": mac,
            "leases": self._rows([*self._server.leases_of(key), *offers]),
            "reservation": self._kept(mac),
        }

    def trace(self, mac: str, since: int) -> Document:
        """Return what was decided lately, from memory, and before that, from the book."""
        found, number = self._server.trace(_key(mac), since)
        decisions = [as_json(one, _text(one.at), str(IPv4Address(one.address)) if one.address else "") for one in found]
        out: Document = {"mac": mac, "decisions": decisions, "next": number}
        if not since:
            seen = {(one["at"], one["address"], one["reason"]) for one in decisions}
            out["history"] = [row for row in self._history(mac) if (row["at"], row["ip"], row["reason"]) not in seen]
        return out

    def release(self, mac: str) -> object:
        """End the leases of a MAC at once."""
        return self._server.release(mac)

    def _changed(self) -> None:
        try:
            self._reload()
        except CocoonError as error:
            raise NodeTransient(
                f"it is written down, and the server does not know yet: {error.message}",
                hint="`systemctl reload cocoon-net` has it read the reservations again",
            ) from error


class ClosedDesk(_Books):
    """The desk of a node whose daemon does not live: the database says it, and an order changes it under the lock."""

    def leases(self, everything: bool) -> list[Document]:
        """Return the leases of the book."""
        with self._book() as book:
            found = [lease for lease in book.leases() if lease.state is not State.FREE]
        return lease_rows(lease for lease in found if everything or lease.state is State.BOUND)

    def client(self, mac: str) -> Document:
        """Return all that the book knows of a MAC."""
        with self._book() as book:
            found = [lease for lease in book.leases() if lease.mac == _key(mac)]
        return {"mac": mac, "leases": lease_rows(found), "reservation": self._kept(mac)}

    def trace(self, mac: str, since: int) -> Document:
        """Return the history; what was not answered, only a live daemon knows."""
        return {"mac": mac, "decisions": [], "next": 0, "history": [] if since else self._history(mac)}

    def release(self, mac: str) -> object:
        """End the leases of a MAC in the book; their routes go when the daemon starts, leases.json follows at once."""
        from cocoon_net.dhcp.projection import LeaseFile

        now, key, cooling = int(datetime.now(UTC).timestamp()), _key(mac), self._cooling()
        with alone(self._site), self._book() as book:
            ended = [
                lease._replace(state=move(lease.state, Trigger.RELEASE), ends=now + cooling, since=now)
                for lease in book.leases()
                if lease.mac == key and lease.state is State.BOUND
            ]
            if not ended:
                return False
            book.commit(ended, [Note(now, one.address, mac, one.state.value, str(Reason.ENDED)) for one in ended])
            LeaseFile(self._site.lease_file).load(lease for lease in book.leases() if lease.state is State.BOUND)
        return True

    def _cooling(self) -> int:
        """Return the cooling time that the daemon would obey; raises SpecError for a file that it would refuse."""
        path = self._site.dhcp_settings
        try:
            return parse(path.read_text(encoding="utf-8"), str(path)).terms.cooling
        except FileNotFoundError:
            return Terms().cooling

    def reserve(self, mac: str, address: str, hostname: str, options: Options | None) -> Document:
        """Keep an address for a MAC; under the lock, so that no daemon starts meanwhile and misses it."""
        with alone(self._site):
            return super().reserve(mac, address, hostname, options)

    def unreserve(self, mac: str) -> object:
        """Keep nothing for a MAC any more; under the lock."""
        with alone(self._site):
            return super().unreserve(mac)


def _key(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _text(seconds: int) -> str:
    return when(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")
