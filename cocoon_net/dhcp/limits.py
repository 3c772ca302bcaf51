"""How much the DHCP server takes at once, and what one port may have of it while others want it, too (``guard``)."""

from __future__ import annotations

from dataclasses import dataclass

BATCH = 256
"""Frames taken per wake-up: one commit for all of them, and 10 ms of work at most. A relay's socket has room for about
as many replies at once."""

AT_ONCE = 64
"""Seconds' worth of its messages that a port may send at once: they are read within a tenth of a second."""

_RATE = 32


@dataclass(frozen=True)
class Limits:
    """What a port may have. Zero turns a limit off; ``trusted`` ports have none of them."""

    addresses: int = 8
    """Leased, offered, cooling and declined together: a guest and its nested ones. More while enough is left."""
    rate: float = _RATE
    """Messages per second; a client that boots sends two, and retries after 4 s (RFC 2131 §4.1). More when alone."""
    burst: int = AT_ONCE * _RATE
    """Messages at once: what stands behind one port may boot together, a thousand nested guests of it."""
    trusted: tuple[str, ...] = ()
    """Names or patterns of ports with a relay or a bridge of the operator's behind them."""
