"""The service manager of this machine, systemd, asked by ``systemctl``: is it there, has it our unit, start it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cocoon_net.errors import NodeError, SpecError
from cocoon_net.unit import NAME

__all__ = ["NAME", "SETTINGS", "require", "runs", "show", "start", "systemctl", "unseen"]

_BOOTED = Path("/run/systemd/system")
"""There where systemd is the service manager, sd_booted(3)."""

SETTINGS = Path("/etc/default/cocoon-net")
"""The environment of the service, by its unit."""

_OURS = ("COCOON_NET_", "VOLCENGINE_", "VOLCSTACK_")

_WITHIN = 120.0
"""Seconds for one ``systemctl``: a start waits until the service serves, which takes it a second or two."""


def runs(user: bool = False) -> bool:
    """Whether there is a service manager to talk to: the system's, or this user's."""
    if not user:
        return _BOOTED.is_dir()
    return Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent"), "systemd/private").exists()


def require() -> None:
    """Raise SpecError unless systemd is there and has our unit: to be called before anything is done."""
    if not runs():
        raise SpecError(
            "--start needs systemd, which does not run this machine",
            hint="leave --start out, and have `cocoon-net daemon` started by what does",
        )
    match show("LoadState"):
        case "loaded":
            return
        case "not-found":
            raise SpecError(
                f"--start: there is no unit {NAME}", hint="`cocoon-net install` first, then the same command"
            )
        case "masked":
            raise SpecError(f"--start: {NAME} is masked", hint=f"`systemctl unmask {NAME}`, then the same command")
        case state:
            raise SpecError(f"--start: {NAME} is {state}: {show('LoadError')}", hint=f"`systemd-analyze verify {NAME}`")


def show(name: str) -> str:
    """Return a property of our unit (systemctl(1), ``show``). Raises NodeError."""
    return systemctl("show", "--value", f"--property={name}", NAME).strip()


def start() -> str:
    """Have our unit started at each boot and now, or reloaded where it runs; returns what became of it, for people.

    Raises NodeError with what to look at when it does not start.
    """
    systemctl("enable", "--quiet", NAME)
    lives = show("ActiveState") in ("active", "reloading")
    systemctl("reload" if lives else "start", NAME, hint=f"`systemctl status {NAME}`, `journalctl -u {NAME} -n 20`")
    return f"{NAME} was told to take the new pool" if lives else f"{NAME} is started: {show('StatusText')}"


def unseen(environ: Mapping[str, str], settings: Path = SETTINGS) -> tuple[str, ...]:
    """Return the names of our settings in ``environ`` that the service's own environment does not have."""
    try:
        lines = settings.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    told = {line.partition("=")[0].strip() for line in lines}
    return tuple(sorted(name for name in environ if name.startswith(_OURS) and name not in told))


def systemctl(*words: str, user: bool = False, hint: str = "") -> str:
    """Run one ``systemctl`` and return what it says. Raises NodeError."""
    line = ["systemctl", "--no-ask-password", *(("--user",) if user else ()), *words]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=_WITHIN, check=False)
    except FileNotFoundError:
        raise NodeError("there is no systemctl in the PATH", hint="install the Debian package systemd") from None
    except subprocess.TimeoutExpired:
        raise NodeError(f"{' '.join(line)} did not end within {_WITHIN:g} s", hint="`systemctl list-jobs`") from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or "it said nothing"
        raise NodeError(f"{' '.join(line)} ended with {done.returncode}: {said}", hint=hint)
    return done.stdout
