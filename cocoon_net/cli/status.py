"""``status``: the pool of this node, in the lines that the Go cocoon-net printed, and ours after them."""

from __future__ import annotations

import click

from cocoon_net.cli.options import site_from, site_options


@click.command()
@site_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--watch", is_flag=True, help="Go on showing it until Ctrl-C: what the status page shows.")
def status(as_json: bool, watch: bool, **places: str | None) -> None:
    """Show the pool of this node, its last run, its daemon and its leases; the cloud is not asked.

    With --watch each change is shown: redrawn on a terminal, a line elsewhere (with --json the whole view).
    """
    from cocoon_net.supervisor import status as report

    if watch:
        from cocoon_net.cli import render

        site = site_from(**places)
        render.watch(lambda: report.look(site), as_json=as_json)
        return
    found = report.read(site_from(**places))
    click.echo(report.as_json(found) if as_json else report.as_text(found))
