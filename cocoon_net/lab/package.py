"""Debian packages, unpacked and not installed: what the lab needs of them now and then is no part of this machine."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cocoon_net.errors import NodeError


def depends(package: str) -> str:
    """Return the kernel that a Debian metapackage stands for at present. Raises NodeError."""
    listing = _debian(["apt-cache", "depends", package], Path("/"))
    found = re.search(r"Depends: (linux-image-\S+)", listing)
    if found is None:
        raise NodeError(f"Debian's archive has no {package}", hint="apt-get update")
    return found[1]


def unpack(package: str, root: Path) -> None:
    """Download a package into ``root`` and unpack it there. Raises NodeError."""
    _debian(["apt-get", "download", "-q", package], root)
    (file,) = root.glob(f"{package}_*.deb")
    _debian(["dpkg", "-x", str(file), str(root)], root)


def _debian(command: Sequence[str], place: Path) -> str:
    try:
        # The archive is outside of any lab: proxies of the environment are meant here.
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise NodeError(f"{command[0]} did not work: {error}", hint="this needs Debian's package tools") from None
    if done.returncode != 0:
        raise NodeError(f"{' '.join(command)} failed: {done.stderr.strip()}", hint="apt-get update, then again")
    return done.stdout
