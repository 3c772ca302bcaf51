"""``audit``: one pass by hand over everything that could have drifted."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import click

from cocoon_net.cli.options import site_from, site_options
from cocoon_net.errors import DriftFound, NotSettled


@click.command()
@site_options
@click.option("--lease-file", metavar="FILE", help="Where leases.json is; default: in the state directory.")
@click.option("--skip-iptables", is_flag=True, help="Leave the rules alone, as `daemon --skip-iptables` does.")
@click.option("--repair", is_flag=True, help="Put right what the workflow lets be repaired by itself, on this node.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def audit(repair: bool, as_json: bool, skip_iptables: bool, **places: Any) -> None:
    """Compare what the ledger and the workflow want with the cloud, the metadata, the kernel and the files.

    What is cloud-side is only ever reported, with the command to type. docs/operations.md explains each kind.

    Exit codes: 0 clean; 1 something drifted (also where --repair has just put it right); 75 some of it could not be
    looked at, and the rest is clean.
    """
    from cocoon_net import runs
    from cocoon_net.audit.audit import Audit, Wishes, tell
    from cocoon_net.clock import SystemClock
    from cocoon_net.events import Bus
    from cocoon_net.locks import AUDIT, locked
    from cocoon_net.supervisor import takeover
    from cocoon_net.supervisor.presence import daemon_pid

    site = site_from(**places)
    runs.require_root("an audit", "changes" if repair else "reads")
    with contextlib.ExitStack() as stack:
        if repair:
            stack.enter_context(locked(site.run_lock, what="the audit cannot repair", owner=AUDIT))
        desk = stack.enter_context(runs.glance(site, "an audit", bus=Bus(), say=lambda line: None))
        found = takeover.stands_as_found(desk.database)
        wishes = Wishes(repair, skip_iptables, as_found=found, daemon=daemon_pid(site))
        seen = Audit(site, desk.database, SystemClock(), wishes).carry_out()
    if as_json:
        click.echo(json.dumps(seen.as_json(), indent=2))
    else:
        for line in tell(seen):
            click.echo(line)
    if seen.drift:
        raise click.exceptions.Exit(DriftFound.exit_code)
    if seen.unknown:
        raise click.exceptions.Exit(NotSettled.exit_code)
