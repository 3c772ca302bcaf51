"""The crash matrix: a process dies at every moment of init, adopt and teardown; resumed, the world must be the same.

::

    for each story (init, adopt), on a lab of its own:
        play it undisturbed: photograph the provisioned and the empty world, list the moments of both runs
        for each moment i of the one and j of the other:
            die at i, resume, compare with the provisioned world; die at j, resume, compare with the empty world

Proven is what was compared: the cloud, the kernel, the files and the ledger of one node, after one death for each
run, against a cloud that behaves (or as ``--fault`` says). Not proven: the death of the machine itself, two deaths
in a row, and what other programs do meanwhile.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from cocoon_net.errors import CocoonError, SpecError
from cocoon_net.lab.cloud import Faults
from cocoon_net.lab.cloud.faults import parse_settings
from cocoon_net.lab.death import Moment
from cocoon_net.lab.photograph import Photograph, take
from cocoon_net.lab.stage import STORIES, Ended, Product, Stage, open_stage

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
    """A provisioning and its teardown, with at most one death in each."""

    story: str
    first: Case | None
    last: Case | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one case."""

    case: Case
    reached: bool
    """Whether the process lived to its moment; a run may pass one look less than the undisturbed one did."""
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


def cycles(story: str, chosen: Sequence[Case]) -> list[Cycle]:
    """Pair the chosen cases of a story up: each cycle carries one death of each chapter as long as there are."""
    chapters = STORIES[story].chapters
    pairs = zip_longest(*([case for case in chosen if case.chapter == chapter] for chapter in chapters))
    return [Cycle(story, first, last) for first, last in pairs]


def spread(cases: Sequence[Case], count: int | None) -> list[Case]:
    """Return ``count`` of the cases, spread evenly; all of them for None."""
    if count is None or count >= len(cases):
        return list(cases)
    return [cases[int((number + 0.5) * len(cases) / count)] for number in range(count)]


def play(stage: Stage, cycle: Cycle) -> Iterator[Verdict]:
    """Play one cycle on a stage and judge its cases; the world is empty after it when all went well."""
    stage.forget()
    for case, chapter, wanted in zip(
        (cycle.first, cycle.last), stage.story.chapters, (stage.provisioned, stage.empty), strict=True
    ):
        if case is None:
            stage.play(chapter)
            continue
        died = stage.kill(chapter, case.moment)
        resumed = stage.resume(chapter) if died.killed else died
        yield judge(case, died, resumed, take(stage.lab), wanted)


def judge(case: Case, died: Ended, resumed: Ended, now: Photograph, wanted: Photograph) -> Verdict:
    """Compare the world after a resumed run with the one after an undisturbed run."""
    differences = now.differences(wanted)
    if died.code not in (0, -signal.SIGKILL):
        differences.insert(0, f"the run that was to be killed ended with {died.code}")
    return Verdict(
        case,
        reached=died.killed,
        place=died.passed[-1] if died.passed else "",
        differences=tuple(differences),
        leaked=now.leaked(wanted),
        said=f"exit code {resumed.code}\n{resumed.said}" if differences else "",
    )


class Worker:
    """Plays cycles in a process and a lab of its own; a lab in which something went wrong is built anew."""

    def __init__(self, name: str, base: Path, product: Product, faults: dict[str, str]) -> None:
        context = multiprocessing.get_context("fork")
        self.ours, theirs = context.Pipe()
        self._stage: Stage | None = None
        self._open = partial(open_stage, name, base, product=product, faults=faults)
        self.process = context.Process(target=self._work, args=(theirs,), name=name)
        self.process.start()
        theirs.close()

    def _work(self, pipe: Any) -> None:
        self.ours.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _stop)
        try:
            while (order := pipe.recv()) is not None:
                try:
                    pipe.send(self._answer(order))
                except CocoonError as error:
                    pipe.send(error)
        except (EOFError, SystemExit, BrokenPipeError):
            pass
        finally:
            self._clear()

    def _answer(self, order: Cycle | str) -> dict[str, list[Moment]] | list[Verdict]:
        story = order if isinstance(order, str) else order.story
        if self._stage is None or self._stage.story.name != story:
            self._clear()
            self._stage = self._open(STORIES[story])
            self._stage.build()
        if isinstance(order, str):
            return self._stage.found
        verdicts = list(play(self._stage, order))
        if not all(verdict.equal for verdict in verdicts):
            self._clear()
        return verdicts

    def _clear(self) -> None:
        if self._stage is not None:
            self._stage.clear()
            self._stage = None


def run(
    product: Product,
    *,
    chapters: Sequence[str] = CHAPTERS,
    sample: int | None = None,
    labs: int = 2,
    only: Case | None = None,
    faults: dict[str, str] | None = None,
    tell: Callable[[Verdict], None] | None = None,
) -> dict[str, Tally]:
    """Play the matrix and return the tally of each chapter; ``tell`` hears each verdict. Raises CocoonError."""
    tallies = {chapter: Tally() for chapter in chapters}
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        names = [f"m{os.getpid() % 100000}{letter}" for letter in ascii_lowercase[:labs]]
        workers = [Worker(name, Path(folder), product, faults or {}) for name in names]
        try:
            stories = [name for name, story in STORIES.items() if set(story.chapters) & set(chapters)]
            found = _survey(workers, stories)
            for chapter in chapters:
                tallies[chapter].points = len(found[chapter])
            every = [Case(chapter, moment) for chapter in chapters for moment in found[chapter]]
            chosen = [only] if only is not None else spread(every, sample)
            for verdict in _deal(workers, [cycle for story in stories for cycle in cycles(story, chosen)]):
                tallies[verdict.case.chapter].verdicts.append(verdict)
                if tell is not None:
                    tell(verdict)
        finally:
            for worker in workers:
                with suppress(OSError):
                    worker.ours.send(None)
            for worker in workers:
                worker.process.join(20)
    return tallies


def _survey(workers: Sequence[Worker], stories: Sequence[str]) -> dict[str, list[Moment]]:
    """Have every story played undisturbed, and return the moments of each chapter."""
    found: dict[str, list[Moment]] = {}
    for number, story in enumerate(stories):
        workers[number % len(workers)].ours.send(story)
        if number % len(workers) == len(workers) - 1 or story == stories[-1]:
            for worker in workers[: number % len(workers) + 1]:
                found |= _expect(worker)
    return found


def _deal(workers: Sequence[Worker], plans: Sequence[Cycle]) -> Iterator[Verdict]:
    """Give each worker a cycle, and the next one when it is done."""
    from multiprocessing.connection import wait

    waiting = list(reversed(plans))
    busy: dict[Any, Worker] = {}
    for worker in workers:
        if waiting:
            worker.ours.send(waiting.pop())
            busy[worker.ours] = worker
    while busy:
        for pipe in wait(list(busy)):
            worker = busy.pop(pipe)
            yield from _expect(worker)
            if waiting:
                worker.ours.send(waiting.pop())
                busy[worker.ours] = worker


def _expect(worker: Worker) -> Any:
    answer = worker.ours.recv()
    if isinstance(answer, CocoonError):
        raise answer
    return answer


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def main(product: Product, arguments: Sequence[str] | None = None) -> int:
    """Play the matrix as the command line says, print what was found, and return the exit code."""
    options = _options(arguments)
    began = time.monotonic()
    only = Case.parse(options.case) if options.case else None
    chapters = [chapter for chapter in CHAPTERS if options.only is None or chapter.partition("-")[0] == options.only]
    if only is not None:
        chapters = [only.chapter]
    faults = parse_settings(options.fault)
    Faults().set(faults)
    tallies = run(
        product,
        chapters=chapters,
        sample=options.sample,
        labs=1 if only else options.labs,
        only=only,
        faults=faults,
        tell=lambda verdict: _tell(verdict, options.fault, verbose=only is not None),
    )
    verdicts = [verdict for tally in tallies.values() for verdict in tally.verdicts]
    print(f"{'run':<18}{'points':>8}{'cases':>8}{'equal':>8}{'not reached':>13}")
    for chapter, tally in tallies.items():
        equal = sum(verdict.equal for verdict in tally.verdicts)
        unreached = sum(not verdict.reached for verdict in tally.verdicts)
        print(f"{chapter:<18}{tally.points:>8}{len(tally.verdicts):>8}{equal:>8}{unreached:>13}")
    equal = sum(verdict.equal for verdict in verdicts)
    unreached = sum(not verdict.reached for verdict in verdicts)
    print(f"{'all':<18}{sum(t.points for t in tallies.values()):>8}{len(verdicts):>8}{equal:>8}{unreached:>13}")
    cloud, node = (sum(verdict.leaked[part] for verdict in verdicts) for part in (0, 1))
    print(f"leaked: {cloud} objects of the cloud, {node} of the node; {time.monotonic() - began:.0f} s")
    return 0 if verdicts and equal == len(verdicts) and not cloud + node else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    summary, *_ = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(prog="scripts/crash-matrix", description=summary)
    parser.add_argument("--only", choices=("init", "adopt", "teardown"), help="one workflow; default: all three")
    parser.add_argument("--sample", type=int, metavar="N", help="only N cases, spread evenly over all")
    parser.add_argument(
        "--labs", type=int, default=2, choices=range(1, 9), metavar="N", help="side by side (default 2)"
    )
    parser.add_argument("--case", metavar="ID", help="one case, such as init:write-12-before, and what became of it")
    parser.add_argument("--fault", action="append", default=[], metavar="KEY=VALUE", help="a knob of the lab's cloud")
    return parser.parse_args(arguments)


def _tell(verdict: Verdict, faults: Sequence[str], *, verbose: bool) -> None:
    """Print a case that differs, with what differs and how to repeat it; with ``verbose`` any case."""
    if not verdict.equal:
        print(f"DIFFERENT {verdict.case}, killed at: {verdict.place}")
        for line in verdict.differences:
            print(f"  {line}")
        print("  the resumed run said: " + verdict.said.strip().replace("\n", "\n    "))
        print(f"  repeat it: scripts/crash-matrix --case {verdict.case}" + "".join(f" --fault {f}" for f in faults))
    elif verbose:
        print(f"equal {verdict.case}, killed at: {verdict.place}" if verdict.reached else f"not reached {verdict.case}")
    sys.stdout.flush()
