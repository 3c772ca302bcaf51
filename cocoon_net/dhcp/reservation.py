"""An address that the operator keeps for one client, and what only that client is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address


@dataclass(frozen=True, slots=True)
class Reservation:
    """``address`` is for ``mac`` (6 octets) and nobody else, whoever asks and however full the pool is."""

    mac: bytes
    address: IPv4Address
    hostname: str = ""
    """What its client is called (option 12); empty tells it nothing."""
    options: Mapping[int, bytes] = field(default_factory=dict)
    """Code -> value, before those of the pool."""
