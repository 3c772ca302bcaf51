"""The service's unit: one text, shipped with the package, made fit for the place where the program is installed.

What we write carries a stamp in its first line: the version and a hash of the rest. So a unit that was edited since, or
comes from somebody else, is told from one of ours that only wants to be brought up to date.
"""

from __future__ import annotations

import hashlib
import re
from enum import Enum
from pathlib import Path, PurePath

from cocoon_net.errors import InvariantError, SpecError

NAME = "cocoon-net.service"

_COMMAND = "ExecStart=cocoon-net daemon\n"
_STAMP = re.compile(r"# cocoon-net install, version (\S+), ([0-9a-f]{16}): [^\n]*\n")

_OF_THE_SYSTEM = re.compile(
    r"(^#.*\n)*^((State|Runtime|Configuration)Directory\w*=|(Wants|After)=network-online\.target|ReadWritePaths=/run$).*\n",
    re.M,
)
"""What only the system's manager has: a user's takes these directories for others, below his home."""

_HIDDEN = tuple(map(PurePath, ("/tmp", "/var/tmp", "/dev", "/proc", "/run/user")))
"""Where the service does not see what others see: its own /tmp (PrivateTmp), what a boot or a logout takes away."""


class Standing(Enum):
    """How the text of a unit that is in place relates to the one that should be."""

    MISSING = "missing"
    CURRENT = "current"
    OLD = "old"
    """Ours, as we wrote it."""
    EDITED = "edited"
    """Ours, and edited since."""
    FOREIGN = "foreign"


def shipped() -> str:
    """Return the unit that comes with the package: inside of it, or beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "systemd" / NAME
    return (inside if inside.is_file() else package.parent / "systemd" / NAME).read_text(encoding="utf-8")


def render(text: str, program: PurePath, *, version: str, user: bool = False) -> str:
    """Return the unit that starts ``program`` (absolute), stamped; ``user``: for a user's service manager. Pure.

    Raises SpecError where the service could not see the program.
    """
    if text.count(_COMMAND) != 1:
        raise InvariantError(f"the shipped unit has not one line {_COMMAND!r}")
    for place in _HIDDEN:
        if program.is_relative_to(place):
            raise SpecError(
                f"{program} cannot be a service: {place} is not the same for a service, or not there after a boot",
                hint="install cocoon-net elsewhere, e.g. in /opt/cocoon-net, and call install from there",
            )
    if user:
        text = _OF_THE_SYSTEM.sub("", text).replace("WantedBy=multi-user.target", "WantedBy=default.target")
        text = text.replace("\nReadWritePaths=", "\nReadWritePaths=/run -/var/lib/cocoon -/etc/cni/net.d ", 1)
    body = text.replace(_COMMAND, f"ExecStart={quote(str(program))} daemon\n")
    edit = f"systemctl {'--user ' if user else ''}edit cocoon-net"
    return (
        f"# cocoon-net install, version {version}, {_hash(body)}: your changes belong into a drop-in, {edit}.\n{body}"
    )


def standing(found: str | None, want: str) -> Standing:
    """Say how what is in place relates to what should be. Pure."""
    if found is None:
        return Standing.MISSING
    stamp = _STAMP.match(found)
    if stamp is None:
        return Standing.FOREIGN
    body = found[stamp.end() :]
    if _hash(body) != stamp[2]:
        return Standing.EDITED
    return Standing.CURRENT if found == want else Standing.OLD


def quote(word: str) -> str:
    """Return a word as a command line of a unit has it (systemd.service(5), COMMAND LINES). Pure."""
    word = word.replace("%", "%%").replace("$", "$$")
    if not re.search(r"[\s\"'\\;]", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _hash(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]
