"""``probe``: ask for an address on the bridge as a guest would, and show who answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cocoon_net.cli.lease import Mac
from cocoon_net.errors import DriftFound

if TYPE_CHECKING:
    from cocoon_net.dhcp.probe import Offer


@click.command()
@click.option("--link", default="cni0", show_default=True, metavar="BRIDGE", help="Where to ask.")
@click.option("--mac", type=Mac(), help="Ask as this client; default one that nobody has.")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=3.0, show_default=True, help="Seconds to listen.")
@click.option("--pcap", type=click.Path(dir_okay=False, path_type=Path), help="Write each DHCP frame to FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def probe(link: str, mac: str | None, timeout: float, pcap: Path | None, as_json: bool) -> None:
    """Ask for an address as a guest, take none, and show every answer.

    Exit 0: our server answered and nobody else did. Exit 1: a server that is not ours answered, or ours did not.
    The port that it asks from goes with the process.
    """
    from cocoon_net.dhcp.probe import probe as ask
    from cocoon_net.runs import require_root

    require_root("probe")
    found = ask(link, mac=mac or "", seconds=timeout, pcap=pcap, heard=(lambda offer: None) if as_json else _show)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
    if found.rogues:
        raise DriftFound(
            "\n".join(f"a server that is not ours answers: {one.server} from {one.mac}" for one in found.rogues),
            hint="`tcpdump -eni any udp src port 67` names the port that it speaks from; stop that guest's DHCP server",
        )
    if not found.answered:
        raise DriftFound(
            f"no server answered {found.client} on {link} within {timeout:g} s",
            hint=f"`systemctl status cocoon-net`; `cocoon-net lease trace {found.client}` says what was heard, and why",
        )
    if not as_json:
        click.echo(f"only our server answers on {link}")


def _show(offer: Offer) -> None:
    who = "ours" if offer.ours else "NOT OURS"
    click.echo(
        f"{offer.kind.upper()} {offer.address} from {offer.server or 'a server without id'} "
        f"({offer.mac}, {who}) after {1000 * offer.after:.1f} ms"
    )
    for name, value in offer.options:
        click.echo(f"    {name:<22} {value}")
