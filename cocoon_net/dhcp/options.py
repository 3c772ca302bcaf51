"""The options of our replies, rendered once and looked up afterwards (RFC 2132, RFC 2131 table 3).

A boot storm is a thousand clients with a handful of parameter request lists: the bytes for one (message type, list,
lease time) are rendered the first time and found in a table ever after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from cocoon_net import records
from cocoon_net.dhcp import wire
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


ASKED = (
    MessageType.DISCOVER,
    MessageType.REQUEST,
    MessageType.DECLINE,
    MessageType.RELEASE,
    MessageType.INFORM,
)
"""What clients send."""

SAID: Final = (MessageType.OFFER, MessageType.ACK, MessageType.NAK)
"""What servers answer."""


class Code(IntEnum):
    """The options that we read or write, and know by name."""

    SUBNET_MASK = 1
    ROUTER = 3
    DNS = 6
    HOSTNAME = wire.HOSTNAME
    DOMAIN = 15
    MTU = 26
    BROADCAST_ADDRESS = 28
    NTP = 42
    REQUESTED_ADDRESS = wire.REQUESTED_ADDRESS
    LEASE_TIME = wire.LEASE_TIME
    MESSAGE_TYPE = wire.TYPE
    SERVER_ID = wire.SERVER_ID
    PARAMETER_LIST = wire.PARAMETER_LIST
    MESSAGE = 56
    MAXIMUM_SIZE = wire.MAXIMUM_SIZE
    RENEWAL_TIME = 58
    REBINDING_TIME = 59
    CLIENT_ID = wire.CLIENT_ID
    RAPID_COMMIT = wire.RAPID_COMMIT
    RELAY_AGENT = wire.RELAY_AGENT
    IPV6_ONLY = 108
    SUBNET_SELECTION = wire.SUBNET_SELECTION
    SEARCH = 119
    ROUTES = 121
    MICROSOFT_ROUTES = 249


ACK: Final = MessageType.ACK
INFORM: Final = MessageType.INFORM
NAK: Final = MessageType.NAK
OFFER: Final = MessageType.OFFER

FOREVER = 0xFFFF_FFFF
"""The lease time that never ends (RFC 2131 §3.3)."""

_ONLY_IF_ASKED = frozenset({Code.IPV6_ONLY, Code.ROUTES, Code.MICROSOFT_ROUTES})
"""RFC 8925 §3.3 forbids the first; who does not ask for the others takes the router from option 3."""

_LISTS = 512
"""How many different replies are kept rendered; a client can send any list, so there must be an end."""


@dataclass(frozen=True, slots=True)
class Options:
    """What one kind of client is told. ``values``: code -> rendered option, in the order used for who asks for none."""

    server: bytes
    values: Mapping[int, bytes]
    _joined: dict[tuple[int, bytes | None, int], bytes] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, pool: records.Pool, *more: Mapping[int, bytes]) -> Options:
        """Render what the guests of ``pool`` are told; ``more`` is laid over it, code -> value, the last one on top."""
        values: dict[int, bytes] = {
            Code.SUBNET_MASK: pool.subnet.netmask.packed,
            Code.ROUTER: pool.gateway.packed,
            Code.DNS: b"".join(server.packed for server in pool.dns),
            Code.MTU: pool.mtu.to_bytes(2),
            Code.BROADCAST_ADDRESS: pool.subnet.broadcast_address.packed,
            Code.ROUTES: b"",
        }
        for layer in more:
            values |= layer
        # RFC 3442: who takes option 121 ignores option 3, so the default route must be inside as well.
        values[Code.ROUTES] = with_default(values[Code.ROUTES], pool.gateway)
        values[Code.MICROSOFT_ROUTES] = values[Code.ROUTES]
        return cls(
            server=option(Code.SERVER_ID, IPv4Address(pool.gateway).packed),
            values={int(code): option(code, value) for code, value in values.items() if value},
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
            found = self._joined[key] = b"".join(self.pieces(kind, wished, seconds).values())
        return found

    def pieces(self, kind: int, wished: bytes | None, seconds: int) -> dict[int, bytes]:
        """Return the options of a reply one by one, code -> rendered, in their order.

        With a list, what it names and we have, in its order (RFC 2132 §9.8); without, all we have. The subnet mask
        comes before the router in any case (RFC 2132 §3.3). A NAK carries nothing of this (RFC 2131 table 3).
        """
        have = {int(Code.MESSAGE_TYPE): option(Code.MESSAGE_TYPE, bytes((kind,))), int(Code.SERVER_ID): self.server}
        if kind == MessageType.NAK:
            return have
        if seconds:
            renewal, rebinding = (seconds, seconds) if seconds == FOREVER else (seconds // 2, seconds * 7 // 8)
            have[Code.LEASE_TIME] = option(Code.LEASE_TIME, seconds.to_bytes(4))
            have[Code.RENEWAL_TIME] = option(Code.RENEWAL_TIME, renewal.to_bytes(4))
            have[Code.REBINDING_TIME] = option(Code.REBINDING_TIME, rebinding.to_bytes(4))
        must = [code for code in have if wished is None or code not in wished]
        have |= self.values
        if wished:
            asked = [code for code in wished if code in have]
        else:
            asked = [code for code in self.values if code not in _ONLY_IF_ASKED]
        if Code.SUBNET_MASK in asked and Code.ROUTER in asked:
            asked.insert(min(asked.index(Code.SUBNET_MASK), asked.index(Code.ROUTER)), Code.SUBNET_MASK)
        # The type is what a client looks for first; T1 and T2 cost 12 octets and keep it from guessing (§4.4.5).
        order = dict.fromkeys([Code.MESSAGE_TYPE, *must, *asked])
        return {int(code): have[code] for code in order}


MUST = (Code.MESSAGE_TYPE, Code.SERVER_ID, Code.LEASE_TIME)
"""What a reply cannot do without, however small the client's buffer."""


def classless(routes: Iterable[tuple[IPv4Network, IPv4Address]]) -> bytes:
    """Render classless static routes: prefix length, its significant octets, router (RFC 3442)."""
    return b"".join(
        bytes((network.prefixlen,)) + network.network_address.packed[: (network.prefixlen + 7) // 8] + router.packed
        for network, router in routes
    )


def with_default(routes: bytes, gateway: IPv4Address) -> bytes:
    """Return rendered classless routes with a default route in front, unless there is one."""
    at = 0
    while at < len(routes):
        if routes[at] == 0:
            return routes
        at += 1 + (routes[at] + 7) // 8 + 4
    return b"\0" + gateway.packed + routes


def domains(names: Sequence[str]) -> bytes:
    """Render a domain search list; a suffix that was written before is a pointer to it (RFC 3397, RFC 1035 §4.1.4)."""
    out, known = bytearray(), dict[tuple[str, ...], int]()
    for name in names:
        labels = tuple(name.lower().split("."))
        for at in range(len(labels)):
            rest = labels[at:]
            if rest in known:
                out += (0xC000 | known[rest]).to_bytes(2)
                break
            if len(out) < 0x4000:
                known[rest] = len(out)
            out += bytes((len(labels[at]),)) + labels[at].encode()
        else:
            out.append(0)
    return bytes(out)
