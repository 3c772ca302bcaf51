"""The processes that play the crash matrix side by side, each in a lab of its own."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from cocoon_net.errors import CocoonError, NodeError
from cocoon_net.lab.case import Cycle, Verdict, play
from cocoon_net.lab.death import Moment
from cocoon_net.lab.stage import STORIES, Product, Stage, open_stage


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
        signal.signal(signal.SIGTERM, stop)
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


def survey(workers: Sequence[Worker], stories: Sequence[str]) -> dict[str, list[Moment]]:
    """Have every story played undisturbed, and return the moments of each chapter."""
    found: dict[str, list[Moment]] = {}
    for number, story in enumerate(stories):
        workers[number % len(workers)].ours.send(story)
        if number % len(workers) == len(workers) - 1 or story == stories[-1]:
            for worker in workers[: number % len(workers) + 1]:
                found |= _expect(worker)
    return found


def deal(workers: Sequence[Worker], plans: Sequence[Cycle]) -> Iterator[Verdict]:
    """Give each worker a cycle, and the next one when it is done."""
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
    try:
        answer = worker.ours.recv()
    except EOFError:
        raise NodeError(f"the process of the lab {worker.process.name} ended", hint="dmesg") from None
    if isinstance(answer, CocoonError):
        raise answer
    return answer


def stop(number: int, frame: object) -> None:
    """End by SIGTERM as by an exception, so that labs are removed."""
    raise SystemExit(128 + number)
