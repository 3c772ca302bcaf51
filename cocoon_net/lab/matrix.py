"""The crash matrix: a process dies at every moment of init, adopt and teardown; resumed, the world must be the same.

::

    for each story (init, adopt), on a lab of its own:
        play it undisturbed: photograph the provisioned and the empty world, list the moments of both runs
        for each moment i of the one and j of the other:
            die at i, resume, compare with the provisioned world; die at j, resume, compare with the empty world

Proven is what was compared: the cloud, the kernel, the files and the ledger of one node, after one death for each
run (two with ``--twice``), against a cloud that behaves (or as ``--fault`` says). Not proven: the death of the machine
itself, and what other programs do meanwhile.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from string import ascii_lowercase

from cocoon_net.errors import CocoonError
from cocoon_net.lab.case import CHAPTERS, Case, Tally, Verdict, cycles, spread
from cocoon_net.lab.cloud import Faults
from cocoon_net.lab.cloud.faults import parse_settings
from cocoon_net.lab.stage import STORIES, Product
from cocoon_net.lab.workers import Worker, deal, stop, survey


def run(
    product: Product,
    *,
    chapters: Sequence[str] = CHAPTERS,
    sample: int | None = None,
    labs: int = 2,
    only: Case | None = None,
    twice: bool = False,
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
            found = survey(workers, stories)
            for chapter in chapters:
                tallies[chapter].points = len(found[chapter])
            every = [Case(chapter, moment) for chapter in chapters for moment in found[chapter]]
            chosen = [only] if only is not None else spread(every, sample)
            for verdict in deal(workers, [cycle for story in stories for cycle in cycles(story, chosen, twice=twice)]):
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


def main(product: Product, arguments: Sequence[str] | None = None) -> int:
    """Play the matrix as the command line says, print what was found, and return the exit code.

    0: every case was equal and nothing leaked; 1: not so; else the code of the error that stopped it.
    """
    options = _options(arguments)
    signal.signal(signal.SIGTERM, stop)
    try:
        return _report(product, options)
    except CocoonError as error:
        print(f"error: {error}", *filter(None, [error.hint and f"hint:  {error.hint}"]), sep="\n", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the labs are removed", file=sys.stderr)
        return 128 + signal.SIGINT


def _report(product: Product, options: argparse.Namespace) -> int:
    began = time.monotonic()
    only = Case.parse(options.case) if options.case else None
    chapters = [chapter for chapter in CHAPTERS if options.only is None or chapter.partition("-")[0] == options.only]
    if only is not None:
        chapters = [only.chapter]
    faults = parse_settings(options.fault)
    Faults().set(faults)
    passed = itertools.count(1)
    repeated = "".join([" --twice" if options.twice else "", *(f" --fault {fault}" for fault in options.fault)])
    tallies = run(
        product,
        chapters=chapters,
        sample=options.sample,
        labs=1 if only else options.labs,
        only=only,
        twice=options.twice,
        faults=faults,
        tell=lambda verdict: _tell(verdict, next(passed), repeated, verbose=only is not None),
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
    if options.twice:
        print(f"killed again while they resumed: {sum(verdict.again for verdict in verdicts)}")
    cloud, node = (sum(verdict.leaked[part] for verdict in verdicts) for part in (0, 1))
    print(f"leaked: {cloud} objects of the cloud, {node} of the node; {time.monotonic() - began:.0f} s")
    return 0 if verdicts and equal == len(verdicts) and not cloud + node else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    summary, *_ = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(prog="scripts/crash-matrix", description=summary)
    parser.add_argument("--only", choices=("init", "adopt", "teardown"), help="one workflow; default: all three")
    parser.add_argument("--sample", type=_count, metavar="N", help="only N cases, spread evenly over all")
    parser.add_argument(
        "--labs", type=int, default=2, choices=range(1, 9), metavar="N", help="side by side (default 2)"
    )
    parser.add_argument("--case", metavar="ID", help="one case, such as init:write-12-before, and what became of it")
    parser.add_argument("--twice", action="store_true", help="kill the resumed run, too, and resume it again")
    parser.add_argument("--fault", action="append", default=[], metavar="KEY=VALUE", help="a knob of the lab's cloud")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"wanted a number of cases, got {text}")
    return int(text)


def _tell(verdict: Verdict, number: int, options: str, *, verbose: bool) -> None:
    """Print a case that differs, with what differs and how to repeat it; with ``verbose`` any case."""
    if sys.stderr.isatty():
        print(f"\r{number} cases\r", end="", file=sys.stderr, flush=True)
    if not verdict.equal:
        print(f"DIFFERENT {verdict.case}, killed at: {verdict.place}")
        for line in verdict.differences:
            print(f"  {line}")
        print("  the resumed run said: " + verdict.said.strip().replace("\n", "\n    "))
        print(f"  repeat it: scripts/crash-matrix --case {verdict.case}{options}")
    elif verbose:
        print(f"equal {verdict.case}, killed at: {verdict.place}" if verdict.reached else f"not reached {verdict.case}")
    sys.stdout.flush()
