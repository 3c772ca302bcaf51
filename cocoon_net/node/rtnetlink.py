"""The framing of netlink messages by hand (netlink(7)), for the paths where pyroute2 is too slow or too large."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
SOL_NETLINK = 270

_TYPE = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


class Message(NamedTuple):
    """One message of a datagram; ``port`` is the socket of whoever asked for what it tells, 0 is the kernel itself."""

    kind: int
    flags: int
    sequence: int
    port: int
    body: memoryview


def messages(data: bytes) -> Iterator[Message]:
    """Split a datagram of the kernel; what is cut short ends it."""
    view, at, size = memoryview(data), 0, HEADER.size
    while at + size <= len(data):
        length, kind, flags, sequence, port = HEADER.unpack_from(data, at)
        if length < size:
            return
        yield Message(kind, flags, sequence, port, view[at + size : at + length])
        at += length + 3 & ~3


def attributes(body: memoryview, at: int) -> Iterator[tuple[int, bytes]]:
    """Split the attributes of a message that begin at ``at`` into (type, value)."""
    while at + ATTRIBUTE.size <= len(body):
        length, kind = ATTRIBUTE.unpack_from(body, at)
        if length < ATTRIBUTE.size:
            return
        yield kind & _TYPE, bytes(body[at + ATTRIBUTE.size : at + length])
        at += length + 3 & ~3
