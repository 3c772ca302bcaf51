"""Many datagrams in one system call: recvmmsg(2) and sendmmsg(2), which Python's socket module does not have.

Besides the calls that are saved, ``recvfrom`` and ``sendto`` of a packet socket ask the kernel for a link's name or
number each time, and each of them lets go of the interpreter, which a busy thread then keeps for a while.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from functools import lru_cache
from typing import Final

LARGEST: Final = 4096
"""Octets of a datagram; what is longer is cut."""

_HEADER: Final = struct.Struct("@PI4xPNPNi4xI4x")  # struct mmsghdr: a msghdr, and how many octets came
_VECTOR: Final = struct.Struct("@PN")  # struct iovec
_LINK: Final = struct.Struct("=HHiHBB8x")  # struct sockaddr_ll: family, protocol, index, hardware, packet type, length
_INET: Final = struct.Struct("!HI8x")  # struct sockaddr_in after its family: port, address
_NAME: Final = 32
"""Octets kept for each address, and given as its length: the kernel reads as many as the family has."""
_WORDS = _HEADER.size // 4
_LENGTH = _WORDS - 2
_INDEX = 1
"""Where a message's length and a link's index are, counted in words of four octets."""

_C: Final = ctypes.CDLL(None, use_errno=True)
_C.recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_C.sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


class _Messages:
    """Headers, vectors, addresses and octets of up to ``count`` datagrams, at addresses that do not change."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._kept = [
            ctypes.create_string_buffer(count * size) for size in (_HEADER.size, _VECTOR.size, _NAME, LARGEST)
        ]
        self.headers, self.vectors, self.names, self.data = map(ctypes.addressof, self._kept)
        self.view_of_headers, self.view_of_vectors, self.view_of_names, self.view_of_data = (
            memoryview(one).cast("B") for one in self._kept
        )
        for at in range(count):
            header = (self.names + at * _NAME, _NAME, self.vectors + at * _VECTOR.size, 1, 0, 0, 0, 0)
            _HEADER.pack_into(self.view_of_headers, at * _HEADER.size, *header)
            _VECTOR.pack_into(self.view_of_vectors, at * _VECTOR.size, self.data + at * LARGEST, LARGEST)


class Receiver:
    """Takes up to ``count`` datagrams at once from a packet socket."""

    def __init__(self, sock: socket.socket, count: int) -> None:
        self._descriptor = sock.fileno()
        self._messages = _Messages(count)
        self._words = self._messages.view_of_headers.cast("I")
        self._links = self._messages.view_of_names.cast("i")

    def take(self) -> list[tuple[bytes, int]]:
        """Return what has come, each with the index of its link; waits for nothing. Raises OSError."""
        messages = self._messages
        found = _C.recvmmsg(self._descriptor, messages.headers, messages.count, socket.MSG_DONTWAIT, None)
        if found < 0:
            code = ctypes.get_errno()
            if code in (errno.EAGAIN, errno.EINTR):
                return []
            raise OSError(code, os.strerror(code))
        data, at = messages.view_of_data, 0
        out = []
        for length, index in zip(
            self._words[_LENGTH : found * _WORDS : _WORDS].tolist(),
            self._links[_INDEX : found * (_NAME // 4) : _NAME // 4].tolist(),
            strict=True,
        ):
            out.append((data[at : at + length].tobytes(), index))
            at += LARGEST
        return out


class Sender:
    """Gathers datagrams for a socket and hands them to the kernel, ``count`` at once."""

    def __init__(self, sock: socket.socket, count: int) -> None:
        self._descriptor = sock.fileno()
        self._messages = _Messages(count)
        self._sizes = self._messages.view_of_vectors.cast("L")
        """Of each vector the pointer, which stays, and the length; an unsigned long is as wide as both."""
        self._gathered = 0
        self._marks = [0] * count
        self.refused: list[int] = []
        """The marks of the datagrams that the kernel would not take; whoever reads it clears it."""

    def put(self, data: bytes, address: bytes, mark: int = 0) -> None:
        """Gather one datagram for a packed address (``link``, ``inet``); what is full is sent at once."""
        messages, number, size = self._messages, self._gathered, len(data)
        if size > LARGEST:
            self.refused.append(mark)
            return
        self._marks[number] = mark
        at, name = number * LARGEST, number * _NAME
        messages.view_of_data[at : at + size] = data
        messages.view_of_names[name : name + len(address)] = address
        self._sizes[2 * number + 1] = size
        self._gathered = number + 1
        if self._gathered == messages.count:
            self.flush()

    def flush(self) -> None:
        """Send what was gathered; one that is refused does not keep the others back."""
        first, end, messages = 0, self._gathered, self._messages
        self._gathered = 0
        while first < end:
            at = messages.headers + first * _HEADER.size
            sent = _C.sendmmsg(self._descriptor, at, end - first, socket.MSG_DONTWAIT)
            if sent < 0 and ctypes.get_errno() != errno.EINTR:
                self.refused.append(self._marks[first])
                sent = 1
            first += max(sent, 0)


_FAMILY: Final = struct.pack("@H", socket.AF_INET)


@lru_cache(maxsize=256)
def link(index: int, protocol: int) -> bytes:
    """Return the address of a link for a packet socket (packet(7))."""
    return _LINK.pack(socket.AF_PACKET, socket.htons(protocol), index, 0, 0, 0)


@lru_cache(maxsize=256)
def inet(address: int, port: int) -> bytes:
    """Return an IPv4 address and a port (ip(7))."""
    return _FAMILY + _INET.pack(port, address)
