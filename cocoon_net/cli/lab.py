"""``cocoon-net lab``: a VPC on this machine, its nodes and its guests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_COMMAND = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def _which(command: F) -> F:
    """Add the options that name a lab."""
    name = click.option("--name", default="lab", show_default=True, envvar="COCOON_NET_LAB", help="The lab.")
    base = click.option(
        "--dir",
        "base",
        default="/var/lib/cocoon-net-lab",
        show_default=True,
        envvar="COCOON_NET_LAB_DIR",
        type=click.Path(path_type=Path, file_okay=False),
        help="The directory that holds the labs (COCOON_NET_LAB_DIR).",
    )
    return name(base(command))


@click.group()
def lab() -> None:
    """A VPC on this machine: the cloud's API, its network, nodes and guests.

    The namespaces are NAME-vpc (the VPC's router), NAME-node1 .., NAME-host (another machine of the VPC) and
    NAME-GUEST. Nothing is put into the machine's own namespace.
    """


@lab.command()
@_which
@click.option("--nodes", type=int, help="How many nodes, 1 to 9; default 2.")
@click.option("--vpc-cidr", metavar="CIDR", help="Default 172.20.0.0/16; the hosts are in its first /20.")
@click.option("--strict-source", is_flag=True, help="Drop what an interface sends from an address not its own.")
@click.option("--fault", "faults", multiple=True, metavar="KEY=VALUE", help="A knob, see `lab fault`; repeatable.")
def up(
    name: str, base: Path, nodes: int | None, vpc_cidr: str | None, strict_source: bool, faults: tuple[str, ...]
) -> None:
    """Build the lab, or what is missing of it; after a crash, the same lab goes on."""
    from cocoon_net.lab.cloud.faults import parse_settings
    from cocoon_net.lab.lab import open_lab, shape_of
    from cocoon_net.lab.lab import up as build

    one = open_lab(name, base)
    asked = nodes is not None or vpc_cidr is not None or strict_source
    shape = shape_of(nodes, vpc_cidr, strict_source=strict_source) if asked else None
    built = build(one, shape, parse_settings(faults))
    spaces = " ".join(one.namespace(machine) for machine in one.machines())
    click.echo(f"{'the lab is up' if built else 'the lab was up already'}: {spaces}")


@lab.command()
@_which
@click.option("--keep", is_flag=True, help="Keep the directory: the next `up` goes on with the same cloud.")
def down(name: str, base: Path, keep: bool) -> None:
    """Remove the lab: processes, namespaces, links and its directory, however much of it there is."""
    from cocoon_net.lab.lab import down as remove
    from cocoon_net.lab.lab import open_lab

    removed = remove(open_lab(name, base), keep=keep)
    click.echo(f"removed: {' '.join(removed)}" if removed else "nothing to remove")


@lab.command("exec", context_settings=_COMMAND)
@_which
@click.argument("who")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(name: str, base: Path, who: str, command: tuple[str, ...]) -> None:
    """Run COMMAND as on WHO: a node, host, vpc or a guest. Its exit code is ours."""
    from cocoon_net.lab.lab import open_lab
    from cocoon_net.lab.machine import execute as run

    run(open_lab(name, base), who, _command(command))


@lab.command()
@_which
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def status(name: str, base: Path, as_json: bool) -> None:
    """Show nodes with their links and interfaces, guests, faults and the calls made."""
    from cocoon_net.lab.lab import open_lab
    from cocoon_net.lab.status import look

    found = look(open_lab(name, base))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    state = f"up, process {found['pid']}" if found["running"] else "down"
    click.echo(f"{found['name']}: {state}, {found['directory']}")
    if found["running"] and found["problem"]:
        click.echo(f"  {found['problem']}")
    for node in found["nodes"]:
        click.echo(f"{node['name']}  {node['instance_id']}")
        cloud = {row["mac"]: row for row in node["interfaces"]}
        for link in node["links"]:
            row = cloud.pop(link["mac"], None)
            of = "" if row is None else f"{row['id']} {row['status']} {row['primary']} +{row['secondaries']}"
            up = "up" if link["up"] else "down"
            click.echo(f"  {link['name']:<12} {up:<5} {link['mac']}  {' '.join(link['addresses']) or '-':<19} {of}")
        for row in cloud.values():
            click.echo(f"  {'(no link)':<12} {'':<5} {row['mac']}  {'-':<19} {row['id']} {row['status']}")
    for guest in found["guests"]:
        click.echo(f"guest {guest['name']} on {guest['node']}  {guest['address'] or 'no address'}  {guest['client']}")
    if found["faults"]:
        click.echo("faults: " + " ".join(f"{knob}={value}" for knob, value in found["faults"].items()))
    if found["calls"]:
        click.echo("calls:  " + " ".join(f"{action}={count}" for action, count in found["calls"].items()))


@lab.command()
@_which
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--clear", is_flag=True, help="Return all knobs to their defaults, then set those given.")
def fault(name: str, base: Path, settings: tuple[str, ...], clear: bool) -> None:
    """Show or turn the knobs that make the cloud slow or fail; KEY= returns one to its default."""
    from cocoon_net.lab.cloud import Admin
    from cocoon_net.lab.cloud.faults import parse_settings
    from cocoon_net.lab.lab import open_lab

    admin = Admin(open_lab(name, base).admin_socket)
    wanted = parse_settings(settings)
    if clear:
        wanted = dict.fromkeys(admin.faults(), "") | wanted
    knobs = admin.set_faults(wanted) if wanted else admin.faults()
    for knob, value in knobs.items():
        click.echo(f"{knob}={value}")


@lab.command("call")
@_which
@click.argument("node")
@click.argument("action")
@click.argument("params", nargs=-1, metavar="[KEY=VALUE]...")
def call_(name: str, base: Path, node: str, action: str, params: tuple[str, ...]) -> None:
    """Call an ACTION of the lab's cloud with NODE's account, as if in the console, and print its result as JSON."""
    from cocoon_net.lab.console import call, parse_params
    from cocoon_net.lab.lab import open_lab

    click.echo(json.dumps(call(open_lab(name, base), node, action, parse_params(params)), indent=2))


@lab.group()
def guest() -> None:
    """Guests: namespaces plugged into a node's bridge, with a real DHCP client."""


@guest.command("add")
@_which
@click.argument("node")
@click.argument("guest_name", metavar="NAME")
@click.option("--client", type=click.Choice(["udhcpc", "dhclient", "none"]), default="udhcpc", show_default=True)
@click.option("--mac", default="", help="Default: the kernel's choice.")
@click.option("--hostname", default="", help="What the client calls itself; default NAME.")
@click.option("--wait", type=float, default=15.0, show_default=True, help="Seconds for the lease.")
def guest_add(
    name: str, base: Path, node: str, guest_name: str, client: str, mac: str, hostname: str, wait: float
) -> None:
    """Plug the guest NAME into NODE and print the address that it leased."""
    from cocoon_net.lab.guests import Guest, add
    from cocoon_net.lab.lab import open_lab

    address = add(open_lab(name, base), Guest(guest_name, node, client, mac.lower(), hostname or guest_name), wait)
    click.echo(f"{guest_name} {address or '-'} {node}")


@guest.command("del")
@_which
@click.argument("guest_name", metavar="NAME")
def guest_del(name: str, base: Path, guest_name: str) -> None:
    """End a guest at once, as a host ends a VM: no lease is released."""
    from cocoon_net.lab.guests import remove
    from cocoon_net.lab.lab import open_lab

    remove(open_lab(name, base), guest_name)


@guest.command("list")
@_which
def guest_list(name: str, base: Path) -> None:
    """Show all guests: name, address, node, client."""
    from cocoon_net.lab.guests import listed
    from cocoon_net.lab.lab import open_lab

    for one, address in listed(open_lab(name, base)):
        click.echo(f"{one.name} {address or '-'} {one.node} {one.client}")


@guest.command("exec", context_settings=_COMMAND)
@_which
@click.argument("guest_name", metavar="NAME")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def guest_exec(name: str, base: Path, guest_name: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in a guest. Its exit code is ours."""
    from cocoon_net.lab.guests import read
    from cocoon_net.lab.lab import open_lab
    from cocoon_net.lab.machine import execute as run

    one = open_lab(name, base)
    run(one, read(one, guest_name).name, _command(command))


@guest.command("serve")
@_which
@click.argument("guest_name", metavar="NAME")
@click.argument("port", type=click.IntRange(1, 65535))
def guest_serve(name: str, base: Path, guest_name: str, port: int) -> None:
    """Listen on a TCP port in a guest until it is removed, e.g. 3389."""
    from cocoon_net.lab.guests import serve
    from cocoon_net.lab.lab import open_lab

    serve(open_lab(name, base), guest_name, port)


@lab.command()
@_which
@click.option("--vm", "real", is_flag=True, help="Also boot a real VM in QEMU on node1.")
def demo(name: str, base: Path, real: bool) -> None:
    """Do the guide's job in a lab that is up, and print its "Verified Result" as measured."""
    from cocoon_net.lab.demo import show
    from cocoon_net.lab.lab import open_lab

    show(open_lab(name, base), real=real, say=click.echo)


def _command(words: tuple[str, ...]) -> list[str]:
    """Return a command without the ``--`` that may stand before it."""
    rest = words[1:] if words[0] == "--" else words
    if not rest:
        raise click.UsageError("Missing argument 'COMMAND...'.")
    return list(rest)
