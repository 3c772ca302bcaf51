"""``plan``: what a command would find and do, in words, as JSON and as a file; nothing is changed anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from difflib import unified_diff
from pathlib import Path
from typing import Any, TypeVar

import click

from cocoon_net.cli.options import site_from, site_options
from cocoon_net.cli.run import PLACES, asked, spec_from, what
from cocoon_net.engine.forecast import Forecast, Outlook, Planned, differing, document
from cocoon_net.engine.model import Verb
from cocoon_net.errors import DriftFound
from cocoon_net.spec import POOL_SIZE_ADOPT, POOL_SIZE_INIT, Spec

F = TypeVar("F", bound=Callable[..., Any])

NEXT = "next"
"""The word that stands for none."""


class _Words(click.Group):
    """A group whose first word may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the word that stands for none where flags come first, or nothing."""
        bare = not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)
        return super().parse_args(ctx, [NEXT, *args] if bare else args)


@click.group(cls=_Words)
def plan() -> None:
    """Show what a command would find and do, object by object; change nothing, take no lock.

    Without a word: init when flags are given, else what is unfinished, else what this node was provisioned with.
    Without flags on a provisioned node: what it was asked for last.

    Exit codes: 0 nothing to do; 1 something to do or to wait for; others as the command's own.
    """


def _output(command: F) -> F:
    """Add where the plan goes."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One JSON document (docs/plan.md)."),
        click.option("--out", type=click.Path(dir_okay=False), help="Keep the plan for `cocoon-net run --plan FILE`."),
    ):
        command = option(command)
    return command


@plan.command()
@site_options
@_output
@what(POOL_SIZE_INIT)
def init(out: str | None, as_json: bool, **flags: Any) -> None:
    """Plan an init; without flags, with those of the last run."""
    foretell("init", flags, manage_iptables=True, out=out, as_json=as_json)


@plan.command()
@site_options
@_output
@click.option("--manage-iptables", is_flag=True, help="Let cocoon-net write iptables rules; else yours are kept.")
@what(POOL_SIZE_ADOPT)
def adopt(out: str | None, as_json: bool, manage_iptables: bool, **flags: Any) -> None:
    """Plan an adopt; without flags, with those of the last run."""
    foretell("adopt", flags, manage_iptables=manage_iptables, out=out, as_json=as_json)


@plan.command()
@site_options
@_output
def teardown(out: str | None, as_json: bool, **places: Any) -> None:
    """Plan a teardown: what goes, what is put back, and what stays, and why."""
    foretell("teardown", places, out=out, as_json=as_json)


@plan.command(name=NEXT, hidden=True)
@site_options
@_output
@what(POOL_SIZE_INIT)
def next_(out: str | None, as_json: bool, **flags: Any) -> None:
    """Plan what comes next."""
    foretell("init" if asked() else "", flags, manage_iptables=True, out=out, as_json=as_json)


def foretell(
    workflow: str, flags: dict[str, Any], *, manage_iptables: bool = True, out: str | None = None, as_json: bool = False
) -> None:
    """Look ahead and print it; ``--dry-run`` of every command is this. Exits with DriftFound's code on any change."""
    from cocoon_net import plans, runs
    from cocoon_net.cli.render import Progress, print_lines
    from cocoon_net.supervisor.presence import daemon_owner

    site = site_from(**{name: flags.pop(name) for name in PLACES})
    spec: Spec | None = spec_from(workflow, site, flags, manage_iptables) if asked() else None
    with (
        Progress() as progress,
        runs.glance(site, workflow or "what is next", bus=progress.bus, say=progress.say) as desk,
    ):
        forecast = plans.foresee(desk, workflow or plans.due(desk.journal), spec)
    data = document(forecast)
    if out is not None:
        _keep(Path(out), data)
    if as_json:
        click.echo(json.dumps(data, indent=2))
    else:
        print_lines(lines(forecast))
    if forecast.workflow == "teardown" and (owner := daemon_owner(site)):
        click.echo(f"a daemon serves this node ({owner}): stop it first, systemctl stop cocoon-net", err=True)
    if out is not None:
        click.echo(f"kept in {out}; `cocoon-net run --plan {out}` does this, if nothing has moved by then", err=True)
    if not forecast.settled:
        raise click.exceptions.Exit(DriftFound.exit_code)


def _keep(path: Path, data: dict[str, Any]) -> None:
    from cocoon_net.node.files import write_atomic

    write_atomic(path, (json.dumps(data, indent=2) + "\n").encode(), 0o600)


# In words

Line = tuple[str, str]
"""A style of rich, empty for none; the text."""

_SIGN = {Verb.CREATE: ("green", "+"), Verb.UPDATE: ("yellow", "~"), Verb.DELETE: ("red", "-")}
_VERBS = {Verb.CREATE: "to create", Verb.UPDATE: "to change", Verb.DELETE: "to delete"}
_VIAS = {"cloud": "API call", "kernel": "kernel operation", "file": "file operation", "database": "database write"}
_WIDE = 100


def lines(forecast: Forecast) -> Iterator[Line]:
    """Tell a forecast line by line: each object with its fields, then the calls; the counts at the end."""
    where = forecast.instance.instance_id if forecast.instance else "an instance that was not asked for"
    goes_on = f", going on with {forecast.run}" if forecast.run else ""
    yield "bold", f"plan: {forecast.workflow} of {forecast.spec.node_name} ({where}){goes_on}; nothing is changed"
    for step in forecast.steps:
        yield from _step(step)
    yield "", ""
    if forecast.settled:
        yield "green", "no changes: the world is as wanted"
        return
    waiting = sum(len(step.waiting) for step in forecast.steps)
    objects = [f"{count} {_VERBS[verb]}" for verb, count in forecast.verbs().items()]
    calls = [f"{n} {_VIAS[via]}{'' if n == 1 else 's'}" for via, n in forecast.calls().items() if n]
    yield "bold", ", ".join((*objects, *([f"{waiting} to wait for"] if waiting else [])))
    yield "", f"calls: {', '.join(calls) or 'none'}"
    if forecast.stop:
        yield "bold red", f"a run would stop at {forecast.stop!r}: see ! above"


def _step(step: Outlook) -> Iterator[Line]:
    for planned in step.changes:
        yield from _planned(step.step, planned)
    for why in step.waiting:
        yield "cyan", f"… {step.step:<10} waiting for {why}"
    reasons: dict[str, list[str]] = {}
    for key, why in step.kept.items():
        reasons.setdefault(why, []).append(key)
    for why, keys in reasons.items():
        yield "", f"= {step.step:<10} {', '.join(keys)}: {why}"


def _planned(step: str, planned: Planned) -> Iterator[Line]:
    change = planned.change
    style, sign = _SIGN[change.verb]
    short = []
    long: list[str] = []
    for name, seen, want in differing(change):
        if change.key in (seen, want):
            continue  # it is called so
        found = _field(name, seen, want, change.verb)
        if len(found) == 1 and change.verb is not Verb.UPDATE and len(found[0]) <= _WIDE:
            short.append(found[0])
        else:
            long += found
    yield style, f"{sign} {step:<10} {change.key}{'   ' if short else ''}{', '.join(short)}"
    for text in long:
        yield style, f"      {text}"
    if planned.refused:
        yield "bold red", f"    ! would be refused: {planned.refused}"
    for call in planned.calls:
        yield "dim", f"    → {call}"


def _field(name: str, seen: Any, want: Any, verb: Verb) -> list[str]:
    """Tell one field: a value, or what becomes what; lists and texts by what comes and goes."""
    match seen, want:
        case (str() as old, str() as new) if "\n" in old + new:
            changed = list(unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm=""))[2:]
            return [f"{name}:", *(f"  {line}" for line in changed if not line.startswith("@@"))]
        case (tuple() as old, tuple() as new):
            gone = [f"  - {item}" for item in old if item not in new]
            come = [f"  + {item}" for item in new if item not in old]
            return [f"{name}:", *gone, *come] if gone or come else [f"{name}: in another order"]
        case _ if verb is Verb.UPDATE:
            return [f"{name}: {_short(name, seen)} → {_short(name, want)}"]
        case _:
            return _value(name, want if verb is Verb.CREATE else seen)


def _value(name: str, value: Any) -> list[str]:
    match value:
        case None | "" | ():
            return []
        case str() as text if "\n" in text:
            return [f"{name} of {len(text.splitlines())} lines"]
        case tuple() as items if len(items) > 1 and (" " in str(items[0])):
            return [f"{name}:", *(f"  {item}" for item in items)]
        case tuple() as items if len(items) > 4:
            return [f"{len(items)} {name}: {items[0]} … {items[-1]}"]
        case _:
            return [f"{name} {_short(name, value)}"]


def _short(name: str, value: Any) -> str:
    match value:
        case int() if name == "mode":
            return f"{value:04o}"
        case tuple():
            return ", ".join(map(str, value))
        case bool():
            return "yes" if value else "no"
        case None | "":
            return "none"
        case _:
            return str(value)
