"""The /32 routes of leases, many in one system call: rtnetlink by hand (rtnetlink(7), linux/rtnetlink.h).

A route costs 466 us through pyroute2 and an import of 127 ms; here a message is a template of 44 bytes in which only
the address and the sequence number change, and up to 1,000 of them go to the kernel in one send. The kernel works
through all of them before the send returns, whatever becomes of each. It answers a message that failed, and one that
asks for an answer: only the last of a batch does, so silence about the others means success.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from functools import partial
from types import TracebackType

from cocoon_net.errors import NodeTransient
from cocoon_net.node.netlink import failure
from cocoon_net.node.rtnetlink import (
    ACK,
    ATTRIBUTE,
    HEADER,
    REQUEST,
    SOL_NETLINK,
    ask,
    connect,
    refused,
)
from cocoon_net.records import ROUTE_PROTOCOL

BATCH = 1000
"""Messages per send: 44 KB of the 208 KB that a socket may send by default."""

RECEIVE_BUFFER = 4 << 20
"""Bytes for answers: enough when every message of a batch fails, at about 1 KB of kernel memory for each."""

PORTS: set[int] = set()
"""The kernel's numbers of the sockets of this process that change routes: its notices carry them (rtnetlink(7))."""

_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_WORD = struct.Struct("=I")
_ADDRESS = struct.Struct(">I")

_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_REPLACE, _CREATE = 0x100, 0x400
_RTA_DST, _RTA_OIF = 1, 4
_TABLE_MAIN, _SCOPE_LINK, _UNICAST = 254, 253, 1
_CAP_ACK = 10
_SO_RCVBUFFORCE = 33

_SIZE = HEADER.size + _ROUTE.size + 2 * (ATTRIBUTE.size + 4)
_SEQUENCE_AT, _FLAGS_AT = 8, 6
_DESTINATION_AT = HEADER.size + _ROUTE.size + ATTRIBUTE.size


class RouteWire:
    """The /32 routes of one link, in batches. Not for several threads at once.

    Addresses are integers in host order, as ``int(IPv4Address)`` gives them. A link that is made anew has another
    index: routes of the old one are gone with it, and a RouteWire for it answers ENODEV.
    """

    def __init__(self, link_index: int, protocol: int = ROUTE_PROTOCOL) -> None:
        """Open a socket in the caller's network namespace. Raises Refused, NodeError."""
        if link_index <= 0:
            raise ValueError(f"{link_index} is not the index of a link")
        self._link_index = link_index
        self._protocol = protocol
        self._put = _template(_RTM_NEWROUTE, REQUEST | _CREATE | _REPLACE, protocol, link_index)
        self._drop = _template(_RTM_DELROUTE, REQUEST, protocol, link_index)
        self._sequence = 0
        self._socket = _open()

    def change(self, present: Sequence[int], absent: Sequence[int]) -> dict[int, int]:
        """Delete the routes of ``absent``, then have those of ``present``; returns the failures: address -> errno.

        A route of somebody else to the same address is replaced, never deleted: deletions match our protocol number.
        A route that is there already, or already gone, is no failure. Raises NodeTransient when the kernel lost count
        or does not answer: nothing is known then, and asking again is safe.
        """
        failures: dict[int, int] = {}
        for template, addresses in ((self._drop, absent), (self._put, present)):
            start, size = 0, BATCH
            while start < len(addresses):
                batch = addresses[start : start + size]
                refused = self._send(template, batch)
                if refused is None:  # answers were lost for lack of memory: asking again is safe, for fewer at a time
                    if size == 1:
                        message = "cannot change routes: the kernel has no memory for its answers"
                        raise NodeTransient(message, hint="`free -m` shows what is left; it is tried again")
                    size = max(1, len(batch) // 4)
                    continue
                failures.update(refused)
                start += len(batch)
        return failures

    def present(self) -> set[int]:
        """Return the addresses that have a /32 route of our protocol on this link."""
        return {address for address, index in routes(self._protocol, self._link_index) if index == self._link_index}

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> RouteWire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, template: bytes, batch: Sequence[int]) -> dict[int, int] | None:
        """Send one batch and read its answers; None when some were lost."""
        first = self._sequence + 1
        self._sequence += len(batch)
        if self._sequence > 0x7FFFFFFF:
            first, self._sequence = 1, len(batch)
        buffer = bytearray(template * len(batch))
        put_word, put_address = _WORD.pack_into, _ADDRESS.pack_into
        sequence_at, destination_at, sequence = _SEQUENCE_AT, _DESTINATION_AT, first
        for address in batch:
            put_word(buffer, sequence_at, sequence)
            put_address(buffer, destination_at, address)
            sequence += 1
            sequence_at += _SIZE
            destination_at += _SIZE
        flags_at = len(buffer) - _SIZE + _FLAGS_AT
        buffer[flags_at] |= ACK
        try:
            self._socket.send(buffer)
            return self._answers(batch, first, template is self._drop)
        except OSError as error:
            self._reopen()  # whatever is still queued belongs to nobody
            if error.errno in (errno.ENOBUFS, errno.EMSGSIZE):
                return None
            raise failure(error, f"change {len(batch)} routes") from error

    def _answers(self, batch: Sequence[int], first: int, deleting: bool) -> dict[int, int]:
        """Read until the last message of the batch is answered; to delete what is not there is no failure."""
        return {
            batch[sequence - first]: code
            for sequence, code in refused(self._socket, first, first + len(batch) - 1).items()
            if not (deleting and code == errno.ESRCH)
        }

    def _reopen(self) -> None:
        self._socket.close()
        self._socket = _open()


def routes(protocol: int = ROUTE_PROTOCOL, link_index: int = 0) -> list[tuple[int, int]]:
    """Return (address, link index) of every /32 of ``protocol`` in the main table; the kernel does the filtering.

    ``link_index`` narrows it to one link. Raises NodeTransient when the table does not hold still.
    """
    link = ATTRIBUTE.pack(8, _RTA_OIF) + _WORD.pack(link_index) if link_index else b""
    request = _ROUTE.pack(socket.AF_INET, 0, 0, 0, _TABLE_MAIN, protocol, 0, 0, 0) + link
    try:
        return ask(_RTM_GETROUTE, request, partial(_route, protocol))
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENOENT):  # no such link or table: no routes
            return []
        raise failure(error, "list our routes") from error


def _route(protocol: int, body: memoryview) -> tuple[int, int] | None:
    _, length, _, _, table, number, _, kind, _ = _ROUTE.unpack_from(body)
    if (length, table, number, kind) != (32, _TABLE_MAIN, protocol, _UNICAST):
        return None
    address = index = 0
    at = _ROUTE.size
    while at + 4 <= len(body):
        size, what = ATTRIBUTE.unpack_from(body, at)
        if what == _RTA_DST:
            address = _ADDRESS.unpack_from(body, at + 4)[0]
        elif what == _RTA_OIF:
            index = _WORD.unpack_from(body, at + 4)[0]
        at += max(4, size + 3 & ~3)
    return address, index


def _template(kind: int, flags: int, protocol: int, link_index: int) -> bytes:
    return (
        HEADER.pack(_SIZE, kind, flags, 0, 0)
        + _ROUTE.pack(socket.AF_INET, 32, 0, 0, _TABLE_MAIN, protocol, _SCOPE_LINK, _UNICAST, 0)
        + ATTRIBUTE.pack(8, _RTA_DST)
        + bytes(4)
        + ATTRIBUTE.pack(8, _RTA_OIF)
        + _WORD.pack(link_index)
    )


def _open() -> socket.socket:
    try:
        sock = connect()
    except OSError as error:
        raise failure(error, "open a netlink socket") from error
    PORTS.add(sock.getsockname()[0])
    sock.setsockopt(SOL_NETLINK, _CAP_ACK, 1)  # an error need not bring the message back
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return sock
