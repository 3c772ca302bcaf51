"""``status``: the pool of this node, in the lines that the Go cocoon-net printed, and ours after them."""

from __future__ import annotations

import click

from cocoon_net.cli.options import site_from, site_options


@click.command()
@site_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def status(as_json: bool, **places: str | None) -> None:
    """Show the pool of this node, its last run, its daemon and its leases; the cloud is not asked."""
    from cocoon_net.supervisor import status as report

    found = report.read(site_from(**places))
    click.echo(report.as_json(found) if as_json else report.as_text(found))
