"""The words of the engine: what a step is, what an inventory can do, what a change is.

The engine knows keys and records; it knows nothing of networks or clouds. An inventory knows one kind of thing in
the world; it knows nothing of steps. A want function is pure; it knows only the context it is handed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from cocoon_net.records import Instance, Record
from cocoon_net.spec import Spec


class Verb(StrEnum):
    """What a change does to its key."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class Origin(StrEnum):
    """How a thing came to be ours to look after."""

    CREATED = "created"
    """We made it."""
    FOUND = "found"
    """It was there before us; we may have changed it, and ``before`` says how it was."""
    ADOPTED = "adopted"
    """The operator said that it stays: never deleted by us, whatever marks it carries."""


@dataclass(frozen=True, slots=True)
class Busy:
    """The world is between two states at this key; ``why`` reads after "waiting for": ``eni-3 to attach``."""

    why: str


@dataclass(frozen=True, slots=True)
class Change:
    """One difference, and the one side effect that would remove it."""

    step: str
    key: str
    verb: Verb
    want: Record | None
    seen: Record | None


class Via(StrEnum):
    """What a call goes to."""

    CLOUD = "cloud"
    KERNEL = "kernel"
    FILE = "file"
    DATABASE = "database"


class Later(str):
    """A value that is not known before an earlier step has made its thing: ``(of eni-3)``. Nothing sends one."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a change, spelled as its reader would: an action of the cloud's API, a command, a file written."""

    via: Via
    action: str
    """``CreateSubnet``; on the node the whole command that would do the same: ``ip link set eth1 up``."""
    params: Mapping[str, object] = field(default_factory=dict)
    """What the action is given; a ``Later`` where that is not known yet. Empty for commands."""

    def __str__(self) -> str:
        return " ".join((self.action, *(f"{name}={_spell(value)}" for name, value in self.params.items())))


def _spell(value: object) -> str:
    match value:
        case {"Key": key, "Value": text}:
            return f"{key}={text}"
        case list():
            return ",".join(map(_spell, value))
        case _:
            return str(value)


@dataclass(frozen=True, slots=True)
class Undertaken:
    """A change that was intended in this lineage, and whose step has not come to rest since."""

    change: Change
    outcome: str
    """``pending``, ``done``, ``failed``, ``not begun`` (we were asked to stop), or ``unknown`` when nobody can say."""
    details: Mapping[str, str]
    """What the inventory told when it was done."""

    @property
    def may_have_acted(self) -> bool:
        """Whether the world may be another for it."""
        return self.outcome not in ("failed", "not begun")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the ledger: a thing we look after, as last seen, and how it was before our first change."""

    step: str
    key: str
    origin: Origin
    record: Record
    before: Record | None = None


Ledger = Mapping[tuple[str, str], Row]
"""(step, key) -> Row."""


@dataclass(frozen=True, slots=True)
class Context:
    """All that a want function or an inventory may know besides the world itself."""

    spec: Spec
    instance: Instance | None
    """None where the cloud was never asked (adopting a node while the cloud is away, importing a Go node)."""
    ledger: Ledger
    lineage: str
    """One provisioning of one node, from its first init to the end of its teardown."""
    now: datetime
    open: Sequence[Undertaken] = ()
    """What was undertaken and has not come to rest, oldest first: what a crash may have left half-known."""
    skipped: frozenset[str] = frozenset()
    """The steps of this run that the operator went past: what they were to make may never come."""

    def undertaken(self, step: str, key: str) -> Iterator[Undertaken]:
        """Return what is open at one key."""
        return (act for act in self.open if (act.change.step, act.change.key) == (step, key))

    def records(self, step: str) -> dict[str, Any]:
        """Return what the ledger knows of ``step``: key -> record, sorted by key."""
        return {row.key: row.record for (name, _), row in sorted(self.ledger.items()) if name == step}


Seen = Mapping[str, Record | Busy]
"""What an inventory observed; a key that is missing is absent in the world."""

Wanted = Mapping[str, Record]
"""What a step wants; a key that is missing is not wanted."""

Want = Callable[[Context, Mapping[str, Record]], Wanted]
"""Computes what is wanted from the context and what was just observed (busy keys left out). Pure."""


class Inventory(Protocol):
    """One kind of thing in the world."""

    def observe(self, cx: Context) -> Seen:
        """Look. Returns every key in our keyspace that exists. Raises WorldError; an empty answer means empty."""
        ...

    def calls(self, change: Change, cx: Context) -> tuple[Call, ...]:
        """Foretell what ``apply`` does to the world for this change, until it rests. Pure.

        Raises WorldError where ``apply`` would refuse for what is known already.
        """
        ...

    def apply(self, change: Change, token: str, cx: Context) -> Mapping[str, str]:
        """Make one side effect; never sleep, never retry. Returns what the journal should note (ids, request id).

        ``token`` is the same for the same wish however often it is asked: hand it to the API where it takes one.
        "Already done" is success. Raises WorldError, of which a ``retryable`` one sends the runner back to observe.
        Called from several threads at once for different keys.
        """
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """A state of the machine, and what it wants of the inventory of the same name."""

    name: str
    want: Want
    prune: bool = False
    """Whether keys that are ours and not wanted are deleted on the way up, too."""
    leaves: Callable[[Record], Record | None] | None = None
    """What a teardown leaves of a thing that ours is only a part of; without it, all is ours or nothing."""
    part_of: str = ""
    """The step whose thing of the same key takes this one along when it is deleted."""
    permanent: bool = False
    """Whether its things come and go without us (a kernel setting, an interface's link): never entered as created."""
