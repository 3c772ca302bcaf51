"""Workflow files: which steps, in which order, how long each may take, and who repairs it. Data, read from TOML.

::

    name = "init"
    title = "Provision this node"
    want = "spec"            # spec: what the step wants | seen: what is there | nothing

    [[step]]
    name = "subnet"          # a name of steps.STEPS
    deadline = "5m"
    repair = "report"        # auto: an audit may repair it | report: it only says so
    want = "seen"            # optional, instead of the workflow's own

The resolved plan is copied into each run's row, so that an upgrade cannot change a run in flight.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from cocoon_net.errors import WorkflowError

_DURATION = re.compile(r"(\d+)(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NAMES_OF_MACHINE = frozenset({"planned", "done", "abandoned"})


class Wish(StrEnum):
    """What a stage wants."""

    SPEC = "spec"
    SEEN = "seen"
    NOTHING = "nothing"


class Repair(StrEnum):
    """Who repairs a stage when it drifts."""

    AUTO = "auto"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a workflow; ``deadline`` in seconds."""

    name: str
    wish: Wish
    deadline: float
    repair: Repair


@dataclass(frozen=True, slots=True)
class Plan:
    """A resolved workflow."""

    name: str
    title: str
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage:
        """Return the stage called ``name``; KeyError if there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)

    def as_json(self) -> dict[str, Any]:
        """Return JSON-ready values that ``from_json`` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """Read a plan back from a run's row."""
        stages = tuple(
            Stage(s["name"], Wish(s["wish"]), float(s["deadline"]), Repair(s["repair"])) for s in data["stages"]
        )
        return cls(data["name"], data["title"], stages)


def folder() -> Path:
    """Return where the shipped workflows are: inside the package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    shipped = package / "workflows"
    return shipped if shipped.is_dir() else package.parent / "workflows"


def load(name: str, steps: Collection[str], directory: Path | None = None) -> Plan:
    """Read ``<name>.toml``. Raises WorkflowError with every problem: unknown keys, steps, wishes, bad durations."""
    path = (directory or folder()) / f"{name}.toml"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WorkflowError(f"there is no workflow {name!r} in {path.parent}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WorkflowError(f"{path}: {error}") from error
    return parse(data, steps, str(path))


def parse(data: dict[str, Any], steps: Collection[str], where: str) -> Plan:
    """Turn a workflow file's data into a Plan, or raise one WorkflowError that lists every problem."""
    problems = [f"unknown key {key!r}" for key in sorted(set(data) - {"name", "title", "want", "step"})]
    general = _choice(Wish, data.get("want", "spec"), "want", problems)
    stages: list[Stage] = []
    for number, item in enumerate(_tables(data.get("step", []), problems), 1):
        name = str(item.get("name", ""))
        place = f"step {number} ({name or 'without a name'})"
        problems += [f"{place}: unknown key {k!r}" for k in sorted(set(item) - {"name", "want", "deadline", "repair"})]
        if name not in steps or name in _NAMES_OF_MACHINE:
            problems.append(f"{place}: no such step; there are: {', '.join(steps)}")
        if any(stage.name == name for stage in stages):
            problems.append(f"{place}: named twice")
        wish = _choice(Wish, item.get("want", general), f"{place}: want", problems)
        repair = _choice(Repair, item.get("repair", "report"), f"{place}: repair", problems)
        stages.append(Stage(name, wish, _seconds(item.get("deadline", "60s"), place, problems), repair))
    if not stages:
        problems.append("it has no step")
    if not isinstance(data.get("name"), str):
        problems.append("it has no name")
    if problems:
        raise WorkflowError([f"{where}: {problem}" for problem in problems])
    return Plan(data["name"], data.get("title", ""), tuple(stages))


def _tables(found: Any, problems: list[str]) -> list[dict[str, Any]]:
    if isinstance(found, list) and all(isinstance(item, dict) for item in found):
        return found
    problems.append("its steps are not [[step]] tables")
    return []


def _choice(kind: Any, text: Any, place: str, problems: list[str]) -> Any:
    try:
        return kind(text)
    except ValueError:
        problems.append(f"{place}: {text!r} is none of {', '.join(kind)}")
        return next(iter(kind))


def _seconds(text: Any, place: str, problems: list[str]) -> float:
    found = _DURATION.fullmatch(str(text))
    if found is None:
        problems.append(f"{place}: deadline {text!r} is not a duration such as 30s or 5m")
        return 60.0
    return int(found[1]) * _UNITS[found[2]]
