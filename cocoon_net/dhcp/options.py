"""The options of our replies, rendered once and looked up afterwards (RFC 2132, RFC 2131 table 3).

A boot storm is a thousand clients with a handful of parameter request lists: the bytes for one (message type, list,
lease time) are rendered the first time and found in a table ever after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address

from cocoon_net import records
from cocoon_net.dhcp.wire import option


class MessageType(IntEnum):
    """Option 53 (RFC 2132 §9.6)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class Code(IntEnum):
    """The options that we read or write."""

    SUBNET_MASK = 1
    ROUTER = 3
    DNS = 6
    HOSTNAME = 12
    MTU = 26
    BROADCAST_ADDRESS = 28
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    MESSAGE_TYPE = 53
    SERVER_ID = 54
    PARAMETER_LIST = 55
    MESSAGE = 56
    MAXIMUM_SIZE = 57
    RENEWAL_TIME = 58
    REBINDING_TIME = 59
    CLIENT_ID = 61
    RELAY_AGENT = 82


_LISTS = 512
"""How many different replies are kept rendered; a client can send any list, so there must be an end."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one pool. ``values``: code -> rendered option, in the order used when a client asks for none."""

    server: bytes
    values: Mapping[int, bytes]
    _joined: dict[tuple[int, bytes | None, int], bytes] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, pool: records.Pool) -> Options:
        """Render what every guest of ``pool`` is told."""
        values = {
            Code.SUBNET_MASK: pool.subnet.netmask.packed,
            Code.ROUTER: pool.gateway.packed,
            Code.DNS: b"".join(server.packed for server in pool.dns),
            Code.MTU: pool.mtu.to_bytes(2),
            Code.BROADCAST_ADDRESS: pool.subnet.broadcast_address.packed,
        }
        if not pool.dns:
            del values[Code.DNS]
        return cls(
            server=option(Code.SERVER_ID, IPv4Address(pool.gateway).packed),
            values={int(code): option(code, value) for code, value in values.items()},
        )

    def joined(self, kind: int, wished: bytes | None, seconds: int) -> bytes:
        """Return all options of a reply but the client's own echo, as one piece.

        ``wished`` is the client's parameter request list, ``seconds`` its lease time (0: an ACK to an INFORM).
        """
        key = (kind, wished, seconds)
        found = self._joined.get(key)
        if found is None:
            if len(self._joined) >= _LISTS:
                self._joined.clear()
            found = self._joined[key] = b"".join(self.pieces(kind, wished, seconds))
        return found

    def pieces(self, kind: int, wished: bytes | None, seconds: int) -> list[bytes]:
        """Return the options of a reply one by one, the ones that it cannot do without first.

        With a list, what it names and we have, in its order (RFC 2132 §9.8); without, all we have. The subnet mask
        comes before the router in any case (RFC 2132 §3.3). A NAK carries nothing of this (RFC 2131 table 3).
        """
        out = {int(Code.MESSAGE_TYPE): option(Code.MESSAGE_TYPE, bytes((kind,))), int(Code.SERVER_ID): self.server}
        if kind == MessageType.NAK:
            return list(out.values())
        have = dict(self.values)
        if seconds:
            out[Code.LEASE_TIME] = option(Code.LEASE_TIME, seconds.to_bytes(4))
            have[Code.RENEWAL_TIME] = option(Code.RENEWAL_TIME, (seconds // 2).to_bytes(4))
            have[Code.REBINDING_TIME] = option(Code.REBINDING_TIME, (seconds * 7 // 8).to_bytes(4))
        wanted = list(have) if wished is None else [code for code in wished if code in have]
        if Code.SUBNET_MASK in wanted and Code.ROUTER in wanted:
            first = min(wanted.index(Code.SUBNET_MASK), wanted.index(Code.ROUTER))
            wanted.insert(first, Code.SUBNET_MASK)
        if seconds:
            # T1 and T2 cost 12 octets and keep a client from guessing (RFC 2131 §4.4.5).
            wanted += [Code.RENEWAL_TIME, Code.REBINDING_TIME]
        for code in wanted:
            out.setdefault(int(code), have[code])
        return list(out.values())
