"""``gc``: network interfaces that carry this node's mark and that nobody looks after are deleted."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from cocoon_net.cli.options import site_from, site_options
from cocoon_net.errors import CocoonError, DriftFound, SpecError
from cocoon_net.site import Site

if TYPE_CHECKING:
    from cocoon_net.cloud.garbage import LookedAfter, Stray
    from cocoon_net.cloud.platform import Platform
    from cocoon_net.engine.journal import Journal, Run
    from cocoon_net.runs import Desk


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one stray."""

    stray: Stray
    outcome: str
    """``garbage`` (a dry run), ``deleted``, ``stays``, ``failed``."""
    why: str

    def line(self) -> str:
        """Say it to people."""
        stray = self.stray
        for_how_long = "" if stray.seconds is None else f", as it is for {stray.seconds / 60:.0f} min"
        name = f"{stray.kind} {stray.id} ({stray.key or 'no key'}, {stray.where}{for_how_long})"
        match self.outcome:
            case "garbage":
                return f"{name}: would be deleted"
            case "deleted":
                return f"{name}: deleted"
            case outcome:
                return f"{name}: {outcome}: {self.why}"


@click.command()
@click.option("--credentials-file", metavar="FILE", default="", help="Default: that of the last run.")
@click.option("--endpoint", metavar="URL", default="", help="Of the cloud's API; default: that of the last run.")
@click.option("--region", default="", help="Default: that of the last run, else the instance's.")
@click.option("--platform", default="", help="volcengine; asked of the metadata where no run knows it.")
@click.option("--node-name", default="", help="Default: that of the last run.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, delete nothing; exit 1 if anything.")
@site_options
def gc(dry_run: bool, as_json: bool, node_name: str, platform: str, **flags: Any) -> None:
    """Delete network interfaces that carry this node's mark and that nobody looks after.

    Those that are attached to nothing for over five minutes and that this node's database does not know. Empty subnets
    of this node are reported. Needs no database when --node-name is given.
    """
    reached = {name: flags.pop(name) for name in ("region", "endpoint", "credentials_file")}
    site = site_from(**flags)
    with _desk(site, dry_run) as desk:
        runs = desk.journal.runs()
        run = runs[0] if runs else None
        node = node_name or (run.spec.node_name if run else "")
        if not node:
            raise SpecError("whose interfaces? No run of this node tells its name", hint="give --node-name")
        cloud = _platform(desk, run, platform, reached)
        vpc = run.instance.vpc_id if run and run.instance else ""
        strays = cloud.strays(node, vpc, looked_after(desk.journal))
        found: list[Found] = []
        failed: CocoonError | None = None
        with _recorded(desk, node, found, cloud.calls):
            for stray in strays.interfaces():
                outcome, why = ("stays", stray.stays) if stray.stays else ("garbage", "")
                if outcome == "garbage" and not dry_run:
                    try:
                        why = strays.collect(stray)
                        outcome = "stays" if why else "deleted"
                    except CocoonError as error:
                        outcome, why, failed = "failed", error.message, failed or error
                found.append(Found(stray, outcome, why))
            found += [Found(stray, "stays", stray.stays) for stray in strays.subnets()]
    _show(found, node, as_json)
    if failed is not None:
        raise failed
    if any(each.outcome == "garbage" for each in found):
        raise click.exceptions.Exit(DriftFound.exit_code)


@contextlib.contextmanager
def _recorded(
    desk: Desk, node: str, found: list[Found], calls: Callable[[], Mapping[tuple[str, str], int]]
) -> Iterator[None]:
    """Enter what was found into the history, also when it was cut short; what cut it short is the error then."""
    try:
        yield
    except BaseException:
        try:
            _record(desk, node, found, calls())
        except CocoonError as error:
            click.echo(f"and the history does not have it: {error}", err=True)
        raise
    _record(desk, node, found, calls())


def _record(desk: Desk, node: str, found: list[Found], calls: Mapping[tuple[str, str], int]) -> None:
    """Enter into the history what was deleted, what may have been, and what the cloud was asked, by action."""
    from cocoon_net.engine.history import Deed

    with desk.journal.transaction():
        desk.journal.answers.add(calls)
    told = {outcome: [each.stray.id for each in found if each.outcome == outcome] for outcome in ("deleted", "failed")}
    if any(told.values()):
        counted: Counter[str] = Counter()
        for (action, _), count in calls.items():
            counted[action] += count
        details: dict[str, Any] = {"node": node, "interfaces": told["deleted"], "calls": dict(counted)}
        if told["failed"]:
            details["failed"] = told["failed"]
        desk.journal.record(Deed.COLLECTED, desk.clock.now(), **details)


def looked_after(journal: Journal) -> LookedAfter:
    """Return what a node's database looks after in the cloud, and what its operations may have made unseen."""
    from cocoon_net.cloud.garbage import LookedAfter

    undertaken = journal.open(journal.lineage())
    known = {getattr(row.record, "id", "") for row in journal.ledger().values()}
    told = {act.details.get("id", "") for act in undertaken}
    return LookedAfter(
        ids=frozenset(known | told) - {""},
        expected=frozenset((journal.lineage(), act.change.key) for act in undertaken),
    )


@contextlib.contextmanager
def _desk(site: Site, dry_run: bool) -> Iterator[Desk]:
    """Hold the run lock and the database; for a dry run neither, and an empty database where there is none."""
    from cocoon_net import runs
    from cocoon_net.events import Bus
    from cocoon_net.store import is_there

    def say(line: str) -> None:
        click.echo(line, err=True)

    looks_only = dry_run or not is_there(site.database)
    with contextlib.ExitStack() as stack:
        if looks_only and not dry_run:
            from cocoon_net.locks import locked

            runs.require_root("gc")
            stack.enter_context(locked(site.run_lock, what="gc cannot start", owner="gc", say=say, after_audit=True))
        hold = runs.glance if looks_only else runs.at
        yield stack.enter_context(hold(site, "gc", bus=Bus(), say=say))


def _platform(desk: Desk, run: Run | None, name: str, reached: dict[str, str]) -> Platform:
    """Return the cloud as the last run reached it, what was given laid over."""
    from cocoon_net.cloud.platform import connect, detect

    if run is not None:
        given: dict[str, Any] = {
            key: value.rstrip("/") for key, value in {**reached, "platform": name}.items() if value
        }
        return desk.world(replace(run.spec, **given)).platform
    site = replace(desk.site, endpoint=reached["endpoint"].rstrip("/") or desk.site.endpoint)
    told = {"VOLCENGINE_REGION": reached["region"], "VOLCENGINE_CLI_CONFIG_FILE": reached["credentials_file"]}
    return connect(name or detect(site), site, {**os.environ, **{key: value for key, value in told.items() if value}})


def _show(found: list[Found], node: str, as_json: bool) -> None:
    if as_json:
        rows = [{**asdict(each.stray), "outcome": each.outcome, "why": each.why} for each in found]
        click.echo(json.dumps({"node": node, "found": rows}, indent=2))
    elif found:
        click.echo("\n".join(each.line() for each in found))
    else:
        click.echo(f"nothing that carries the mark of {node} is without somebody who looks after it")
