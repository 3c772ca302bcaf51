"""What an action is: a function, and the names of its parameters as the documentation lists them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cocoon_net.lab.cloud.wire import Call, Fields, missing
from cocoon_net.lab.cloud.world import World

PAGING = "MaxResults NextToken PageNumber PageSize"
TAG_FILTERS = "TagFilters.N.Key TagFilters.N.Values.N"


@dataclass(frozen=True, slots=True)
class Action:
    """One action of the API.

    ``parameters`` are names separated by blanks, with ``N`` for the number of a list's element and ``*`` after
    a required one. ``writes``: whether the answer may carry an AsyncTaskId.
    """

    run: Callable[[World, Call], Fields]
    parameters: str
    writes: bool = False
    known: frozenset[str] = field(init=False)
    required: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = self.parameters.split()
        object.__setattr__(self, "known", frozenset(name.rstrip("*") for name in names))
        object.__setattr__(self, "required", tuple(name.rstrip("*") for name in names if name.endswith("*")))

    def unknown(self, parameters: Mapping[str, str]) -> list[str]:
        """Return the names that the action does not know; the API ignores them, so a typo goes unseen."""
        return sorted(name for name in parameters if re.sub(r"\.\d+(?=\.|$)", ".N", name) not in self.known)

    def check(self, call: Call) -> None:
        """Raise ``ApiError`` MissingParameter if a required parameter is missing."""
        for name in self.required:
            if name.endswith(".N"):
                if not call.listed(name[:-2]):
                    raise missing(f"{name[:-2]}.1")
            elif not call.text(name):
                raise missing(name)
