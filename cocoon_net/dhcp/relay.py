"""What a relay agent adds to a message: which link it means, and who it says that we are (RFC 3046).

The sub-options count only together with ``giaddr``: a guest that speaks for itself may write what it likes there, and
gets it back.
"""

from __future__ import annotations

from cocoon_net.dhcp.wire import RELAY_AGENT, SUBNET_SELECTION, Packet

LINK_SELECTION, SERVER_OVERRIDE = 5, 11
"""Sub-options of option 82: RFC 3527, RFC 5107."""


def link(packet: Packet) -> int:
    """Return an address of the link that the client is on: the relay's choice, the client's, or the relay's own.

    That order is RFC 3527 §4's. For who is served directly and asks for no subnet it is 0, and not asked for.
    """
    chosen = _suboption(packet, LINK_SELECTION)
    if chosen is None:
        chosen = packet.options.get(SUBNET_SELECTION)
    if chosen is None or len(chosen) != 4:
        return packet.giaddr
    return int.from_bytes(chosen)


def server_of(packet: Packet, ours: int) -> int:
    """Return the server identifier that this client knows us by: the relay's word for it, else ours (RFC 5107 §4)."""
    override = _suboption(packet, SERVER_OVERRIDE)
    return ours if override is None or len(override) != 4 else int.from_bytes(override)


def _suboption(packet: Packet, code: int) -> bytes | None:
    data = packet.options.get(RELAY_AGENT) if packet.giaddr else None
    if data is None:
        return None
    at = 0
    while at + 2 <= len(data):
        end = at + 2 + data[at + 1]
        if data[at] == code and end <= len(data):
            return data[at + 2 : end]
        at = end
    return None
