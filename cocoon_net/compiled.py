"""Whether the modules that a lease runs through are compiled: docs/decisions/0015-the-hot-path-may-be-compiled.md."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path

RECORD = "compiled.json"
"""Path -> SHA-256 of the source that was compiled; only in a wheel that ``hatch_build.py`` compiled."""


def described(package: Path = Path(__file__).parent) -> str:
    """Say what a lease runs through. A source that was edited since does nothing, and that is told, too."""
    try:
        sums: dict[str, str] = dict(json.loads((package / RECORD).read_text()))
    except FileNotFoundError:
        return "pure Python"
    except (OSError, TypeError, ValueError):
        return f"compiled or not: its {RECORD} cannot be read, install it again"
    spec = find_spec("cocoon_net.dhcp.wire")
    if spec is None or (spec.origin or "").endswith(".py"):
        return "pure Python, for it was compiled for another one"
    edited = [path for path, digest in sums.items() if _digest(package.parent / path) != digest]
    if edited:
        return f"compiled, and not from the {' '.join(edited)} that is here: install it again"
    return "DHCP compiled"


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
