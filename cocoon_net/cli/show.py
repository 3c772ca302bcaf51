"""What the runs of this node did and what comes next, as people and machines read it.

On a terminal, rich draws; elsewhere each fact is one plain line. Rich is imported only to draw.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cocoon_net.engine.history import Entry
from cocoon_net.engine.journal import Journal, Run
from cocoon_net.engine.machine import DONE, PLANNED
from cocoon_net.engine.plan import natural
from cocoon_net.store import reading

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

BLINK = 0.3
"""Seconds between two readings of a run that is watched."""


@reading("the run")
def view(run: Run, journal: Journal, *, acting: bool) -> dict[str, Any]:
    """Return all that `workflow show` tells of a run, JSON-ready; the last error first.

    ``acting`` says whether a process carries it right now.
    """
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
                "status": _status(run, stage.name, visit, acting),
                "looks": visit.get("looks", 0),
                "changes": visit.get("changes", 0),
                "seconds": round(visit.get("seconds", 0.0), 3),
                "waiting": visit.get("waiting", ""),
                "skipped": json.loads(visit["skipped"]) if visit.get("skipped") else None,
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
        "acting": acting and not run.ended,
        "next": _next(run, left=len(ledger)),
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


def _status(run: Run, state: str, visit: dict[str, Any], acting: bool) -> str:
    if visit.get("settled_at"):
        return "settled"
    if visit.get("skipped"):
        return "skipped"
    if state != run.state:
        return "to come" if not run.ended else "not reached"
    if acting:
        return "acting"
    return "parked" if run.reason else "interrupted"


def _next(run: Run, left: int) -> str:
    if run.state == DONE and run.workflow == "teardown":
        things = f"{left} thing{'' if left == 1 else 's'}"
        return f"cocoon-net teardown   ({things} left behind)" if left else "nothing: the node is torn down"
    if run.state == DONE:
        return "cocoon-net daemon"
    if run.ended:
        return f"nothing: this run was given up; `cocoon-net {run.workflow}` starts a new one"
    return f"cocoon-net run {run.workflow} --resume" + (
        "" if run.state == PLANNED else f"   (goes on in {run.state!r})"
    )


def print_run(data: dict[str, Any]) -> None:
    """Print the view of a run for people."""
    _console().print(_drawn(data))


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def _drawn(data: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    error = data["error"]
    if error:
        where = " ".join(filter(None, (error["step"], error["key"])))
        parts.append(Text(f"last error  {where}: {error['message']}", style="red"))
        if error["hint"]:
            parts.append(Text(f"hint        {error['hint']}"))
    parts.append(
        Text(
            f"{data['run']}   {data['state']}   {data['seconds']:.2f} s acting   {data['calls']} API calls   "
            f"by {data['started_by']} at {data['started_at']}"
        )
    )
    parts.append(Text(f"next        {data['next']}"))  # before what a small screen cuts off
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
    parts.append(table)
    if data["calls_by_action"]:
        parts.append(Text("calls       " + ", ".join(f"{k} {v}" for k, v in data["calls_by_action"].items())))
    if data["refused"]:
        refused = ", ".join(f"{each['action']} {each['code']} {each['count']}" for each in data["refused"])
        parts.append(Text(f"refused     {refused}"))
    return Group(*parts)


def _things(state: dict[str, Any]) -> str:
    if state["skipped"]:
        return f"skipped by {state['skipped']['by']}: {state['skipped']['why']}"
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


def watch(read: Callable[[], dict[str, Any]]) -> None:
    """Show a run, by its view, until nobody carries it any more; on a terminal redrawn, else a line per change."""
    if sys.stdout.isatty():
        from rich.live import Live

        with Live(console=_console(), auto_refresh=False) as live:
            for drawn in map(_drawn, _readings(read)):
                live.update(drawn, refresh=True)
        return
    told: dict[str, str] = {}
    data: dict[str, Any] = {}
    for data in _readings(read):
        for state in data["states"]:
            line = _line(state)
            if told.get(state["state"], "to come") != line:
                told[state["state"]] = line
                print(f"{state['state']:<10} {line}", flush=True)
    error = data["error"]
    print(f"{data['run']}: {data['state']}" + (f", {error['message']}" if error else ""), flush=True)


def _readings(read: Callable[[], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    while True:
        data = read()
        yield data
        if not data["acting"]:
            return
        time.sleep(BLINK)


def _line(state: dict[str, Any]) -> str:
    match state["status"]:
        case "settled":
            return f"settled, {_counted(state['changes'])}, {state['seconds']:.2f} s"
        case "acting" if state["waiting"]:
            return f"waiting for {state['waiting']}"
        case "acting":
            return f"acting, {_counted(state['changes'])}" if state["changes"] else "acting"
        case status:
            return str(status)


def _counted(changes: int) -> str:
    return f"{changes} change{'' if changes == 1 else 's'}" if changes else "as wanted"


# Steps, operations, history


@reading("the run")
def steps(run: Run, journal: Journal, *, acting: bool) -> list[dict[str, Any]]:
    """Return what `workflow steps` tells of each step of a run, JSON-ready."""
    visits = journal.visits(run.id)
    operations = journal.operations(run.id)
    told = []
    for stage in run.plan.stages:
        visit = visits.get(stage.name, {})
        mine = [row for row in operations if row["step"] == stage.name]
        told.append(
            {
                "step": stage.name,
                "status": _status(run, stage.name, visit, acting),
                "attempts": visit.get("looks", 0),
                "changes": visit.get("changes", 0),
                "seconds": round(visit.get("seconds", 0.0), 3),
                "deadline": stage.deadline,
                "error": _error(visit, mine),
                "request_ids": list(dict.fromkeys(row["request_id"] for row in mine if row["request_id"])),
                "waiting": visit.get("waiting", ""),
                "next_look_at": visit.get("next_look_at", "") if acting and stage.name == run.state else "",
                "skipped": json.loads(visit["skipped"]) if visit.get("skipped") else None,
            }
        )
    return told


def _error(visit: dict[str, Any], operations: list[dict[str, Any]]) -> dict[str, str] | None:
    """Return the last error of a step: why it is parked, else the last one of its operations."""
    if visit.get("error"):
        parked = json.loads(visit["error"])
        return {"class": parked["error"], "code": parked["code"], "message": parked["message"]}
    for row in reversed(operations):
        if kind := json.loads(row["details"]).get("error"):
            return {"class": kind, "code": row["code"], "message": row["message"]}
    return None


def print_steps(rows: Iterable[dict[str, Any]]) -> None:
    """Print one block per step that was entered, one line per one that was not."""
    print(f"{'step':<10} {'status':<12} {'attempts':>8} {'changes':>8} {'seconds':>8}")
    for row in rows:
        if row["status"] in ("to come", "not reached"):
            print(f"{row['step']:<10} {row['status']}")
            continue
        counts = f"{row['attempts']:>8} {row['changes']:>8} {row['seconds']:>8.2f}"
        print(f"{row['step']:<10} {row['status']:<12} {counts}")
        for name, text in _facts(row):
            print(f"  {name:<12} {text}")


def _facts(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if row["skipped"]:
        yield "skipped", f"by {row['skipped']['by']} at {_local(row['skipped']['at'])}: {row['skipped']['why']}"
    if error := row["error"]:
        code = f" ({error['code']})" if error["code"] else ""
        yield "error", f"{error['class']}{code}: {error['message']}"
    if row["waiting"]:
        again = f"; next look at {_local(row['next_look_at'])}" if row["next_look_at"] else ""
        yield "waiting for", f"{row['waiting']}{again}"
    if row["request_ids"]:
        yield "request ids", " ".join(row["request_ids"])


def print_pending(rows: Iterable[dict[str, Any]]) -> None:
    """Print each operation whose outcome is not known, and what can be typed."""
    for row in rows:
        print(f"operation {row['op']}: {row['verb']} {row['key']} ({row['step']}), {row['outcome']}")
        print(f"  asked       {_local(row['at'])}, by {row['run']}")
        wanted = {k: v for k, v in (row["wanted"] or {}).items() if k != "is" and v not in (None, "", [])}
        if wanted:
            print(f"  wanted      {', '.join(f'{name}={value}' for name, value in wanted.items())}")
        if row["message"]:
            about = ", ".join(filter(None, (row["code"], row["request_id"])))
            print(f"  error       {row['message']}{f' ({about})' if about else ''}")
        for number, command in enumerate(row["type"]):
            print(f"  {'type' if number == 0 else 'or':<11} {command}")


def print_history(entries: Iterable[Entry]) -> None:
    """Print one line per entry, the oldest first."""
    for entry in entries:
        told = ", ".join(f"{name}={value}" for name, value in entry.details.items() if name != "spec")
        print("  ".join(filter(None, (_local(entry.at), f"{entry.what:<9}", entry.run, entry.by, entry.version, told))))
