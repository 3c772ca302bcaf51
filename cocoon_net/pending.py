"""Operations of which nobody knows what became, and the operator's word on one.

The next look at the world answers most of them by itself: ``workflow retry`` is enough. What is left is what no look
can tell, and the operator can: this object is the one; there is none; ask anew, under another token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cocoon_net.engine.history import Deed
from cocoon_net.engine.journal import Journal
from cocoon_net.engine.model import Busy, Context, Origin, Row
from cocoon_net.errors import NotSettled, SpecError
from cocoon_net.records import Interface, Record, Subnet, decode
from cocoon_net.runs import Desk

_HINT = "`cocoon-net workflow pending` lists them, and what can be typed for each"


def pending(journal: Journal) -> list[dict[str, Any]]:
    """Return the operations whose outcome is not known, JSON-ready, those of the newest run first."""
    unfinished = journal.unfinished()
    return [
        {
            "op": row["id"],
            "run": row["run"],
            "step": row["step"],
            "key": row["key"],
            "verb": row["verb"],
            "wanted": json.loads(row["want"]) if row["want"] else None,
            "at": row["intended_at"],
            "outcome": row["outcome"],
            "code": row["code"],
            "message": row["message"],
            "request_id": row["request_id"],
            "type": list(_ways(row, going_on=unfinished is not None and unfinished.id == row["run"])),
        }
        for row in journal.unknown()
    ]


def forget(desk: Desk, operation: int) -> str:
    """Take an operation for one that was never carried out; returns what was done, for people."""
    row = _operation(desk.journal, operation)
    with desk.journal.transaction():
        dropped = desk.journal.forget(row)
        _record(desk, row, "forget", dropped=dropped)
    ledger = f"the ledger names {row['key']} no more" if dropped else "the ledger stays as it is"
    return f"operation {operation} ({row['verb']} {row['key']}) is forgotten; {ledger}"


def wish_anew(desk: Desk, operation: int) -> str:
    """Let the next look ask for the same thing under another token; returns what was done, for people."""
    row = _operation(desk.journal, operation)
    with desk.journal.transaction():
        desk.journal.wish_anew(row)
        _record(desk, row, "retry")
    return f"operation {operation} is concluded; if {row['key']} is still missing, it is asked for as a new wish"


def adopt(desk: Desk, operation: int, identifier: str) -> str:
    """Name the object that an operation made; returns what was done, for people.

    Raises SpecError when the object is not there or not ours to take, NotSettled while it is in between.
    """
    row = _operation(desk.journal, operation)
    want: Record | None = decode(json.loads(row["want"])) if row["want"] else None
    if row["verb"] != "create" or not isinstance(want, Subnet | Interface):
        raise SpecError(
            f"operation {operation} is to {row['verb']} {row['key']} of the step {row['step']}: only a subnet or an "
            "interface that is to be made has an id of its own",
            hint=f"cocoon-net workflow resolve {operation} --retry",
        )
    found = _found(desk, row, want, identifier)
    with desk.journal.transaction():
        desk.journal.adopt(row, found, desk.clock.now())
        _record(desk, row, "adopt", id=identifier)
    return f"{row['key']} is {identifier}, and counts as made by us: a teardown removes it"


def _found(desk: Desk, row: dict[str, Any], want: Subnet | Interface, identifier: str) -> Subnet | Interface:
    """Look at the object through the inventory, as if the ledger knew its id."""
    run = desk.journal.run(row["run"])
    step, key = row["step"], row["key"]
    ledger = dict(desk.journal.ledger())
    named = {getattr(other.record, "id", ""): other.key for other in ledger.values() if other.step == step}
    if named.get(identifier, key) != key:
        raise SpecError(f"{identifier} is {named[identifier]} already", hint=_HINT)
    ledger[step, key] = Row(step, key, Origin.CREATED, replace(want, id=identifier))
    cx = Context(run.spec, run.instance, ledger, run.lineage, desk.clock.now())
    seen = desk.world(run.spec).inventories[step].observe(cx)
    match seen.get(key):
        case Busy(why):
            raise NotSettled(f"{identifier} is between two states: waiting for {why}", hint="the same command again")
        case Subnet() | Interface() as found if found.id == identifier:
            _refuse_foreign(found, want, run.instance.instance_id if run.instance else "")
            return found
        case other:
            instead = f"; what is there for {key} is {other.id}" if isinstance(other, Subnet | Interface) else ""
            raise SpecError(
                f"{identifier} cannot be {key}: it does not exist, or it carries another node's mark{instead}",
                hint=f"`cocoon-net workflow resolve {row['id']} --forget` if there is none",
            )


def _refuse_foreign(found: Subnet | Interface, want: Subnet | Interface, here: str) -> None:
    match found, want:
        case Interface(instance_id=there), _ if there and there != here:
            raise SpecError(f"{found.id} is attached to {there}", hint="detach it there first, if nobody uses it")
        case Interface(subnet=there), Interface(subnet=wanted) if there != wanted:
            raise SpecError(f"{found.id} is in the subnet {there}, wanted is one in {wanted}", hint=_HINT)
        case _ if found.ours is False:
            raise SpecError(f"{found.id} is not ours to take: it carries another's mark", hint=_HINT)


def _operation(journal: Journal, operation: int) -> dict[str, Any]:
    for row in journal.unknown():
        if row["id"] == operation:
            return row
    raise SpecError(f"there is no operation {operation} whose outcome is unknown", hint=_HINT)


def _record(desk: Desk, row: dict[str, Any], how: str, **details: Any) -> None:
    what = {"operation": row["id"], "step": row["step"], "key": row["key"], "verb": row["verb"], "how": how}
    run = desk.journal.run(row["run"])
    desk.journal.record(Deed.RESOLVED, desk.clock.now(), run=run, **what, **details)


def _ways(row: dict[str, Any], *, going_on: bool) -> Iterator[str]:
    """Name what can be typed, the most likely first."""
    if going_on:
        yield "cocoon-net workflow retry"
    resolve = f"cocoon-net workflow resolve {row['id']}"
    yield f"{resolve} --retry"
    if row["verb"] == "create":
        yield f"{resolve} --forget"
        if json.loads(row["want"])["is"] in ("Subnet", "Interface"):
            yield f"{resolve} --adopt ID"
