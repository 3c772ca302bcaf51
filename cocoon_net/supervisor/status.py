"""What ``status`` says of a node: from the database, or from a Go cocoon-net's ``pool.json`` alone; never the cloud.

The first lines are those of the Go tool, letter for letter, for whoever parses them.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cocoon_net.engine.journal import Journal, Run
from cocoon_net.errors import SpecError
from cocoon_net.records import Subnet
from cocoon_net.site import Site
from cocoon_net.store import is_there, open_copy
from cocoon_net.supervisor.presence import daemon_owner, daemon_pid

if TYPE_CHECKING:
    from sqlite_utils import Database

DAEMON_NOTE = "daemon"
"""The name of the note in ``meta`` in which the daemon keeps its phase; it counts while the lock is held."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node as its files and its daemon know it."""

    platform: str
    node: str
    subnet: str
    gateway: str
    ips: int
    updated: str
    """RFC 3339, whole seconds, UTC."""
    enis: int = 0
    subnet_id: str = ""
    run: str = ""
    """The run that stands for this node, and where it stands; empty on a Go node."""
    daemon: Mapping[str, Any] = field(default_factory=dict)
    """``phase``, ``reason``, ``since``, ``pid`` of the live daemon; ``phase`` is ``stopped`` without one."""
    leases: Mapping[str, int] = field(default_factory=dict)
    """State -> addresses of the pool; empty on a Go node."""
    source: str = "database"
    """``database`` or ``pool.json``."""


def read(site: Site) -> NodeStatus:
    """Read the status of a node. Raises SpecError when there is nothing to read, StoreError, Refused."""
    daemon = _presence(site)
    if is_there(site.database):
        with contextlib.closing(open_copy(site.database)) as database:
            found = from_database(database, daemon)
        if found is not None:
            return found
    if site.pool_file.exists():
        return _from_pool_file(site, daemon)
    raise SpecError(f"there is no pool in {site.state_dir}", hint="run `cocoon-net init`, or give --state-dir")


def _presence(site: Site) -> dict[str, Any]:
    return {"phase": "stopped"} if daemon_owner(site) is None else {"phase": "starting", "pid": daemon_pid(site)}


def from_database(database: Database, daemon: Mapping[str, Any]) -> NodeStatus | None:
    """Return what the database knows; None when this node was never provisioned, or was torn down."""
    from cocoon_net.dhcp.book import Book
    from cocoon_net.supervisor.takeover import NOTE

    journal, book = Journal(database), Book(database)
    runs = journal.runs()
    run = journal.unfinished() or (runs[0] if runs and journal.lineage() else None)
    if run is None:
        return None
    pool = book.pool()
    ledger = journal.ledger()
    subnet = ledger.get(("subnet", "subnet"))
    taken = json.loads(journal.note(NOTE) or "{}")
    told = json.loads(journal.note(DAEMON_NOTE) or "{}")
    members = set(pool.addresses) if pool else set()
    states = Counter(lease.state.value for lease in book.leases())
    leases = {state: count for state, count in states.items() if state != "free"}
    return NodeStatus(
        platform=run.spec.platform,
        node=run.spec.node_name,
        subnet=str(run.spec.subnet),
        gateway=str(run.spec.gateway),
        ips=len(members),
        updated=_seconds(run.updated_at),
        enis=max(sum(step == "enis" for step, _ in ledger), len(taken.get("eni_ids", ()))),
        subnet_id=subnet.record.id if subnet and isinstance(subnet.record, Subnet) else "",
        run=_standing(run),
        daemon=told if told and told.get("pid") == daemon.get("pid") else daemon,
        leases={"free": len(members) - sum(leases.values()), **leases} if pool else {},
    )


def look(site: Site) -> dict[str, Any]:
    """Return the view of a node: its live daemon's, else its database's. Raises SpecError, StoreError, Refused."""
    from cocoon_net.audit.register import Register
    from cocoon_net.dhcp.book import Book
    from cocoon_net.supervisor import view
    from cocoon_net.supervisor.caller import Caller, Unanswered

    daemon = _presence(site)
    if daemon_owner(site) is not None and site.control_socket.exists():
        with contextlib.suppress(Unanswered):  # it starts or stops right now, or it hangs: the database has the rest
            return Caller(site.control_socket).view()
    if not is_there(site.database):
        raise SpecError(f"there is no database in {site.state_dir}", hint="run `cocoon-net init`, or give --state-dir")
    with contextlib.closing(open_copy(site.database)) as database:
        journal, book = Journal(database), Book(database)
        told = json.loads(journal.note(DAEMON_NOTE) or "{}")
        lives = told if told and told.get("pid") == daemon.get("pid") else daemon
        return view.assemble(
            journal,
            book.pool(),
            book.leases(),
            daemon=view.Daemon(str(lives["phase"]), str(lives.get("reason", ""))),
            findings=[finding.as_json() for finding in Register(database).open_findings()],
            withdrawn=Register(database).withdrawn(),
            wrong_links={},
            events=(),
            now=datetime.now(UTC),
        )


def as_json(status: NodeStatus) -> str:
    """Render one JSON document."""
    return json.dumps(asdict(status), indent=2)


def as_text(status: NodeStatus) -> str:
    """Render the Go tool's lines, then a blank one, then ours."""
    lines = [
        f"Platform:   {status.platform}",
        f"Node:       {status.node}",
        f"Subnet:     {status.subnet}",
        f"Gateway:    {status.gateway}",
        f"IPs:        {status.ips}",
        f"Updated:    {status.updated}",
    ]
    if status.platform == "volcengine":
        lines += [f"ENIs:       {status.enis}", f"SubnetID:   {status.subnet_id}"]
    lines += [
        "",
        f"Run:        {status.run or 'none: the state is that of a Go cocoon-net'}",
        f"Daemon:     {_daemon(status)}",
    ]
    if status.leases:
        lines.append("Leases:     " + ", ".join(f"{count} {state}" for state, count in sorted(status.leases.items())))
    return "\n".join(lines)


def _daemon(status: NodeStatus) -> str:
    daemon = status.daemon
    pid = f" (pid {daemon['pid']})" if daemon.get("pid") else ""
    reason = f": {daemon['reason']}" if daemon.get("reason") else ""
    return f"{daemon['phase']}{pid}{reason}"


def _from_pool_file(site: Site, daemon: Mapping[str, Any]) -> NodeStatus:
    from cocoon_net.formats import pool_file

    try:
        text = site.pool_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{site.pool_file} cannot be read: {error}", hint="run as root") from error
    found = pool_file.parse(text, str(site.pool_file))
    return NodeStatus(
        platform=found.platform,
        node=found.node_name,
        subnet=str(found.subnet),
        gateway=str(found.gateway),
        ips=len(found.ips),
        updated=_seconds(found.updated_at.isoformat()),
        enis=len(found.eni_ids),
        subnet_id=found.subnet_id,
        daemon=daemon,
        source="pool.json",
    )


def _standing(run: Run) -> str:
    if not run.reason:
        return f"{run.id}, {run.state}"
    return f"{run.id}, stopped in {run.state!r}: {' '.join(str(run.reason.get('message', '')).split())}"


def _seconds(text: str) -> str:
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
