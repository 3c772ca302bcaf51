"""What people see: progress while something runs, plans, and the tables of ``workflow show``.

On a terminal, rich draws; elsewhere each fact is one plain line. Rich is imported only to draw.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from cocoon_net.engine.journal import Journal, Run
from cocoon_net.engine.machine import DONE, PLANNED
from cocoon_net.engine.plan import natural
from cocoon_net.events import Bus, ChangeApplied, StepEntered, StepSettled, StepWaiting
from cocoon_net.store import reading

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


# Runs


@reading("the run")
def view(run: Run, journal: Journal) -> dict[str, Any]:
    """Return all that `workflow show` tells of a run, JSON-ready; the last error first."""
    visits = journal.visits(run.id)
    made: dict[str, list[dict[str, Any]]] = {}
    for row in journal.operations(run.id):
        if row["outcome"] == "done":
            details = json.loads(row["details"])
            made.setdefault(row["step"], []).append({"key": row["key"], "verb": row["verb"], **details})
    ledger = journal.ledger()
    states = []
    for stage in run.plan.stages:
        visit = visits.get(stage.name, {})
        rows = [row for (step, _), row in ledger.items() if step == stage.name] if run.workflow != "teardown" else []
        states.append(
            {
                "state": stage.name,
                "status": _status(run, stage.name, visit),
                "looks": visit.get("looks", 0),
                "changes": visit.get("changes", 0),
                "seconds": round(visit.get("seconds", 0.0), 3),
                "waiting": visit.get("waiting", ""),
                "error": json.loads(visit["error"]) if visit.get("error") else None,
                "made": made.get(stage.name, []),
                "looks_after": {
                    row.key: {"origin": row.origin.value, "id": getattr(row.record, "id", "")}
                    for row in sorted(rows, key=lambda row: natural(row.key))
                },
            }
        )
    calls = journal.calls(run.id)
    return {
        "error": dict(run.reason) or None,
        "run": run.id,
        "workflow": run.workflow,
        "state": run.state,
        "next": _next(run),
        "lineage": run.lineage,
        "version": run.version,
        "started_by": run.started_by,
        "started_at": run.started_at,
        "updated_at": run.updated_at,
        "seconds": round(run.seconds, 3),
        "calls": sum(calls.values()),
        "calls_by_action": calls,
        "refused": [{"action": a, "code": c, "count": n} for (a, c), n in sorted(journal.refusals(run.id).items())],
        "spec": run.spec.as_json(),
        "states": states,
    }


def _status(run: Run, state: str, visit: dict[str, Any]) -> str:
    if visit.get("settled_at"):
        return "settled"
    if state != run.state:
        return "to come" if not run.ended else "not reached"
    return "parked" if run.reason else "acting"


def _next(run: Run) -> str:
    if run.state == DONE:
        return "cocoon-net daemon" if run.workflow != "teardown" else "nothing: the node is torn down"
    if run.ended:
        return f"nothing: this run was given up; `cocoon-net {run.workflow}` starts a new one"
    return f"cocoon-net run {run.workflow} --resume" + (
        "" if run.state == PLANNED else f"   (goes on in {run.state!r})"
    )


def print_run(data: dict[str, Any]) -> None:
    """Print the view of a run for people."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    error = data["error"]
    if error:
        where = " ".join(filter(None, (error["step"], error["key"])))
        console.print(Text(f"last error  {where}: {error['message']}", style="red"))
        if error["hint"]:
            console.print(Text(f"hint        {error['hint']}"))
    console.print(
        Text(
            f"{data['run']}   {data['state']}   {data['seconds']:.2f} s acting   {data['calls']} API calls   "
            f"by {data['started_by']} at {data['started_at']}"
        )
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("state")
    table.add_column("status")
    table.add_column("looks", justify="right")
    table.add_column("changes", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("made, or looks after", overflow="fold")
    for state in data["states"]:
        table.add_row(
            state["state"],
            state["status"],
            str(state["looks"] or ""),
            str(state["changes"] or ""),
            f"{state['seconds']:.2f}" if state["looks"] else "",
            Text(state["waiting"] or _things(state)),
        )
    console.print(table)
    if data["calls_by_action"]:
        console.print(Text("calls       " + ", ".join(f"{k} {v}" for k, v in data["calls_by_action"].items())))
    if data["refused"]:
        refused = ", ".join(f"{each['action']} {each['code']} {each['count']}" for each in data["refused"])
        console.print(Text(f"refused     {refused}"))
    console.print(Text(f"next        {data['next']}"))


def _things(state: dict[str, Any]) -> str:
    things = [f"{key}{'=' + row['id'] if row['id'] else ''}" for key, row in state["looks_after"].items()]
    if not things:
        things = [f"{item['verb']}d {item['key']}" for item in state["made"]]
    shown = things if len(things) <= 8 else [*things[:7], f"and {len(things) - 7} more"]
    return " ".join(shown)


def print_runs(runs: Iterable[Run]) -> None:
    """Print one line per run, the newest first."""
    for run in runs:
        note = f"  parked: {run.reason['message']}" if run.reason else ""
        print(f"{run.id}  {run.state:<10} {run.seconds:7.2f} s  {_local(run.started_at)}  {run.started_by}{note}")


def _local(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")
