"""DHCP messages on the wire: bytes to a Packet and back (RFC 2131 §2, RFC 2132, RFC 3396).

``decode`` never raises: what it cannot read is a ``Malformed``, one counter each. Addresses stay integers here, for
the server compares them a hundred thousand times for each time that a person reads one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from cocoon_net.dhcp.tuples import NEW

REQUEST: Final = 1
REPLY: Final = 2
"""``op`` (RFC 2131 table 1)."""

BROADCAST: Final = 0x8000
"""The one bit of ``flags`` that means something (RFC 2131 figure 2)."""

ETHERNET: Final = 1
MAC_LENGTH: Final = 6

_CHADDR: Final = 16
HARDWARE_LENGTH: Final = 1 + _CHADDR
"""Octets of ``Packet.hardware`` where that is not Ethernet's, which has ``MAC_LENGTH``."""

_NO_PADDING: Final = bytes(_CHADDR - MAC_LENGTH)
SHORTEST_ID: Final = 2
"""Octets of a client identifier (RFC 2132 §9.14); a shorter one is echoed and names nobody."""

COOKIE: Final = 0x63825363
PAD: Final = 0
HOSTNAME: Final = 12
REQUESTED_ADDRESS: Final = 50
LEASE_TIME: Final = 51
OVERLOAD: Final = 52
TYPE: Final = 53
SERVER_ID: Final = 54
PARAMETER_LIST: Final = 55
MAXIMUM_SIZE: Final = 57
CLIENT_ID: Final = 61
RAPID_COMMIT: Final = 80
RELAY_AGENT: Final = 82
SUBNET_SELECTION: Final = 118
END: Final = 255
"""What each message is asked for, as plain numbers: the members of ``options.Code`` take twice as long to look up."""
MINIMUM_SIZE: Final = 300
"""What BOOTP relays and old clients insist on (RFC 1542 §2.1)."""

_HEADER: Final = struct.Struct("!4BIHH4I16s192xI")
_READ_HEADER: Final = struct.Struct("!4BIHH4I6s10s192xI")
_OPTIONS: Final = _HEADER.size
_FILE, _SNAME = (108, 236), (44, 108)
_FILE_SIZE, _SNAME_SIZE = 128, 64


class Malformed(StrEnum):
    """Why a datagram is not a DHCP message that we can read."""

    SHORT = "short"
    """Shorter than the fixed fields and one option."""
    OP = "op"
    """Neither BOOTREQUEST nor BOOTREPLY."""
    HARDWARE = "hardware"
    """Not an address of one host: the key of a lease."""
    COOKIE = "cookie"
    """No magic cookie: plain BOOTP, or something else."""
    TRUNCATED = "truncated"
    """An option runs over the end of its field."""
    TYPE = "type"
    """No message type, or one of no octets: plain BOOTP with vendor extensions."""


class Packet(NamedTuple):
    """One DHCP message. Immutable; a tuple because one is made for every datagram."""

    op: int
    xid: int
    chaddr: bytes
    options: dict[int, bytes]
    """Code -> value; split options joined, overloaded fields read (RFC 3396 §7). Nobody changes it."""
    flags: int = 0
    ciaddr: int = 0
    yiaddr: int = 0
    siaddr: int = 0
    giaddr: int = 0
    secs: int = 0
    hops: int = 0
    htype: int = ETHERNET
    hlen: int = MAC_LENGTH
    port: str = ""
    """The bridge port that it came in by: not of the wire, and the one thing a guest cannot choose."""
    source: int = 0
    """The IP address it came from; only of an INFORM that names no address of its own."""
    padding: bytes = b""
    """What stands behind the address in ``chaddr``, up to its end; empty where it is zeros."""

    @property
    def type(self) -> int:
        """The message type, option 53."""
        return self.options[TYPE][0]

    @property
    def hardware(self) -> bytes:
        """Whose message it is by its hardware: ``chaddr``, of another type than Ethernet with that in front.

        RFC 2131 §2.1 wants the address typed. Seventeen octets at least, so that nothing else is spelled alike.
        """
        return self.chaddr if self.htype == ETHERNET else bytes((self.htype,)) + self.chaddr.ljust(_CHADDR, b"\0")


def decode(data: bytes, port: str = "") -> Packet | Malformed:
    """Read one UDP payload that came in by ``port``. What costs one look is looked at before the options are walked."""
    size = len(data)
    if size <= _OPTIONS:
        return Malformed.SHORT
    op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, mac, padding, cookie = (
        _READ_HEADER.unpack_from(data)
    )
    if cookie != COOKIE:
        return Malformed.COOKIE
    if op != REQUEST and op != REPLY:
        return Malformed.OP
    if hlen != MAC_LENGTH:  # known by what it calls itself, and reached by broadcast
        mac, padding = (mac + padding)[:hlen], (mac + padding)[hlen:].rstrip(b"\0")
        if hlen > _CHADDR or (hlen and not any(mac)):
            return Malformed.HARDWARE
    elif mac[0] & 1 or mac == b"\0\0\0\0\0\0":
        return Malformed.HARDWARE
    elif padding == _NO_PADDING:
        padding = b""
    if not htype:
        return Malformed.HARDWARE
    options: dict[int, bytes] = {}
    if not _walk(data, _OPTIONS, size, options):
        return Malformed.TRUNCATED
    overload = options.get(OVERLOAD)
    if overload is not None:
        # RFC 2132 §9.3, only where the options field says so; the order file, then sname is that of RFC 3396 §5.
        fields = overload[0] if len(overload) == 1 and overload[0] <= 3 else 0
        if fields & 1 and not _walk(data, *_FILE, options):
            return Malformed.TRUNCATED
        if fields & 2 and not _walk(data, *_SNAME, options):
            return Malformed.TRUNCATED
        options[OVERLOAD] = overload  # one inside those fields counts for nothing
    kind = options.get(TYPE)
    if not kind:
        return Malformed.TYPE
    # Of another length than the one right one they are as none (RFC 2132 §9). A loop takes three times as long.
    if REQUESTED_ADDRESS in options and len(options[REQUESTED_ADDRESS]) != 4:
        del options[REQUESTED_ADDRESS]
    if LEASE_TIME in options and len(options[LEASE_TIME]) != 4:
        del options[LEASE_TIME]
    if SERVER_ID in options and len(options[SERVER_ID]) != 4:
        del options[SERVER_ID]
    if MAXIMUM_SIZE in options and len(options[MAXIMUM_SIZE]) != 2:
        del options[MAXIMUM_SIZE]
    if not hlen:  # RFC 4390 §2.1: no room for its address; the identifier is its name. Sixteen zeros go back.
        name = options.get(CLIENT_ID, b"")
        if len(name) < SHORTEST_ID:
            return Malformed.HARDWARE
        mac, padding = bytes(_CHADDR) + name, b""
    return NEW(
        Packet,
        (op, xid, mac, options, flags, ciaddr, yiaddr, siaddr, giaddr, secs, hops, htype, hlen, port, 0, padding),
    )


def _walk(data: bytes, at: int, end: int, options: dict[int, bytes]) -> bool:
    """Collect the options of one field; False when one of them does not fit into it.

    A field that ends without END is accepted: old clients send such, and nothing is ambiguous about it.
    """
    while at < end:
        code = data[at]
        if code == END:
            return True
        if code == PAD:
            at += 1
            continue
        start = at + 2
        if start > end:
            return False
        at = start + data[start - 1]
        if at > end:
            return False
        value = data[start:at]
        options[code] = options[code] + value if code in options else value
    return True


def option(code: int, value: bytes) -> bytes:
    """Render one option, split into pieces of 255 where it is longer (RFC 3396 §6)."""
    if len(value) <= 255:
        return bytes((code, len(value))) + value
    pieces = (value[i : i + 255] for i in range(0, len(value), 255))
    return b"".join(bytes((code, len(piece))) + piece for piece in pieces)


def encode(packet: Packet) -> bytes:
    """Render a whole message, its options in the order of the mapping, padded to the least that BOOTP takes."""
    options = b"".join(option(code, value) for code, value in packet.options.items())
    return _head(packet) + finish(options)


def spread(pieces: Iterable[bytes], tail: bytes, room: int) -> tuple[bytes, bytes, bytes]:
    """Spread rendered options over ``room`` octets of the options field, then ``file``, then ``sname``.

    Returns the three fields; the last two empty unless they are needed (option 52, RFC 2132 §9.3). Earlier pieces go
    first, none is cut in two, and one that fits nowhere is left out. ``tail`` ends the options field in any case.
    """
    pieces = list(pieces)
    if sum(map(len, pieces)) + len(tail) < room:
        return b"".join(pieces) + tail, b"", b""
    fields: tuple[list[bytes], ...] = ([], [], [])
    free = [room - len(tail) - 4, _FILE_SIZE - 1, _SNAME_SIZE - 1]  # each ends with END; the first has option 52, too
    for piece in pieces:
        for number, left in enumerate(free):
            if len(piece) <= left:
                fields[number].append(piece)
                free[number] -= len(piece)
                break
    main, file, sname = map(b"".join, fields)
    if not file and not sname:
        return main + tail, b"", b""
    return main + bytes((OVERLOAD, 1, (1 if file else 0) | (2 if sname else 0))) + tail, file, sname


def reply_head(ask: Packet, flags: int, ciaddr: int, yiaddr: int) -> bytes:
    """Render the fixed fields of the BOOTREPLY to ``ask``, cookie included: the hot path's half of ``encode``."""
    chaddr = ask.chaddr + ask.padding if ask.padding else ask.chaddr
    return _HEADER.pack(REPLY, ask.htype, ask.hlen, 0, ask.xid, 0, flags, ciaddr, yiaddr, 0, ask.giaddr, chaddr, COOKIE)


def overload(head: bytes, file: bytes, sname: bytes) -> bytes:
    """Put options into the fields ``file`` and ``sname`` of a rendered head (RFC 2131 §4.1)."""
    fields = [(_SNAME, sname), (_FILE, file)]
    out = bytearray(head)
    for (start, end), options in fields:
        if options:
            out[start:end] = (options + b"\xff").ljust(end - start, b"\0")
    return bytes(out)


def finish(options: bytes) -> bytes:
    """Close rendered options with END and pad the message to ``MINIMUM_SIZE``."""
    return (options + b"\xff").ljust(MINIMUM_SIZE - _OPTIONS, b"\0")


def _head(p: Packet) -> bytes:
    return _HEADER.pack(
        p.op,
        p.htype,
        p.hlen,
        p.hops,
        p.xid,
        p.secs,
        p.flags,
        p.ciaddr,
        p.yiaddr,
        p.siaddr,
        p.giaddr,
        p.chaddr + p.padding,
        COOKIE,
    )
