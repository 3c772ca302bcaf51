"""``leases.json``: the one file that others read (vk-cocoon finds a VM's address in it).

A JSON array of ``{"mac", "ip", "expiry"}``, in one line per lease; a file that does not parse fails every lookup of
the reader, a row that does not parse loses only itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv4Address

from cocoon_net.errors import SpecError

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """One lease as others see it; ``mac`` in lower case with colons, ``expires`` in seconds since the epoch."""

    mac: str
    address: IPv4Address
    expires: int


def row(mac: str, address: str, expires: int) -> bytes:
    """Return one lease as it stands in the file; ``expires`` in epoch seconds."""
    return f'{{"mac":"{mac}","ip":"{address}","expiry":"{_text(expires)}"}}'.encode()


def join(rows: Iterable[bytes]) -> bytes:
    """Return the whole file from its rows; ``[]`` when there is none."""
    return b"".join(pieces(rows))


def pieces(rows: Iterable[bytes]) -> list[bytes]:
    """Return the whole file as what has to be written one after the other, no row copied; a row may be many, joined."""
    out = [b"["]
    for row in rows:
        out += (row, b",\n")
    if len(out) > 1:
        out.pop()
    return [*out, b"]\n"]


@lru_cache(maxsize=64)
def _text(expires: int) -> str:
    return datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(text: str, where: str = "leases.json") -> tuple[list[LeaseRow], list[str]]:
    """Read the file; returns the leases, the last row of a MAC winning, and what was wrong with other rows.

    Raises SpecError when it is not a JSON array (the Go tool's ``null`` is an empty one).
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise SpecError(f"{where} is not JSON: {error}", hint="restore it, or move it away to start without") from error
    if data is None:
        return [], []
    if not isinstance(data, list):
        raise SpecError(f"{where} is not a JSON array", hint="restore it, or move it away to start without")
    leases: dict[str, LeaseRow] = {}
    problems: list[str] = []
    for number, item in enumerate(data, 1):
        try:
            mac = str(item["mac"]).lower().replace("-", ":")
            if not _MAC.fullmatch(mac):
                raise ValueError(f"{mac!r} is not a MAC")
            expires = int(datetime.fromisoformat(_short(str(item["expiry"]))).timestamp())
            leases[mac] = LeaseRow(mac, IPv4Address(item["ip"]), expires)
        except (KeyError, TypeError, ValueError) as error:
            problems.append(f"{where}: row {number} cannot be used: {error}")
    return list(leases.values()), problems


def _short(text: str) -> str:
    """Cut a fraction to the six digits that Python reads; Go writes nine."""
    return re.sub(r"(\.\d{6})\d+", r"\1", text)
