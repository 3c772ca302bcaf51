"""Netlink messages by hand (netlink(7)), for where pyroute2 is too slow or too large, and what has to be done whole.

A link costs pyroute2 a fifth of a millisecond and 23 KB in cycles that wait for the collector, each time it is listed.
Messages that go to the kernel in one send are all worked through before it returns, also if the sender is killed then.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
ERRNO = struct.Struct("=i")
"""What NLMSG_ERROR begins with: an errno, negative, or 0 for "done as asked"."""
SOL_NETLINK = 270

ERROR, DONE = 2, 3
"""Types of message: NLMSG_ERROR, NLMSG_DONE; all others are rtnetlink's."""
REQUEST, ACK = 0x1, 0x4
"""Flags of a request: NLM_F_REQUEST, NLM_F_ACK."""

ANSWER_WITHIN = 5
"""Seconds that the kernel is given for one answer; it takes microseconds unless something holds the rtnl lock."""

READINGS = 5
"""How often a listing is started again that changed while it was read."""

_DUMP, _INTERRUPTED = 0x300, 0x10
_STRICT_CHECK = 12
_T = TypeVar("_T")
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


def attributes(body: bytes | memoryview, at: int) -> dict[int, bytes]:
    """Return the attributes of a message that begin at ``at``: type -> value."""
    found: dict[int, bytes] = {}
    data, size, unpack = bytes(body), ATTRIBUTE.size, ATTRIBUTE.unpack_from
    last = len(data) - size
    while at <= last:
        length, kind = unpack(data, at)
        if length < size:
            break
        found[kind & _TYPE] = data[at + size : at + length]
        at += length + 3 & ~3
    return found


def connect() -> socket.socket:
    """Open a socket to the kernel of the caller's network namespace, which is waited for no longer than is sensible.

    Its ``recv`` raises BlockingIOError then. Raises OSError.
    """
    one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        one.bind((0, 0))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", ANSWER_WITHIN, 0))
    except BaseException:
        one.close()
        raise
    return one


def ask(
    kind: int, body: bytes, read: Callable[[memoryview], _T | None], *, listing: bool = True, moving: bool = False
) -> list[_T]:
    """Return what ``read`` makes of each answer to a request (RTM_GET...), but None; in the caller's network namespace.

    ``body`` is the fixed part and the attributes. The kernel filters by it where it can (NETLINK_GET_STRICT_CHK), so
    ``read`` has to leave out what does not fit all the same. A listing that changed while it was read is read again;
    ``moving`` takes it as it is, for who hears of each change as well. Raises OSError with the kernel's errno: EAGAIN
    when it does not answer, EINTR for a listing that changed during each reading.
    """
    with connect() as one:
        with contextlib.suppress(OSError):  # before Linux 4.20
            one.setsockopt(SOL_NETLINK, _STRICT_CHECK, 1)
        for sequence in range(1, READINGS + 1):
            flags = REQUEST | (_DUMP if listing else ACK)
            one.send(HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body)
            found, whole = _answers(one, kind, sequence, read)
            if whole or moving:
                return found
    raise OSError(errno.EINTR, f"it changed during each of {READINGS} readings")


def change(kind: int, bodies: Sequence[bytes]) -> dict[int, int]:
    """Ask for several changes in one send; returns those that the kernel refused: place in ``bodies`` -> errno.

    ``bodies`` are multiples of four octets long. Raises OSError: EAGAIN when it does not answer, ENOBUFS when it
    refused more than it had room to tell.
    """
    if not bodies:
        return {}
    with connect() as one:
        flags = [REQUEST] * (len(bodies) - 1) + [REQUEST | ACK]  # silence about the others means success
        one.send(
            b"".join(
                HEADER.pack(HEADER.size + len(body), kind, flag, place, 0) + body
                for place, (flag, body) in enumerate(zip(flags, bodies, strict=True))
            )
        )
        return refused(one, 0, len(bodies) - 1)


def refused(one: socket.socket, first: int, last: int) -> dict[int, int]:
    """Read what became of requests up to ``last``, which asked for an answer: sequence number -> errno of failures."""
    failures: dict[int, int] = {}
    while True:
        for kind, _, sequence, _, body in messages(one.recv(1 << 16)):
            if kind != ERROR or not first <= sequence <= last:
                continue
            if code := -ERRNO.unpack_from(body)[0]:
                failures[sequence] = code
            if sequence == last:
                return failures


def _answers(
    one: socket.socket, asked: int, sequence: int, read: Callable[[memoryview], _T | None]
) -> tuple[list[_T], bool]:
    """Read the answers to one request to their end; returns also whether no change interrupted it."""
    found: list[_T] = []
    whole = True
    while True:
        for kind, flags, number, _, body in messages(one.recv(1 << 17)):
            if number != sequence:
                continue
            whole = whole and not flags & _INTERRUPTED
            if kind in (DONE, ERROR):
                code = -ERRNO.unpack_from(body)[0] if len(body) >= ERRNO.size else 0
                if code:
                    raise OSError(code, "")
                return found, whole
            if kind == asked - 2 and (answer := read(body)) is not None:  # RTM_NEW... answers RTM_GET...
                found.append(answer)
