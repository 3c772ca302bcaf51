"""What a run would find and do, as a value: the operator's plan. Pure.

A forecast is rendered as one JSON document, which is also the plan file. Two documents are compared by what they would
do: an object that neither would touch may change as it likes (leases come and go), anything else has *moved*.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from cocoon_net.engine.model import Busy, Call, Change, Seen, Verb, Via, Wanted
from cocoon_net.errors import SpecError
from cocoon_net.records import Instance, Record, encode
from cocoon_net.spec import Spec

FORMAT = 1
"""Of the document; another number is another meaning of its keys."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A change and the calls it would make; ``refused`` says why it would be refused instead."""

    change: Change
    calls: tuple[Call, ...]
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a run would find at one step, and do there."""

    step: str
    seen: Seen
    wanted: Wanted
    changes: tuple[Planned, ...]
    waiting: tuple[str, ...]
    kept: Mapping[str, str] = field(default_factory=dict)
    """What a teardown would leave: key -> why."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run of a workflow would find and do from where it stands; ``run`` is the unfinished one, or empty."""

    workflow: str
    run: str
    spec: Spec
    instance: Instance | None
    version: str
    made_at: datetime
    steps: tuple[Outlook, ...]

    @property
    def settled(self) -> bool:
        """Whether there is nothing to do and nothing to wait for."""
        return not any(step.changes or step.waiting for step in self.steps)

    @property
    def stop(self) -> str:
        """The step at which a run would be refused a change; empty where none would be."""
        return next((step.step for step in self.steps if any(each.refused for each in step.changes)), "")

    def verbs(self) -> dict[Verb, int]:
        """Return how many objects would be created, changed and deleted."""
        found = Counter(planned.change.verb for step in self.steps for planned in step.changes)
        return {verb: found[verb] for verb in Verb}

    def calls(self) -> dict[Via, int]:
        """Return how many calls would be made, by what they go to."""
        found = Counter(call.via for step in self.steps for planned in step.changes for call in planned.calls)
        return {via: found[via] for via in Via}


def differing(change: Change) -> list[tuple[str, Any, Any]]:
    """Return (field, seen, wanted) where they differ; of a thing that is to go also the facts that name it."""
    record = change.want if change.want is not None else change.seen
    out: list[tuple[str, Any, Any]] = []
    for each in fields(record) if record is not None else ():
        if each.name in ("ours", "owner") or not (each.compare or change.verb is Verb.DELETE):
            continue
        seen, want = getattr(change.seen, each.name, None), getattr(change.want, each.name, None)
        if seen != want or change.verb is not Verb.UPDATE:
            out.append((each.name, seen, want))
    return out


# The document


def document(forecast: Forecast) -> dict[str, Any]:
    """Render a forecast as JSON-ready values; the keys are documented in docs/plan.md."""
    body = {
        "format": FORMAT,
        "version": forecast.version,
        "made_at": forecast.made_at.isoformat(),
        "workflow": forecast.workflow,
        "run": forecast.run,
        "spec": forecast.spec.as_json(),
        "instance": encode(forecast.instance) if forecast.instance else None,
        "steps": [_step(step) for step in forecast.steps],
        "counts": {
            **{verb.value: count for verb, count in forecast.verbs().items()},
            "waiting": sum(len(step.waiting) for step in forecast.steps),
            "refused": sum(1 for step in forecast.steps for planned in step.changes if planned.refused),
            "kept": sum(len(step.kept) for step in forecast.steps),
            "calls": {via.value: count for via, count in forecast.calls().items()},
        },
    }
    return {**body, "sha256": _digest(body)}


def parse(text: str, where: str) -> dict[str, Any]:
    """Read a document back. Raises SpecError for one that is damaged or of another format."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise SpecError(f"{where} is not a plan: {error}", hint=_AGAIN) from None
    if not isinstance(data, dict) or "format" not in data:
        raise SpecError(f"{where} is not a plan of cocoon-net", hint=_AGAIN)
    if data["format"] != FORMAT:
        raise SpecError(f"{where} is a plan of format {data['format']!r}; this version reads {FORMAT}", hint=_AGAIN)
    if data.pop("sha256", "") != _digest(data):
        raise SpecError(f"{where} is damaged, or was edited: its checksum is another", hint=_AGAIN)
    return data


_AGAIN = "`cocoon-net plan --out FILE` makes a new one"


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _step(step: Outlook) -> dict[str, Any]:
    return {
        "step": step.step,
        "changes": [_planned(planned) for planned in step.changes],
        "waiting": list(step.waiting),
        "kept": dict(step.kept),
        "seen": {key: _record(record) for key, record in step.seen.items()},
        "wanted": {key: _record(record) for key, record in step.wanted.items()},
    }


def _planned(planned: Planned) -> dict[str, Any]:
    change = planned.change
    seen, want = _record(change.seen), _record(change.want)
    return {
        "key": change.key,
        "verb": change.verb.value,
        "fields": {
            name: {"seen": seen[name] if seen else None, "wanted": want[name] if want else None}
            for name, _, _ in differing(change)
        },
        "calls": [
            {"via": call.via.value, "action": call.action, "params": dict(call.params)} for call in planned.calls
        ],
        "refused": planned.refused,
    }


def _record(record: Record | Busy | None) -> Any:
    match record:
        case None:
            return None
        case Busy(why):
            return {"is": "Busy", "why": why}
        case _:
            return encode(record)


# What moved


@dataclass(frozen=True, slots=True)
class Moved:
    """One thing that is not as it was: the object, its field, then and now."""

    where: str
    what: str
    then: str
    now: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} was {self.then}, is {self.now}"


def moved(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Moved]:
    """Compare two documents of the same workflow and spec: what is seen, wanted, called or kept otherwise."""
    out: list[Moved] = []
    if then["run"] != now["run"]:
        out.append(Moved("run", "the unfinished one", then["run"] or "none", now["run"] or "none"))
    out += _fields("instance", then["instance"] or {}, now["instance"] or {})
    before = {step["step"]: step for step in then["steps"]}
    after = {step["step"]: step for step in now["steps"]}
    for name in dict.fromkeys((*before, *after)):
        out += _of_step(name, before.get(name, _NOTHING), after.get(name, _NOTHING))
    return out


_NOTHING: dict[str, Any] = {"changes": [], "kept": {}, "seen": {}, "wanted": {}}


def _of_step(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Moved]:
    before, after = _touched(then), _touched(now)
    for key in dict.fromkeys((*before, *after)):
        where = f"{name} {key}"
        found = [
            *_objects(where, then["seen"].get(key), now["seen"].get(key)),
            *_objects(f"{where} as wanted", then["wanted"].get(key), now["wanted"].get(key)),
        ]
        if not found and before.get(key) != after.get(key):
            found = [Moved(where, "what is to be done", _said(before.get(key)), _said(after.get(key)))]
        yield from found


def _touched(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return what would be done, waited for or kept: key -> what says so."""
    busy = {key: record for key, record in step["seen"].items() if record["is"] == "Busy"}
    return {**busy, **step["kept"], **{change["key"]: change for change in step["changes"]}}


def _objects(where: str, then: Any, now: Any) -> list[Moved]:
    match then, now:
        case None, None:
            return []
        case {"is": one}, {"is": other} if one == other:
            return _fields(where, then, now)
        case _:
            return [Moved(where, "the object", _state(then), _state(now))]


def _fields(where: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Moved]:
    names = [name for name in dict.fromkeys((*then, *now)) if then.get(name) != now.get(name)]
    return [Moved(where, name, _short(then.get(name)), _short(now.get(name))) for name in names]


def _state(record: Any) -> str:
    match record:
        case None:
            return "absent"
        case {"is": "Busy", "why": why}:
            return f"waiting for {why}"
        case _:
            return f"there ({record.get('id') or record['is']})"


def _said(touch: Any) -> str:
    match touch:
        case None:
            return "nothing"
        case {"verb": verb, "calls": calls}:
            return " ".join((verb, *(call["action"] for call in calls)))
        case _:
            return str(touch)


def _short(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    text = text.replace("\n", " ") or "empty"
    return text if len(text) <= 80 else f"{text[:77]}..."
