"""A case of the crash matrix: one death, and how the world after it is judged.

A cycle carries two cases: the provisioning is killed and resumed and compared with the provisioned world, then the
teardown is killed and resumed and compared with the empty one.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from cocoon_net.errors import SpecError
from cocoon_net.lab.death import Moment
from cocoon_net.lab.photograph import Photograph, take
from cocoon_net.lab.stage import NOTHING_TO_RESUME, STORIES, Ended, Stage

CHAPTERS = tuple(chapter for story in STORIES.values() for chapter in story.chapters)


@dataclass(frozen=True, slots=True)
class Case:
    """One death: in a chapter, at a moment. Its text repeats it: ``teardown:call-7-after``."""

    chapter: str
    moment: Moment

    def __str__(self) -> str:
        return f"{self.chapter}:{self.moment}"

    @classmethod
    def parse(cls, text: str) -> Case:
        """Read a case from its text; raises SpecError."""
        chapter, _, moment = text.partition(":")
        try:
            if chapter not in CHAPTERS:
                raise ValueError(f"{chapter!r} is none of {', '.join(CHAPTERS)}")
            return cls(chapter, Moment.parse(moment))
        except ValueError as error:
            raise SpecError(f"case {text!r}: {error}", hint="for example init:write-12-before") from None


@dataclass(frozen=True, slots=True)
class Cycle:
    """A provisioning and its teardown, with at most one case in each."""

    story: str
    first: Case | None
    last: Case | None
    twice: bool = False
    """Whether the resumed run is killed, too, before the one that is to end well."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one case."""

    case: Case
    reached: bool
    """Whether the process lived to its moment; a run may pass one look less than the undisturbed one did."""
    again: bool = False
    """Whether the resumed run was killed, too."""
    place: str = ""
    """What it was doing there."""
    differences: tuple[str, ...] = ()
    leaked: tuple[int, int] = (0, 0)
    """Objects of the cloud and of the node that there are too many."""
    said: str = ""
    """What the resumed run said, where there is a difference."""

    @property
    def equal(self) -> bool:
        """Whether the world is that of an undisturbed run."""
        return not self.differences


@dataclass
class Tally:
    """The sums of one chapter."""

    points: int = 0
    verdicts: list[Verdict] = field(default_factory=list)


def cycles(story: str, chosen: Sequence[Case], *, twice: bool = False) -> list[Cycle]:
    """Pair the chosen cases of a story up: each cycle carries one death of each chapter as long as there are."""
    chapters = STORIES[story].chapters
    pairs = itertools.zip_longest(*([case for case in chosen if case.chapter == chapter] for chapter in chapters))
    return [Cycle(story, first, last, twice) for first, last in pairs]


def spread(cases: Sequence[Case], count: int | None) -> list[Case]:
    """Return ``count`` of the cases, spread evenly; all of them for None."""
    if count is None or count >= len(cases):
        return list(cases)
    return [cases[int((number + 0.5) * len(cases) / count)] for number in range(count)]


def second(moment: Moment) -> Moment:
    """Return when the run that resumes one killed at ``moment`` dies itself: somewhere in its first 29 of the kind."""
    return replace(moment, number=1 + moment.number * 5 % 29)


def play(stage: Stage, cycle: Cycle) -> Iterator[Verdict]:
    """Play one cycle on a stage and judge its cases; the world is empty after it when all went well."""
    stage.forget()
    for case, chapter, wanted in zip(
        (cycle.first, cycle.last), stage.story.chapters, (stage.provisioned, stage.empty), strict=True
    ):
        if case is None:
            stage.play(chapter)
            continue
        died = resumed = stage.kill(chapter, case.moment)
        again = died.killed and cycle.twice and stage.resume(chapter, at=second(case.moment)).killed
        if died.killed:
            resumed = stage.resume(chapter)
        yield judge(case, died, resumed, take(stage.lab), wanted, again=again)


def judge(
    case: Case, died: Ended, resumed: Ended, now: Photograph, wanted: Photograph, *, again: bool = False
) -> Verdict:
    """Compare the world after a resumed run with the one after an undisturbed run."""
    differences = now.differences(wanted)
    if died.code not in (0, -signal.SIGKILL):
        differences.insert(0, f"the run that was to be killed ended with {died.code}")
    elif resumed.code not in (0, NOTHING_TO_RESUME):
        differences.insert(0, f"the resumed run ended with {resumed.code}")
    return Verdict(
        case,
        reached=died.killed,
        again=again,
        place=died.passed[-1] if died.passed else "",
        differences=tuple(differences),
        leaked=now.leaked(wanted),
        said=f"exit code {resumed.code}\n{resumed.said}" if differences else "",
    )
