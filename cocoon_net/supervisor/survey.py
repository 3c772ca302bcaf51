"""A small look at the kernel: are the links there that the pool's traffic needs, and a route for each bound lease?

It reports and repairs nothing. A difference counts once two looks in a row have seen it, for a lease may be on its way
between the database and the kernel at the moment of the look.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from loguru import logger

from cocoon_net.engine.model import Busy, Context, Inventory, Row
from cocoon_net.engine.plan import natural
from cocoon_net.errors import NodeError, WorldError
from cocoon_net.records import BRIDGE, Link, Record, Route
from cocoon_net.supervisor.log import tell


@dataclass(frozen=True, slots=True)
class Nics:
    """The secondary links: how many the ledger expects, how many the kernel shows, and what is wrong with which."""

    expected: int = 0
    present: int = 0
    wrong: Mapping[str, str] = field(default_factory=dict)
    """Key -> ``missing`` or ``down``."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Key -> the link's name or MAC, as far as the ledger knows it."""

    @property
    def lines(self) -> tuple[str, ...]:
        """What is wrong, a line each for people: ``eni-3 (eth3) is missing``."""
        named = {key: f"{key} ({self.names[key]})" if self.names.get(key) else key for key in self.wrong}
        return tuple(f"{named[key]} is {what}" for key, what in self.wrong.items())


def compare_links(rows: Mapping[str, Row], seen: Mapping[str, Record | Busy]) -> Nics:
    """Compare the ledger's interfaces, key -> row, with the links seen under the same keys. Pure."""
    records = {key: rows[key].record for key in sorted(rows, key=natural)}
    names = {key: record.name or record.mac for key, record in records.items() if isinstance(record, Link)}
    links = {key: link for key in records if isinstance(link := seen.get(key), Link)}
    wrong = {key: "down" if key in links else "missing" for key in records if key not in links or not links[key].up}
    return Nics(len(rows), len(links), wrong, names)


def compare_routes(bound: Collection[IPv4Address], seen: Mapping[str, Record | Busy]) -> tuple[str, ...]:
    """Compare the bound leases with our routes to the bridge; one line for each that is missing or stray. Pure."""
    there = {r.destination for r in seen.values() if isinstance(r, Route) and r.link == BRIDGE and r.ours is not False}
    missing = [f"{address} is leased and has no route" for address in sorted(set(bound) - there)]
    stray = [f"{address} has a route and no lease" for address in sorted(there - set(bound))]
    return (*missing, *stray)


def require_links(nics: Nics) -> None:
    """Refuse to serve a pool that nothing can be delivered to. Raises NodeError when every expected link is missing."""
    if nics.expected and not nics.present:
        raise NodeError(
            f"none of the {nics.expected} secondary links is there: {'; '.join(nics.lines)}",
            hint="no guest could be reached; see whether the interfaces are attached, then `cocoon-net run init`",
        )


class Survey:
    """Looks at the links and at the routes, and remembers the last look to confirm the next one."""

    def __init__(
        self, inventories: Mapping[str, Inventory], context: Context, bound: Callable[[], set[IPv4Address]]
    ) -> None:
        self._inventories = inventories
        self.context = context
        """The ledger to compare with; replaced as a whole when a run has changed it."""
        self._bound = bound
        self._before: frozenset[str] = frozenset()
        self.nics = Nics()
        self.confirmed: Mapping[str, tuple[str, ...]] = {"link": (), "route": ()}
        """Kind -> what two looks in a row have seen wrong."""

    def look_at_links(self) -> Nics:
        """Look at the links alone. Raises WorldError when the kernel cannot be asked."""
        cx = self.context
        rows = {row.key: row for (step, _), row in cx.ledger.items() if step == "links"}
        self.nics = compare_links(rows, self._inventories["links"].observe(cx) if rows else {})
        return self.nics

    def look(self) -> tuple[str, ...]:
        """Look at everything; log what is newly confirmed and what is gone; return all that is confirmed.

        A look that fails is logged and changes nothing: unknown is not gone.
        """
        try:
            links = self.look_at_links().lines
            routes = compare_routes(self._bound(), self._inventories["routes"].observe(self.context))
        except WorldError as error:
            logger.warning("the kernel could not be looked at: {}", error.told)
            return self.all_confirmed
        now = frozenset((*links, *routes))
        before, was = self.confirmed, frozenset(self.all_confirmed)
        self.confirmed = {
            kind: tuple(line for line in lines if line in self._before)
            for kind, lines in (("link", links), ("route", routes))
        }
        self._before = now
        for lines in self.confirmed.values():
            tell("WARNING", [line for line in lines if line not in was], "difference: {}")
        for lines in before.values():
            tell("INFO", [line for line in lines if line not in now], "no longer: {}")
        return self.all_confirmed

    @property
    def all_confirmed(self) -> tuple[str, ...]:
        """What two looks in a row have seen wrong, of every kind."""
        return tuple(line for lines in self.confirmed.values() for line in lines)
