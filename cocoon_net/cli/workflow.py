"""``workflow show``, ``list`` and ``unlock``: what the runs of this node did, what comes next, who is in the way."""

from __future__ import annotations

import json

import click

from cocoon_net.cli.options import site_from, state_option
from cocoon_net.errors import SpecError


@click.group()
def workflow() -> None:
    """Show the runs of this node, step by step."""


@workflow.command(name="show")
@click.argument("run", required=False)
@click.option("--json", "as_json", is_flag=True, help="All of it as JSON.")
@click.option("--mermaid", "as_mermaid", is_flag=True, help="The run's state machine as a Mermaid diagram.")
@state_option
def show(run: str | None, as_json: bool, as_mermaid: bool, state_dir: str | None) -> None:
    """Show RUN, or the newest: each state with its status, time, and what it made; the last error first."""
    from cocoon_net.cli.render import print_run, view
    from cocoon_net.engine.journal import Journal
    from cocoon_net.store import is_there, open_copy

    site = site_from(state_dir=state_dir)
    if not is_there(site.database):
        raise SpecError(f"no workflow ever ran here: {site.database} does not exist", hint="cocoon-net init --help")
    journal = Journal(open_copy(site.database))
    runs = journal.runs()
    chosen = next((r for r in runs if run is None or r.id == run), None)
    if chosen is None:
        raise SpecError(
            f"there is no run {run!r}" if run else "no workflow ever ran here", hint="cocoon-net workflow list"
        )
    if as_mermaid:
        from cocoon_net.engine.machine import mermaid

        click.echo(mermaid(chosen.plan, chosen.state))
    elif as_json:
        click.echo(json.dumps(view(chosen, journal), indent=2))
    else:
        print_run(view(chosen, journal))


@workflow.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@state_option
def list_(as_json: bool, state_dir: str | None) -> None:
    """List all runs, the newest first."""
    from cocoon_net.cli.render import print_runs
    from cocoon_net.engine.journal import Journal
    from cocoon_net.store import is_there, open_copy

    site = site_from(state_dir=state_dir)
    runs = Journal(open_copy(site.database)).runs() if is_there(site.database) else []
    if as_json:
        rows = [
            {"run": r.id, "workflow": r.workflow, "state": r.state, "started_at": r.started_at, "error": dict(r.reason)}
            for r in runs
        ]
        click.echo(json.dumps(rows, indent=2))
    elif runs:
        print_runs(runs)
    else:
        click.echo("no workflow ever ran here")


@workflow.command(name="unlock")
@click.argument("lock")
@state_option
def unlock(lock: str, state_dir: str | None) -> None:
    """Take the lock of a command that hangs away from it, by the lock's exact id.

    Should it ever wake up, it finds that out before it acts or writes, and ends. Its run goes on with --resume.
    """
    from cocoon_net import runs

    found = runs.unlock(site_from(state_dir=state_dir), lock, say=lambda line: click.echo(line, err=True))
    click.echo(f"taken away from {found}; if it still hangs, kill -9 {found.pid} ends it", err=True)
    click.echo("`cocoon-net workflow show` tells where its run stands, and what goes on with it", err=True)
