"""What was decided lately, message by message: silence has a reason, too, and nobody else writes it down.

A bounded ring of tuples that the server's loop appends to; whoever wants to read it pays for it. What is older is in
the book's history, as far as it changed anything.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from cocoon_net.dhcp.decision import Decision, Reason
from cocoon_net.dhcp.options import MessageType
from cocoon_net.dhcp.tuples import NEW
from cocoon_net.dhcp.wire import ETHERNET, Packet

KEPT = 16_384
"""Decisions, about 4 MB: two minutes of one port at its rate, a second of the fastest storm."""


class Traced(NamedTuple):
    """One decision about one client."""

    number: int
    """Grows by one for each decision since the start."""
    at: int
    mac: bytes
    """``Packet.hardware``, as of the lease."""
    port: str
    """Empty for what no message caused: a lease that ended, an order."""
    asked: int
    """The message type; 0 for none."""
    said: int
    """The message type of the answer; 0 is silence."""
    address: int
    """What the answer or the change is about; 0 for none."""
    reason: Reason


class Trace:
    """The ring. ``note`` and ``change`` belong to the server's loop, ``of`` to anybody."""

    def __init__(self, kept: int = KEPT) -> None:
        self._ring: deque[Traced] = deque(maxlen=kept)
        self._number = 0

    def note(self, packet: Packet, decision: Decision, now: int, reason: Reason | None = None) -> None:
        """Keep what was decided about a message; with ``reason``, why nothing was said all the same."""
        self._number = number = self._number + 1
        said = decision.kind or 0 if reason is None else 0
        address = decision.address or (decision.changes[0].address if decision.changes else 0)
        why = reason or decision.reason
        mac = packet.chaddr if packet.htype == ETHERNET else packet.hardware
        self._ring.append(NEW(Traced, (number, now, mac, packet.port, packet.type, said, address, why)))

    def change(self, mac: bytes, address: int, now: int, reason: Reason) -> None:
        """Keep what a timer or an order did to a client's lease."""
        self._number = number = self._number + 1
        self._ring.append(Traced(number, now, mac, "", 0, 0, address, reason))

    def of(self, mac: bytes, since: int = 0) -> tuple[list[Traced], int]:
        """Return the decisions about a client after number ``since``, and the number to ask with the next time.

        A number that we have not reached is another server's life: all that is kept comes.
        """
        number = self._number
        since = since if since <= number else 0
        # One call into C copies the ring, so that the loop cannot change it meanwhile.
        return [one for one in self._ring.copy() if one.number > since and one.mac == mac], number


def as_json(one: Traced, at: str, address: str) -> dict[str, object]:
    """Return a decision as people know it; ``at`` and ``address`` are rendered already."""
    return {
        "number": one.number,
        "at": at,
        "port": one.port,
        "asked": MessageType(one.asked).name if one.asked in MessageType._value2member_map_ else "",
        "said": MessageType(one.said).name if one.said else "",
        "address": address,
        "reason": str(one.reason),
    }
