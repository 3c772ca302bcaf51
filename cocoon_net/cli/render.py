"""What people see while something runs, and plans.

On a terminal, rich draws; elsewhere each fact is one plain line. Rich is imported only to draw.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING

import click

from cocoon_net.engine.journal import Journal, Run
from cocoon_net.events import Bus, ChangeApplied, StepEntered, StepSettled, StepWaiting

if TYPE_CHECKING:
    from rich.status import Status


class Progress:
    """Tells what a run does, from its events: a spinner with the step on a terminal, lines elsewhere."""

    def __init__(self) -> None:
        self.bus = Bus()
        self._tty = sys.stderr.isatty()
        self._status: Status | None = None
        self._waiting = ""
        self._began = time.monotonic()
        self.bus.subscribe(StepEntered, self._entered)
        self.bus.subscribe(StepWaiting, self._waits)
        self.bus.subscribe(ChangeApplied, self._applied)
        self.bus.subscribe(StepSettled, self._settled)

    def __enter__(self) -> Progress:
        """Begin to draw, on a terminal."""
        if self._tty:
            from rich.console import Console

            self._status = Console(stderr=True).status("looking at the node")
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Stop drawing."""
        if self._status is not None:
            self._status.stop()

    def say(self, text: str) -> None:
        """Print one line above the spinner."""
        if self._status is not None:
            self._status.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def finish(self, run: Run, journal: Journal) -> None:
        """Say how a run ended: its time, and how often the cloud was asked."""
        calls = sum(journal.calls(run.id).values())
        self.say(f"{run.id}: {run.state}, {run.seconds:.2f} s acting, {calls} API calls")
        match run.workflow:
            case "init" | "adopt":
                self.say("next: `cocoon-net daemon` serves the addresses")
            case _:
                pass

    def _entered(self, event: StepEntered) -> None:
        self._waiting = ""
        if self._status is not None:
            self._status.update(event.step)

    def _waits(self, event: StepWaiting) -> None:
        if event.why and event.why != self._waiting:
            self._waiting = event.why
            if self._status is not None:
                self._status.update(f"{event.step}: waiting for {event.why}")
            else:
                self.say(f"{event.step:<10} waiting for {event.why}")

    def _applied(self, event: ChangeApplied) -> None:
        if self._status is not None:
            self._status.update(f"{event.step}: {event.verb}d {event.key}")

    def _settled(self, event: StepSettled) -> None:
        what = f"{event.changes} change{'' if event.changes == 1 else 's'}" if event.changes else "as wanted"
        self.say(f"{event.step:<10} {what:<12} {event.seconds:6.2f} s")


def print_lines(lines: Iterable[tuple[str, str]]) -> None:
    """Print lines of (style, text): in colours on a terminal, which folds them as it likes; plain elsewhere."""
    if not sys.stdout.isatty():
        for _, text in lines:
            click.echo(text)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for style, text in lines:
        console.print(Text(text, style=style), soft_wrap=True)
