"""``lease``: who has which address and why, and what an operator may do about it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from cocoon_net.cli.options import site_from
from cocoon_net.errors import NodeTransient, SpecError

F = TypeVar("F", bound=Callable[..., Any])

FOLLOW_EVERY = 0.25


def places(command: F) -> F:
    """Add the options that say where the node's things are."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
        click.option("--control-socket", metavar="PATH", envvar="COCOON_NET_CONTROL_SOCKET", help="Of the daemon."),
        click.option("--lease-file", metavar="FILE", help="What vk-cocoon reads; default DIR/leases.json."),
        click.option("--run-dir", metavar="DIR", help="Where the daemon's socket is (COCOON_NET_RUN_DIR)."),
        click.option("--state-dir", metavar="DIR", help="Where state is kept (COCOON_NET_STATE_DIR)."),
    ):
        command = option(command)
    return command


class Mac(click.ParamType[str]):
    """A MAC in any of the usual spellings."""

    name = "mac"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it in lower case with colons."""
        from cocoon_net.supervisor.control import parse_mac

        found = parse_mac(str(value))
        if found is None:
            self.fail(f"{value!r} is not a MAC address, like 02:42:ac:11:00:02", param, ctx)
        return found


@click.group()
def lease() -> None:
    """Show leases and reservations, end them, and find out why a client got what it got.

    A live daemon is asked by its control socket; without one, the database answers, and is changed.
    """


@lease.command(name="list")
@click.option("--all", "everything", is_flag=True, help="Also what is offered, cooling or quarantined.")
@places
def list_(everything: bool, as_json: bool, **where: str | None) -> None:
    """List the leases, by address."""
    rows = _desk(where).leases(everything)
    if as_json:
        _print({"leases": rows})
    elif not rows:
        click.echo("no leases")
    else:
        _table(("ADDRESS", "MAC", "STATE", "EXPIRES", "PORT", "HOSTNAME"), map(_row, rows))


@lease.command()
@click.argument("mac", type=Mac())
@places
def show(mac: str, as_json: bool, **where: str | None) -> None:
    """Show all that is known of one client: its leases, what is offered to it, what is reserved for it."""
    found = _desk(where).client(mac)
    if as_json:
        _print(found)
        return
    kept = found["reservation"]
    if not found["leases"] and kept is None:
        raise SpecError(
            f"nothing is known of {mac}", hint=f"`cocoon-net lease trace {mac}` shows whether it ever asked"
        )
    for one in found["leases"]:
        until = f", until {one['expiry']}" if one["expiry"] else ""
        click.echo(f"{one['ip']:<16} {one['state']} since {one['since']}{until}")
        for label, value in (("port", one["port"]), ("hostname", one["hostname"]), ("client id", one["client_id"])):
            if value:
                click.echo(f"{'':<16} {label} {value}")
    if kept is not None:
        click.echo(f"{kept['ip']:<16} reserved {kept['hostname']}".rstrip())


@lease.command()
@click.argument("mac", type=Mac())
@places
def release(mac: str, as_json: bool, **where: str | None) -> None:
    """End the leases of one client at once, as vk-cocoon does when a VM is gone.

    The client is not told: it goes on using the address until it renews. The address rests before another gets it.
    Without a daemon, the route of the lease goes when the next one starts.
    """
    desk = _desk(where, reading=False)
    before = [one for one in desk.client(mac)["leases"] if one["state"] == "bound"]
    desk.release(mac)
    if as_json:
        _print({"mac": mac, "released": [one["ip"] for one in before]})
    else:
        click.echo(f"released {', '.join(one['ip'] for one in before)}" if before else f"{mac} has no lease")


@lease.command()
@click.argument("mac", type=Mac())
@click.argument("address")
@click.option("--hostname", default="", metavar="NAME", help="What the client is told it is called.")
@click.option(
    "--option",
    "options",
    metavar="CODE=VALUE",
    multiple=True,
    help="What only this client is told: text, 0x and hex, or addresses; repeatable. 'none': nothing of its own.",
)
@places
def reserve(mac: str, address: str, hostname: str, options: Sequence[str], as_json: bool, **where: str | None) -> None:
    """Keep ADDRESS for one client: nobody else gets it from now on; whoever has it loses it when renewing.

    Without --option, a client that has a reservation already keeps the options of it.
    """
    from cocoon_net.dhcp.settings import assignment

    given = dict(assignment(one) for one in options if one != "none") if options else None
    kept = _desk(where, reading=False).reserve(mac, address, hostname, given)
    if as_json:
        _print(kept)
    else:
        click.echo(f"{kept['ip']} is reserved for {kept['mac']}")


@lease.command()
@click.argument("mac", type=Mac())
@places
def unreserve(mac: str, as_json: bool, **where: str | None) -> None:
    """Keep nothing for a client any more; a lease that it has goes on."""
    desk = _desk(where, reading=False)
    before = desk.client(mac)["reservation"]
    desk.unreserve(mac)
    if as_json:
        _print({"mac": mac, "was": before})
    else:
        click.echo(f"{before['ip']} is no longer reserved" if before else f"nothing is reserved for {mac}")


@lease.command()
@places
def reservations(as_json: bool, **where: str | None) -> None:
    """List what is kept for whom, by address."""
    rows = _desk(where).reservations()
    if as_json:
        _print({"reservations": rows})
    elif not rows:
        click.echo("no reservations")
    else:
        _table(("ADDRESS", "MAC", "HOSTNAME"), ((one["ip"], one["mac"], one["hostname"]) for one in rows))


@lease.command()
@click.argument("mac", type=Mac())
@click.option("--follow", "-f", is_flag=True, help="Go on, and print each decision as it is made.")
@places
def trace(mac: str, follow: bool, as_json: bool, **where: str | None) -> None:
    """Show each decision about one client with its reason: what it asked, by which port, what it was told and why.

    With a live daemon also what was not answered. Older changes come from the history in the database.
    """
    found = _desk(where).trace(mac, 0)
    if as_json and not follow:
        _print(found)
        return
    told = [_history_line(one) for one in found["history"]] if not as_json else []
    _say(told, found["decisions"], as_json)
    if not told and not found["decisions"] and not follow:
        raise SpecError(
            f"no message of {mac} was heard",
            hint="a live daemon knows more; `tcpdump -eni any port 67` shows whether the guest asks at all",
        )
    while follow:
        time.sleep(FOLLOW_EVERY)
        with contextlib.suppress(NodeTransient):  # a daemon that is started anew is followed, too
            found = _desk(where).trace(mac, found["next"])
            _say([], found["decisions"], as_json)


def _desk(where: dict[str, str | None], *, reading: bool = True) -> Any:
    from cocoon_net.supervisor.caller import open_desk

    return open_desk(site_from(**where), reading=reading)


def _print(data: Any) -> None:
    click.echo(json.dumps(data, indent=2))


def _say(told: list[str], decisions: list[dict[str, Any]], as_json: bool) -> None:
    for line in told:
        click.echo(line)
    for one in decisions:
        click.echo(json.dumps(one) if as_json else _decision_line(one))


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return (one["ip"], one["mac"], one["state"], one["expiry"], one["port"], one["hostname"])


def _history_line(one: dict[str, Any]) -> str:
    return f"{one['at']}  {'history':<16} {one['ip']:<16} {one['state']}: {one['reason']}"


def _decision_line(one: dict[str, Any]) -> str:
    if one["asked"]:
        answered = one["asked"] not in ("RELEASE", "DECLINE")  # these two have no answer
        what = f"{one['asked']} → {one['said'] or 'silence'}" if answered else one["asked"]
        return f"{one['at']}  {one['port']:<16} {one['address']:<16} {what:<20} {one['reason']}".rstrip()
    return f"{one['at']}  {'':<16} {one['address']:<16} {'':<20} {one['reason']}".rstrip()


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns as wide as they need to be; an empty cell is a dash."""
    lines = [tuple(head), *(tuple(cell or "-" for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
