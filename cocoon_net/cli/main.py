"""``cocoon-net``: the entry point. Commands are imported when they are used, errors become exit codes here, once."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback

import click

from cocoon_net import __version__
from cocoon_net.errors import CocoonError, InvariantError, WorldError

COMMANDS = {
    "init": (
        "cocoon_net.cli.run:init",
        "Provision this node: subnet, interfaces, addresses, bridge, rules, DHCP pool.",
    ),
    "adopt": ("cocoon_net.cli.run:adopt", "Bring a node that was provisioned by hand under management."),
    "plan": ("cocoon_net.cli.plan:plan", "Show what init, adopt or teardown would do, object by object."),
    "audit": ("cocoon_net.cli.audit:audit", "Look for what has drifted, in the cloud and on this node; repair it."),
    "install": ("cocoon_net.cli.install:install", "Put the systemd unit and the completion for the shell in place."),
    "daemon": ("cocoon_net.cli.daemon:daemon", "Serve DHCP and keep the routes of the leases."),
    "status": ("cocoon_net.cli.status:status", "Show the pool of this node."),
    "lease": ("cocoon_net.cli.lease:lease", "Show leases and reservations, end them, and see why they are so."),
    "probe": ("cocoon_net.cli.probe:probe", "Ask for an address as a guest would, and show who answers."),
    "teardown": ("cocoon_net.cli.run:teardown", "Remove what init made, in reverse order."),
    "gc": ("cocoon_net.cli.gc:gc", "Delete interfaces of this node that nobody looks after."),
    "run": ("cocoon_net.cli.run:run", "Run a workflow, resume it or give it up."),
    "workflow": ("cocoon_net.cli.workflow:workflow", "Show the runs of this node, step by step."),
    "lab": ("cocoon_net.cli.lab:lab", "A VPC on this machine: the cloud's API, fabric, nodes and guests."),
}
"""Name -> where it lives, and its line in ``--help``, so that help imports none of them."""


class Commands(click.Group):
    """A group that imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from cocoon_net.compiled import described

        click.echo(f"cocoon-net, version {__version__} ({described()})")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def cli() -> None:
    """VPC-native addresses for the VMs of this node.

    Exit codes: 0 done; 1 differences found; 2 wrong usage; 69 the cloud refused; 70 a bug; 71 the kernel refused;
    73 a quota, or something in the way; 74 a state file is unusable; 75 parked or locked, the same command goes on;
    77 not permitted; 78 the request is wrong; 130 stopped by a signal before a run began, or while only looking.
    """


def main() -> None:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; every error has been printed to stderr."""
    try:
        code = cli.main(arguments, prog_name="cocoon-net", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped", err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except CocoonError as error:
        if isinstance(error, InvariantError):
            traceback.print_exc()
        show(error)
        return error.exit_code
    except Exception as error:
        found = _trouble(error)
        if found is None:
            raise
        show(found)
        return found.exit_code
    return code if isinstance(code, int) else 0  # click hands the code of ctx.exit() back here


def show(error: CocoonError) -> None:
    """Print an error for a person: what was wanted and seen, where, and what to do next."""
    lines = error.message.splitlines() or [type(error).__name__]
    where = " ".join(filter(None, (error.step, error.key))) if isinstance(error, WorldError) else ""
    known = (error.code, error.request_id) if isinstance(error, WorldError) else ()
    detail = ", ".join(word for word in known if word and word not in error.message)
    click.echo(f"error: {where + ': ' if where else ''}{lines[0]}{f' ({detail})' if detail else ''}", err=True)
    for line in lines[1:]:
        click.echo(f"       {line}", err=True)
    if error.hint:
        click.echo(f"hint:  {error.hint}", err=True)


def _trouble(error: Exception) -> CocoonError | None:
    """Return what SQLite's own error means, wherever it came up; None for any other."""
    sqlite3 = sys.modules.get("sqlite3")
    if sqlite3 is None or not isinstance(error, sqlite3.Error):
        return None
    from cocoon_net.store import trouble

    return trouble(error, "the database cannot be used")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
