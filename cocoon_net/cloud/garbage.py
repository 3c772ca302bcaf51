"""What is left of a node in the cloud that nobody looks after any more: the words that the platforms share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

GRACE = timedelta(minutes=5)
"""How long a thing must have been at rest before it is garbage: longer than anything lies between two of our calls."""


@dataclass(frozen=True, slots=True)
class LookedAfter:
    """What this node's database knows, and what an operation of its may have made without its knowing."""

    ids: frozenset[str] = frozenset()
    expected: frozenset[tuple[str, str]] = frozenset()
    """Lineage and key, as in the tags of what is made."""


@dataclass(frozen=True, slots=True)
class Stray:
    """A thing that carries this node's mark and that the node's database does not know."""

    kind: str
    """``interface`` or ``subnet``."""
    id: str
    key: str
    """As its tag says."""
    where: str
    """Its address, or its block."""
    seconds: float | None
    """For how long it has been as it is; None where nobody can say."""
    stays: str
    """Why it is not deleted; empty for garbage."""
