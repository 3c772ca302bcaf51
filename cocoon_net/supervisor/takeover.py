"""Taking a live node over from the Go cocoon-net: its ``pool.json`` and ``leases.json`` become ours.

What it made in the kernel stays exactly as it made it: a bridge that gets another MAC under running guests costs each
of them its gateway until ARP has forgotten. Only when that bridge is gone (a reboot) is the node set up as ours is.
The files stay where they are, kept up as projections, so that the Go tool can be put back.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocoon_net import __version__
from cocoon_net.dhcp.book import Book
from cocoon_net.engine.journal import Journal, Run
from cocoon_net.engine.machine import DONE
from cocoon_net.engine.model import Origin, Row
from cocoon_net.engine.workflow import load
from cocoon_net.errors import Locked, NodeError, SpecError
from cocoon_net.formats import pool_file
from cocoon_net.formats.pool_file import PoolFile
from cocoon_net.node import netlink
from cocoon_net.node.links import choose
from cocoon_net.node.netlink import KernelLink
from cocoon_net.records import BRIDGE, Attachment, Interface, Link, Pool, Record, Subnet
from cocoon_net.site import Site
from cocoon_net.spec import DEFAULT_DNS, Spec, parse
from cocoon_net.steps import STEPS
from cocoon_net.steps.node import DEFAULT_MTU

if TYPE_CHECKING:
    from sqlite_utils import Database

NOTE = "taken_over"
"""The name of the note in ``meta``."""

_PRIMARY = "eth0"
_SECONDARY = tuple(f"eth{number}" for number in range(1, 8))
"""The links that the Go tool takes for granted on Volcengine where its file does not name them."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken over, and what could not be read of it."""

    pool: Pool
    leases: int
    complaints: tuple[str, ...]


def take_over(site: Site, database: Database, now: datetime) -> Taken | None:
    """Import the Go tool's state; None when there is none, or this node has a run of its own.

    Safe to repeat until ``served`` says that it is ours: until then the Go tool may go on, and its files are right.
    Raises Locked while it lives, SpecError for a file that cannot be used, StoreError, NodeError.
    """
    journal, book = Journal(database), Book(database)
    if (journal.lineage() or journal.unfinished()) and not journal.note(NOTE):
        return None
    try:
        text = site.pool_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise NodeError(
            f"{site.pool_file} cannot be read: {error}", hint="restore it, or run `cocoon-net adopt`"
        ) from error
    _require_stopped(site)
    found = pool_file.parse(text, str(site.pool_file))
    spec = _spec(found, str(site.pool_file))
    kernel = netlink.links()
    links = _links(found, kernel)
    mtu = min((link.mtu for link in links if link.mtu), default=DEFAULT_MTU)
    addresses = tuple(sorted(address for address in found.ips if address != spec.gateway))
    pool = Pool(spec.subnet, spec.gateway, spec.dns, addresses, mtu)
    book.put_pool(None, now)
    complaints = book.adopt(site.lease_file, int(now.timestamp()))
    if not journal.note(NOTE):
        _write(journal, database, found, spec, links, kernel, now)
    _settle_pool(journal, pool, now)
    book.put_pool(pool, now)
    return Taken(pool, len(book.leases()), tuple(complaints))


def stands_as_found(database: Database) -> bool:
    """Whether the bridge is still the one that the Go tool made, and nobody has provisioned the node since."""
    told = _told(Journal(database))
    bridge = netlink.link(BRIDGE) if told else None
    return bridge is not None and bridge.mac == told["bridge_mac"]


def pending(database: Database) -> bool:
    """Whether the node was imported and never served since: what the Go tool's files say still goes before ours."""
    told = _told(Journal(database))
    return bool(told) and not told["served"]


def served(database: Database) -> None:
    """Note that guests are served by us from now on: the book is right, and the files are its projections."""
    journal = Journal(database)
    told = _told(journal)
    if told and not told["served"]:
        with journal.transaction(eager=True):
            _note(database, {**told, "served": True})


def _told(journal: Journal) -> dict[str, Any]:
    """Return the note of the takeover; empty without one, and after the node was provisioned by a run since."""
    told: dict[str, Any] = json.loads(journal.note(NOTE) or "{}")
    run = journal.latest("init", "adopt")
    return told if told and run is not None and run.id == told["run"] else {}


def _note(database: Database, told: dict[str, Any]) -> None:
    database.table("meta").upsert({"name": NOTE, "value": json.dumps(told)}, pk="name")


def _require_stopped(site: Site) -> None:
    """Refuse beside a Go daemon that lives: two servers of one pool give one address to two guests.

    It holds no lock; its PID file counts only where that process still is a cocoon-net.
    """
    with contextlib.suppress(OSError, ValueError):
        pid = int(site.pid_file.read_text(encoding="ascii"))
        if pid != os.getpid() and Path(f"/proc/{pid}/comm").read_text().strip() == "cocoon-net":
            raise Locked(
                f"the Go cocoon-net still serves this node (pid {pid})",
                hint="stop it first (systemctl stop cocoon-net); guests keep their addresses meanwhile",
                owner=f"pid {pid}",
            )


def _spec(found: PoolFile, where: str) -> Spec:
    if not found.ips:
        raise SpecError(f"{where} holds no address to lease", hint="its init did not finish: run `cocoon-net init`")
    try:
        return parse(
            platform=found.platform,
            node_name=found.node_name,
            subnet=str(found.subnet),
            gateway=str(found.gateway),
            pool_size=len(found.ips),
            dns=[str(address) for address in found.dns_servers] or DEFAULT_DNS,
            primary_nic=found.primary_nic or _PRIMARY,
            drop_internal_access=found.drop_internal_access,
            drop_cidrs=[str(network) for network in found.drop_cidrs],
            check_size=False,
        )
    except SpecError as error:
        raise SpecError([f"{where}: {problem}" for problem in error.problems], hint=error.hint) from error


def _links(found: PoolFile, kernel: Iterable[KernelLink]) -> list[Link]:
    """Return the secondary links that the file names, with the MACs that the kernel shows; missing ones without."""
    by_name = {link.name: link for link in kernel if choose([link], link.mac) is not None}
    names: Sequence[str] = found.secondary_nics or [name for name in _SECONDARY if name in by_name]
    return [
        Link(up=True, name=name, index=link.index, mac=link.mac, mtu=link.mtu)
        if (link := by_name.get(name)) is not None
        else Link(up=True, name=name)
        for name in names
    ]


def _write(
    journal: Journal,
    database: Database,
    found: PoolFile,
    spec: Spec,
    links: Sequence[Link],
    kernel: Iterable[KernelLink],
    now: datetime,
) -> None:
    """Write the node down as one that was there before us: of its cloud side only what bears our marks is ours.

    Such marks are there when it was us who made the node, and our database was lost since.
    """
    bridge = next((link.mac for link in kernel if link.name == BRIDGE), "")
    with journal.transaction(eager=True):
        run = journal.start(
            load("adopt", STEPS), spec, None, version=__version__, by="daemon, from the Go cocoon-net", now=now
        )
        keyed = {f"eni-{number}": link for number, link in enumerate(links, 1)}
        if found.subnet_id:
            _settle(journal, run, "subnet", {"subnet": Subnet(spec.subnet, "", found.subnet_id)}, now)
        # The file's lists of ENIs and of links are in no common order, so no link is said to be a certain ENI's.
        _settle(journal, run, "enis", {k: Interface(spec.subnet, (), mac=link.mac) for k, link in keyed.items()}, now)
        _settle(journal, run, "attach", dict.fromkeys(keyed, Attachment("")), now)
        _settle(journal, run, "links", keyed, now)
        journal.moved(run.id, DONE, now)
        note = {
            "run": run.id,
            "at": now.isoformat(timespec="seconds"),
            "pool_updated_at": found.updated_at.isoformat(),
            "eni_ids": list(found.eni_ids),
            "bridge_mac": bridge,
            "served": False,
        }
        _note(database, note)


def _settle(journal: Journal, run: Run, step: str, records: dict[str, Any], now: datetime) -> None:
    rows = [Row(step, key, Origin.FOUND, record) for key, record in records.items()]
    journal.enter(run.id, step, now)
    journal.settle(run.id, step, rows, {}, 0.0, now)


def _settle_pool(journal: Journal, pool: Record, now: datetime) -> None:
    """Enter the pool as made by us: the row of our database is, and goes when the node is torn down."""
    run = journal.latest("adopt")
    if run is not None:
        with journal.transaction():
            journal.enter(run.id, "dhcp", now)
            journal.settle(run.id, "dhcp", [Row("dhcp", "pool", Origin.CREATED, pool)], {}, 0.0, now)
