"""What people see while something runs, and plans.

On a terminal, rich draws; elsewhere each fact is one plain line. Rich is imported only to draw.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from cocoon_net.engine.journal import Journal, Run
from cocoon_net.events import Bus, ChangeApplied, StepEntered, StepSettled, StepWaiting

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.status import Status

BLINK = 1.0
"""Seconds between two looks at a node that is watched."""

MOST = 1_024
"""Addresses that are drawn one by one; of more, each block has a line."""

ROWS = 24
"""Blocks that have a line."""

_STYLES = {"f": "dim", "b": "green", "o": "blue", "c": "yellow", "q": "bold red", "s": "bold magenta"}
_SIGNS = {"f": "·", "b": "B", "o": "O", "c": "C", "q": "!", "s": "×"}


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

    def finish(self, run: Run, journal: Journal, *, then_serve: bool = True) -> None:
        """Say how a run ended: its time, how often the cloud was asked, and that it is to be served next."""
        calls = sum(journal.calls(run.id).values())
        self.say(f"{run.id}: {run.state}, {run.seconds:.2f} s acting, {calls} API calls")
        match run.workflow:
            case "init" | "adopt" if then_serve:
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


def watch(look: Callable[[], Mapping[str, Any]], *, as_json: bool) -> None:
    """Show a node by its view (docs/control-socket.md), until Ctrl-C; where it is no terminal, a line per change."""
    if sys.stdout.isatty() and not as_json:
        from rich.live import Live

        with Live(auto_refresh=False, screen=True, vertical_overflow="crop") as live:
            while True:
                live.update(_drawn(look()), refresh=True)
                time.sleep(BLINK)
    told = ""
    while True:
        view = look()
        # The time of the look is no change.
        line = json.dumps({k: v for k, v in view.items() if k != "at"}) if as_json else told_in_a_line(view)
        if line != told:
            told = line
            click.echo(json.dumps(view) if as_json else line)
            sys.stdout.flush()
        time.sleep(BLINK)


def told_in_a_line(view: Mapping[str, Any]) -> str:
    """Return a view as one line: phase, addresses, run, findings."""
    reason = f" ({view['reason']})" if view["reason"] else ""
    states = ", ".join(f"{count} {state}" for state, count in view["pool"]["states"].items() if count)
    flow = view["workflow"]
    run = f"; {flow['workflow']} {flow['state']}" if flow else ""
    findings = "; ".join(f"{one['kind']} {one['key']}: {one['says']}" for one in view["findings"])
    return f"{view['phase']}{reason}; {states}{run}; findings: {findings or 'none'}"


def _drawn(view: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    good = view["phase"] == "serving"
    head = Text(f"cocoon-net {view['node']}  ", style="bold")
    reason = f": {view['reason']}" if view["reason"] else ""
    head.append(f"{'✓' if good else '⚠'} {view['phase']}{reason}", style="green" if good else "bold red")
    head.append(f"  {view['at']}", style="dim")
    parts: list[RenderableType] = [head, Text()]
    for one in view["findings"]:
        parts.append(Text(f"⚠ {one['kind']} {one['key']}  {one['says']}, since {one['first_seen']}", style="red"))
        if one["advice"]:
            parts.append(Text(f"  → {one['advice']}"))
    pool = view["pool"]
    states = ", ".join(f"{count} {state}" for state, count in pool["states"].items())
    parts.append(Text(f"pool  {pool['size']} addresses of {pool['subnet']}: {states}" if pool["size"] else "no pool"))
    parts.extend(_blocks(view["blocks"], pool["size"] <= MOST))
    enis = Table("interface", "link", "state", "addresses", box=None, pad_edge=False)
    for one in view["enis"]:
        state = Text("✓ up" if one["state"] == "up" else f"⚠ {one['state']}", "" if one["state"] == "up" else "red")
        enis.add_row(Text(f"{one['key']} {one['id']}"), Text(one["link"]), state, str(one["addresses"]))
    flow = Table("state", "status", "seconds", "settled", box=None, pad_edge=False)
    for one in view["workflow"].get("states", ()):
        flow.add_row(one["state"], one["status"], f"{one['seconds']:.2f}", one["settled_at"])
    beside = Table.grid(padding=(0, 4))
    beside.add_row(enis, flow)
    if view["enis"] or view["workflow"]:
        parts += [Text(), beside]
    parts.append(Text())
    for event in reversed(view["events"][-10:]):
        rest = " ".join(str(value) for name, value in event.items() if name not in ("event", "at"))
        parts.append(Text(f"{event['at']}  {event['event']}  {rest}"))
    return Group(*parts)


def _blocks(blocks: Iterable[Mapping[str, str]], one_by_one: bool) -> Iterator[RenderableType]:
    from rich.text import Text

    blocks = list(blocks)
    for block in blocks if one_by_one else blocks[:ROWS]:
        line = Text(f"{block['first']:<16}")
        if one_by_one:
            for letter in block["states"]:
                line.append(_SIGNS[letter], style=_STYLES[letter])
        else:
            counts = Counter(block["states"])
            for letter in "bocqsf":
                line.append(f"{counts[letter]:>5} {_SIGNS[letter]}", style=_STYLES[letter])
        yield line
    if not one_by_one and len(blocks) > ROWS:
        yield Text(f"and {len(blocks) - ROWS} blocks more", style="dim")
