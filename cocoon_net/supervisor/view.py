"""The view of a node: one JSON-ready document for the status page, the control socket and ``status --watch``.

From a live daemon's memory or, without one, from the database. Its fields: docs/control-socket.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address
from typing import Any

from cocoon_net import __version__, records
from cocoon_net.dhcp.lease import Lease, State
from cocoon_net.engine.journal import Journal, Run
from cocoon_net.engine.model import Ledger
from cocoon_net.engine.plan import natural

LETTERS = {
    State.FREE: "f",
    State.OFFERED: "o",
    State.BOUND: "b",
    State.COOLING: "c",
    State.QUARANTINED: "q",
}
"""How a state is written in ``blocks``: a pool of 60,000 addresses is 60 KB."""

STRANDED = "s"
"""The letter of an address that the cloud took away, whatever its state."""

BLOCK = 256
"""Addresses of one block at most; a block lies within one /24."""

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Daemon:
    """Where the service stands, as it is shown."""

    phase: str
    reason: str = ""


def assemble(
    journal: Journal,
    pool: records.Pool | None,
    leases: Iterable[Lease],
    *,
    daemon: Daemon,
    findings: Sequence[Document],
    withdrawn: Collection[IPv4Address],
    wrong_links: Mapping[str, str],
    events: Sequence[Document],
    now: datetime,
) -> Document:
    """Return the view. ``leases`` in the order of their weight: the later one of an address counts."""
    run = _standing(journal)
    ledger = journal.ledger()
    states = {lease.address: lease.state for lease in leases}
    addresses = sorted(map(int, pool.addresses)) if pool else []
    gone = {int(address) for address in withdrawn}
    counts = Counter("stranded" if one in gone else states.get(one, State.FREE).value for one in addresses)
    return {
        "version": __version__,
        "at": _text(now),
        "node": run.spec.node_name if run else "",
        "platform": run.spec.platform if run else "",
        "phase": daemon.phase,
        "reason": daemon.reason,
        "pool": {
            "subnet": str(pool.subnet) if pool else "",
            "gateway": str(pool.gateway) if pool else "",
            "size": len(addresses),
            "states": {state: counts[state] for state in (*map(str, State), "stranded")},
            "room": room(journal, len(addresses)),
        },
        "blocks": blocks(addresses, states, gone),
        "enis": interfaces(ledger, {**wrong_links, **_wrong_links(findings)}),
        "workflow": workflow(journal),
        "findings": list(findings),
        "events": list(events),
    }


def blocks(addresses: Sequence[int], states: Mapping[int, State], gone: Collection[int] = ()) -> list[Document]:
    """Return runs of neighbouring addresses, sorted: the first one, and a letter for each one's state."""
    out: list[Document] = []
    letters: list[str] = []
    before = -2
    for address in addresses:
        if address != before + 1 or address % BLOCK == 0 or not letters:
            letters = []
            out.append({"first": str(IPv4Address(address)), "states": letters})
        letters.append(STRANDED if address in gone else LETTERS[states.get(address, State.FREE)])
        before = address
    return [{**block, "states": "".join(block["states"])} for block in out]


def interfaces(ledger: Ledger, wrong: Mapping[str, str]) -> list[Document]:
    """Return the secondary interfaces of the ledger with their links; ``wrong`` as ``survey.Nics`` has it."""
    out = []
    for key in sorted({key for step, key in ledger if step in ("enis", "links")}, key=natural):
        eni = _record(ledger, "enis", key, records.Interface)
        link = _record(ledger, "links", key, records.Link)
        addresses = _record(ledger, "addresses", key, records.AddressSet)
        out.append(
            {
                "key": key,
                "id": eni.id if eni else "",
                "mac": (link and link.mac) or (eni.mac if eni else ""),
                "link": link.name if link else "",
                "state": wrong.get(key, "up" if link else "no link yet"),
                "addresses": addresses.count if addresses else 0,
            }
        )
    return out


def workflow(journal: Journal) -> Document:
    """Return the newest run: where it stands, and each state with its status and its times; empty without one."""
    run = _standing(journal)
    if run is None:
        return {}
    visits = journal.visits(run.id)
    return {
        "run": run.id,
        "workflow": run.workflow,
        "state": run.state,
        "error": str(run.reason.get("message", "")),
        "started_at": run.started_at,
        "updated_at": run.updated_at,
        "seconds": round(run.seconds, 3),
        "states": [
            {
                "state": stage.name,
                "status": _status(run, stage.name, visits.get(stage.name, {})),
                "seconds": round(visits.get(stage.name, {}).get("seconds", 0.0), 3),
                "changes": visits.get(stage.name, {}).get("changes", 0),
                "settled_at": visits.get(stage.name, {}).get("settled_at") or "",
                "waiting": visits.get(stage.name, {}).get("waiting", ""),
            }
            for stage in run.plan.stages
        ],
    }


def room(journal: Journal, size: int) -> dict[str, int]:
    """Return limit -> how many addresses more it would let the pool have; the least one is why it cannot grow.

    ``asked``: ``--pool-size``; ``instance``: interfaces and addresses of its type; ``subnet``. Empty when unknown.
    """
    run = _standing(journal)
    if run is None or run.instance is None:
        return {}
    spec, instance = run.spec, run.instance
    each = max(1, instance.max_addresses - 1)
    most = max(0, instance.max_interfaces - max(1, instance.used_interfaces)) * each
    return {
        "asked": max(0, spec.pool_size - size),
        "instance": max(0, most - size),
        "subnet": max(0, spec.subnet.num_addresses - 3 - -(-size // each) - size),
    }


def _wrong_links(findings: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return what findings say of links, key -> what, as the survey has it: ``down``, ``renamed``, ``mtu``."""
    told = ((*str(finding["kind"]).partition("-"), str(finding["key"])) for finding in findings)
    return {key: what for area, _, what, key in told if area == "link"}


def _standing(journal: Journal) -> Run | None:
    runs = journal.runs()
    return journal.unfinished() or (runs[0] if runs else None)


def _status(run: Run, state: str, visit: Mapping[str, Any]) -> str:
    if visit.get("settled_at"):
        return "settled"
    if visit.get("skipped"):
        return "skipped"
    if state == run.state:
        return "parked" if run.reason else "at work"
    return "not reached" if run.ended else "to come"


def _record(ledger: Ledger, step: str, key: str, kind: type[Any]) -> Any:
    row = ledger.get((step, key))
    return row.record if row and isinstance(row.record, kind) else None


def _text(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
