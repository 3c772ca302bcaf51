"""The diff: what differs between wanted and seen, and what a teardown spares. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from cocoon_net.engine.model import Busy, Change, Ledger, Origin, Row, Seen, Step, Verb, Wanted
from cocoon_net.records import Record


@dataclass(frozen=True, slots=True)
class Difference:
    """What one look found: the changes that could be made now, and what has to be waited for."""

    changes: tuple[Change, ...]
    waiting: tuple[str, ...]

    @property
    def settled(self) -> bool:
        """Whether the world is as wanted and at rest."""
        return not self.changes and not self.waiting


def diff(step: str, wanted: Wanted, seen: Seen, *, prune: bool) -> Difference:
    """Compare key by key, in order of key; with ``prune``, what is seen and not wanted is to go."""
    changes: list[Change] = []
    waiting: list[str] = []
    for key in sorted(set(wanted) | set(seen), key=natural):
        want, now = wanted.get(key), seen.get(key)
        match (want, now):
            case (None, Busy(why)) if prune:
                waiting.append(why)
            case (None, _) if not prune:
                pass
            case (_, Busy(why)):
                waiting.append(why)
            case (None, _):
                changes.append(Change(step, key, Verb.DELETE, None, now))
            case (_, None):
                changes.append(Change(step, key, Verb.CREATE, want, None))
            case _ if want != now:
                changes.append(Change(step, key, Verb.UPDATE, want, now))
            case _:
                pass
    return Difference(tuple(changes), tuple(waiting))


def spared(step: Step, seen: Mapping[str, Record], ledger: Ledger) -> Wanted:
    """Return what a teardown leaves standing: what is not ours, and what we changed, as it was before us."""
    kept: dict[str, Record] = {}
    for key, record in seen.items():
        row = ledger.get((step.name, key))
        if _whole(step, key, ledger):
            kept[key] = record  # it goes with its parent; a call of its own would be one too many
        elif step.leaves is not None and (row is None or row.origin is not Origin.ADOPTED):
            if (left := step.leaves(record)) is not None:
                kept[key] = left
        elif removable(record, row) and not step.permanent:
            continue
        elif row is not None and row.origin is Origin.FOUND and row.before is not None:
            kept[key] = row.before
        else:
            kept[key] = record
    return kept


def kept(step: Step, seen: Mapping[str, Record], ledger: Ledger) -> dict[str, str]:
    """Say of each thing that a teardown leaves as it is why it does: key -> reason."""
    return {
        key: _reason(step, seen[key], ledger.get((step.name, key)), _whole(step, key, ledger))
        for key, record in sorted(spared(step, seen, ledger).items(), key=lambda item: natural(item[0]))
        if record == seen[key]
    }


def _whole(step: Step, key: str, ledger: Ledger) -> str:
    """Return the step whose thing of this key takes this one along, empty where none does."""
    parent = ledger.get((step.part_of, key))
    return step.part_of if parent is not None and removable(parent.record, parent) else ""


def _reason(step: Step, record: Record, row: Row | None, whole: str) -> str:
    owner = getattr(record, "owner", "")
    match row:
        case _ if whole:
            return f"goes with {whole}"
        case Row(origin=Origin.ADOPTED):
            return "adopted: it stays"
        case _ if owner and record.ours is False:
            return f"not ours: it belongs to {owner}"
        case Row(before=before) if before is not None:
            return "as it was before us"
        case Row(origin=Origin.FOUND):
            return "was there before us"
        case _ if record.ours is False:
            return "not ours"
        case None if step.permanent:
            return "we never changed it"
        case _:
            return "not ours: it carries no mark, and the ledger does not know it"


def foreseen(row: Row | None, step: str, key: str, want: Record, seen: Record | Busy | None) -> Row:
    """Return the ledger's row of a thing as it would be once it is as wanted; what only the world knows stays."""
    match seen:
        case None:
            return Row(step, key, row.origin if row else Origin.CREATED, want)
        case Busy():
            return row or Row(step, key, Origin.FOUND, want)
        case _:
            wanted = {f.name: getattr(want, f.name) for f in fields(want) if f.compare}
            record = seen if seen == want else replace(seen, **wanted)
            return replace(row, record=record) if row else Row(step, key, Origin.FOUND, record)


def removable(record: Record, row: Row | None) -> bool:
    """Say whether a teardown may delete a thing: its mark decides, and where it cannot carry one, the ledger."""
    if row is not None and row.origin is Origin.ADOPTED:
        return False
    match record.ours:
        case None:
            return row is not None and row.origin is Origin.CREATED
        case mark:
            return mark


def token(lineage: str, change: Change, incarnation: int) -> str:
    """Return the idempotency token of a change, 40 ASCII characters: the same wish has the same token.

    ``incarnation`` counts how often this key came to rest in this lineage: a thing that was made, seen, lost and is
    to be made again is another wish.
    """
    parts = (
        lineage,
        change.step,
        change.key,
        change.verb,
        _compared(change.want),
        _compared(change.seen),
        str(incarnation),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]


def natural(key: str) -> tuple[tuple[int, int | str], ...]:
    """Sort ``eni-10`` after ``eni-9``, and addresses by number."""
    parts: list[tuple[int, int | str]] = []
    digits = text = ""
    for letter in key:
        if letter.isdigit():
            digits += letter
            if text:
                parts.append((1, text))
                text = ""
        else:
            text += letter
            if digits:
                parts.append((0, int(digits)))
                digits = ""
    parts.append((0, int(digits)) if digits else (1, text))
    return tuple(parts)


def _compared(record: Record | None) -> str:
    if record is None:
        return ""
    compared = (f"{f.name}={getattr(record, f.name)}" for f in fields(record) if f.compare)
    return f"{type(record).__name__}({', '.join(compared)})"
