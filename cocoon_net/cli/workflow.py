"""``workflow …``: what the runs of this node did, and the operator's hand on them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from cocoon_net.cli.options import site_from, site_options, state_option
from cocoon_net.errors import SpecError

if TYPE_CHECKING:
    from cocoon_net.engine.journal import Journal, Run
    from cocoon_net.runs import Desk
    from cocoon_net.site import Site

_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.group()
def workflow() -> None:
    """Show the runs of this node, step by step, and take them in hand."""


# What changes nothing


@workflow.command(name="show")
@click.argument("run", required=False)
@_json
@click.option("--mermaid", "as_mermaid", is_flag=True, help="The run's state machine as a Mermaid diagram.")
@click.option("--watch", is_flag=True, help="Until nobody carries it any more; no terminal: a line per change.")
@state_option
def show(run: str | None, as_json: bool, as_mermaid: bool, watch: bool, state_dir: str | None) -> None:
    """Show RUN, or the newest: each state with its status, time, and what it made; the last error first."""
    from cocoon_net.cli import show as told

    if as_json + as_mermaid + watch > 1:
        raise click.UsageError("--json, --mermaid and --watch exclude each other")
    site = site_from(state_dir=state_dir)
    with _reading(site) as journal:
        chosen = _chosen(journal, run)
        if as_mermaid:
            from cocoon_net.engine.machine import mermaid

            click.echo(mermaid(chosen.plan, chosen.state))
        elif watch:
            with contextlib.suppress(KeyboardInterrupt):
                told.watch(lambda: _now(site, chosen.id))
        elif as_json:
            click.echo(json.dumps(told.view(chosen, journal, acting=_acting(site)), indent=2))
        else:
            told.print_run(told.view(chosen, journal, acting=_acting(site)))


@workflow.command(name="list")
@_json
@state_option
def list_(as_json: bool, state_dir: str | None) -> None:
    """List all runs, the newest first."""
    from cocoon_net.cli.show import print_runs
    from cocoon_net.store import is_there

    site = site_from(state_dir=state_dir)
    if not is_there(site.database):
        click.echo("[]" if as_json else "no workflow ever ran here")
        return
    with _reading(site) as journal:
        runs = journal.runs()
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


@workflow.command()
@click.argument("run", required=False)
@_json
@state_option
def steps(run: str | None, as_json: bool, state_dir: str | None) -> None:
    """Show each step of RUN, or of the newest: attempts, errors, request ids, what it waits for and until when."""
    from cocoon_net.cli import show as told

    site = site_from(state_dir=state_dir)
    with _reading(site) as journal:
        rows = told.steps(_chosen(journal, run), journal, acting=_acting(site))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        told.print_steps(rows)


@workflow.command()
@_json
@state_option
def pending(as_json: bool, state_dir: str | None) -> None:
    """List the operations of which nobody knows what became, those of the newest run first, and what to type."""
    from cocoon_net.cli.show import print_pending
    from cocoon_net.pending import pending as of

    with _reading(site_from(state_dir=state_dir)) as journal:
        rows = of(journal)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        print_pending(rows)
    else:
        click.echo("nothing is pending: the outcome of every operation is known")


@workflow.command()
@click.argument("run", required=False)
@_json
@state_option
def history(run: str | None, as_json: bool, state_dir: str | None) -> None:
    """Tell who did what to the runs of this node (or to RUN), when, with which version; the oldest first."""
    from dataclasses import asdict

    from cocoon_net.cli.show import print_history

    with _reading(site_from(state_dir=state_dir)) as journal:
        entries = journal.history.entries(run=run or "")
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in entries], indent=2))
    else:
        print_history(entries)


@workflow.command()
@click.argument("run")
@state_option
def export(run: str, state_dir: str | None) -> None:
    """Print all that is known of RUN as one JSON document, without secrets, to be handed to somebody else."""
    import os

    from cocoon_net.export import export as all_of
    from cocoon_net.export import secrets_of

    with _reading(site_from(state_dir=state_dir)) as journal:
        chosen = _chosen(journal, run)
        secrets = secrets_of(os.environ, chosen.spec.credentials_file)
        click.echo(json.dumps(all_of(chosen, journal, secrets), indent=2))


# What acts, under the lock


@workflow.command()
@site_options
def retry(**places: Any) -> None:
    """Go on with the unfinished run, whatever its workflow is, now."""
    from cocoon_net import runs
    from cocoon_net.cli.render import Progress
    from cocoon_net.cli.run import refuse_beside_daemon, tell_daemon

    site, progress = site_from(**places), Progress()
    with progress, runs.at(site, "workflow retry", bus=progress.bus, say=progress.say) as desk:
        teardown = runs.unfinished(desk).workflow == "teardown"
        if teardown:
            refuse_beside_daemon(site)
        progress.finish(runs.carry(desk, runs.resume(desk)), desk.journal)
    if not teardown:
        tell_daemon(site, progress.say)


@workflow.command()
@click.argument("step")
@click.option("--why", required=True, metavar="TEXT", help="Kept in the history.")
@state_option
def skip(step: str, why: str, state_dir: str | None) -> None:
    """Move the unfinished run past STEP, the one in which it stands, without settling it.

    What is known of the step stays in the ledger, so that a teardown still removes what was made.
    """
    from cocoon_net import runs

    with _acting_on(site_from(state_dir=state_dir), "workflow skip") as desk:
        run = runs.skip(desk, step, why)
        going_on = "" if run.ended else "; `cocoon-net workflow retry` goes on there"
        desk.say(f"{run.id} was moved past {step!r} and stands in {run.state!r}{going_on}")


@workflow.command()
@click.option("--why", default="", metavar="TEXT", help="Kept in the history.")
@state_option
def abandon(why: str, state_dir: str | None) -> None:
    """Give the unfinished run up, whatever its workflow is; what it made stays in the ledger."""
    from cocoon_net import runs

    with _acting_on(site_from(state_dir=state_dir), "workflow abandon") as desk:
        run = runs.unfinished(desk)
        runs.abandon(desk, run, why)
        desk.say(f"{run.id} is given up; what it made is in the ledger for the next run")


@workflow.command()
@click.argument("operation", type=int)
@click.option("--adopt", "identifier", default="", metavar="ID", help="This object is what it made.")
@click.option("--forget", is_flag=True, help="It was never carried out, and its thing is not there.")
@click.option("--retry", "anew", is_flag=True, help="Ask anew, under another token, if it is still missing.")
@site_options
def resolve(operation: int, identifier: str, forget: bool, anew: bool, **places: Any) -> None:
    """Say what became of OPERATION, one that `workflow pending` lists; exactly one of the options."""
    from cocoon_net import pending as said

    if bool(identifier) + forget + anew != 1:
        raise click.UsageError("exactly one of --adopt ID, --forget and --retry")
    with _acting_on(site_from(**places), "workflow resolve") as desk:
        if identifier:
            desk.say(said.adopt(desk, operation, identifier))
        elif forget:
            desk.say(said.forget(desk, operation))
        else:
            desk.say(said.wish_anew(desk, operation))


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


@contextlib.contextmanager
def _reading(site: Site) -> Iterator[Journal]:
    """Read the journal of a node on which something ran, as it is at this moment."""
    from cocoon_net.engine.journal import Journal
    from cocoon_net.store import is_there, open_copy

    if not is_there(site.database):
        raise SpecError(f"no workflow ever ran here: {site.database} does not exist", hint="cocoon-net init --help")
    database = open_copy(site.database)
    try:
        yield Journal(database)
    finally:
        database.close()


@contextlib.contextmanager
def _acting_on(site: Site, what: str) -> Iterator[Desk]:
    """Hold the lock, speaking plainly; SpecError where nothing ever ran."""
    from cocoon_net import runs
    from cocoon_net.events import Bus

    with _reading(site):
        pass
    with runs.at(site, what, bus=Bus(), say=lambda line: click.echo(line, err=True)) as desk:
        yield desk


def _chosen(journal: Journal, run: str | None) -> Run:
    for one in journal.runs():
        if run is None or one.id == run:
            return one
    raise SpecError(f"there is no run {run!r}" if run else "no workflow ever ran here", hint="cocoon-net workflow list")


def _now(site: Site, run: str) -> dict[str, Any]:
    """Return the view of a run as it is at this moment; that somebody acts is asked first, for the last look."""
    from cocoon_net.cli import show as told

    acting = _acting(site)
    with _reading(site) as journal:
        return told.view(journal.run(run), journal, acting=acting)


def _acting(site: Site) -> bool:
    """Whether a process holds the run lock."""
    from cocoon_net.locks import holder

    return holder(site.run_lock) is not None
