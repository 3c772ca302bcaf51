"""``install``: put the unit of the service and the shell's completion in place."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from cocoon_net import __version__
from cocoon_net.errors import Refused, SpecError, Unsupported

_COMPLETE = "_COCOON_NET_COMPLETE"
"""What click takes for a request to complete, from the program's name."""


@click.command()
@click.option("--print", "only_print", is_flag=True, help="Write the unit to stdout, and change nothing.")
@click.option("--user-unit", is_flag=True, help="For this user's service manager (systemctl --user), below ~.")
@click.option("--force", is_flag=True, help="Replace a unit that is not as cocoon-net wrote it; it is kept aside.")
def install(only_print: bool, user_unit: bool, force: bool) -> None:
    """Put the systemd unit, which starts this very program, and the completion for the shell in place.

    To be given again after each upgrade. Neither enables nor starts anything: `cocoon-net init --start` does.
    What you change in the unit belongs into a drop-in (`systemctl edit cocoon-net`), which is never touched.
    """
    from cocoon_net import manager, unit

    want = unit.render(unit.shipped(), program(), version=__version__, user=user_unit)
    if only_print:
        click.echo(want, nl=False)
        return
    if os.geteuid() != 0:
        raise Refused("the service must run as root, and so must who installs it", hint="sudo, or --print")
    changed = [_write(path, text) for path, text in completions(user_unit)]
    folder = _home("XDG_CONFIG_HOME", ".config") / "systemd/user" if user_unit else Path("/etc/systemd/system")
    if _put(folder / unit.NAME, want, force=force):
        if manager.runs(user_unit):
            manager.systemctl("daemon-reload", user=user_unit)
            click.echo("systemd has read its units again")
        changed.append(True)
    if not any(changed):
        click.echo("nothing to do")
    click.echo(f"next: {_next(user_unit)}")


def program() -> Path:
    """Return where this program is installed, absolute, as it is called by. Raises SpecError."""
    called = shutil.which(sys.argv[0])
    for path in (Path(called) if called else None, Path(sys.executable).with_name("cocoon-net")):
        if path is not None and path.name == "cocoon-net" and os.access(path, os.X_OK):
            # A link that leads there, e.g. one of pipx in /usr/local/bin, outlives an upgrade; so it is not followed.
            return path if path.is_absolute() else Path.cwd() / path
    raise SpecError(
        f"{sys.argv[0]} is no installed cocoon-net",
        hint="`pip install .`, and call install by that environment's program",
    )


def completions(user: bool) -> Iterator[tuple[Path, str]]:
    """Yield path and text of the completion for bash, and for those other shells that are here."""
    from click.shell_completion import get_completion_class

    from cocoon_net.cli.main import cli

    share = _home("XDG_DATA_HOME", ".local/share") if user else Path("/usr/local/share")
    for shell, place in (
        ("bash", "bash-completion/completions/cocoon-net"),
        ("zsh", "zsh/site-functions/_cocoon-net"),
        ("fish", "fish/vendor_completions.d/cocoon-net.fish"),
    ):
        kind = get_completion_class(shell)
        if kind is not None and (shell == "bash" or shutil.which(shell)):
            script = kind(cli, {}, "cocoon-net", _COMPLETE)
            yield share / place, script.source_template % script.source_vars()


def _put(path: Path, want: str, *, force: bool) -> bool:
    """Put the unit in place and return whether it changed. Raises Unsupported for one that is not as we wrote it."""
    from cocoon_net.unit import Standing, standing

    try:
        found = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        found = None
    match standing(found, want):
        case Standing.CURRENT:
            return False
        case (Standing.EDITED | Standing.FOREIGN) as how if not force:
            what = "was edited" if how is Standing.EDITED else "was not written by cocoon-net install"
            raise Unsupported(
                f"{path} {what}, and stays as it is",
                hint="your changes belong into a drop-in (`systemctl edit cocoon-net`); `cocoon-net install --force` "
                "replaces the unit and keeps the old one aside",
            )
        case Standing.EDITED | Standing.FOREIGN:
            aside = path.with_name(f"{path.name}.{datetime.now(UTC):%Y%m%d-%H%M%S}")
            shutil.copy2(path, aside)
            click.echo(f"kept aside: {aside}")
    return _write(path, want)


def _write(path: Path, text: str) -> bool:
    """Write a file, say so, and return True; False where it is there already."""
    from cocoon_net.node.files import write_atomic

    if path.is_file() and path.read_bytes() == text.encode():
        return False
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_atomic(path, text.encode())
    click.echo(f"wrote {path}")
    return True


def _home(variable: str, otherwise: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / otherwise)


def _next(user: bool) -> str:
    if user:
        return "systemctl --user enable --now cocoon-net, once this node was provisioned"
    return (
        "`cocoon-net init … --start`; on a provisioned node `systemctl enable --now cocoon-net`, "
        "after an upgrade `systemctl restart cocoon-net`"
    )
