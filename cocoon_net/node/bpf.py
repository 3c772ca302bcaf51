"""The kernel's filter of a socket: a classic BPF program that says which datagrams are worth a wake-up (socket(7))."""

from __future__ import annotations

import socket
import struct

INSTRUCTION = struct.Struct("=HBBI")
"""struct sock_filter: code, where to when true, when false, operand."""

_SO_ATTACH_FILTER = 26


def attach(sock: socket.socket, program: bytes) -> None:
    """Give a socket its program, in place of the one it has. Raises OSError."""
    import ctypes

    # Must not be compiled: mypyc lets go of a local after its last use, here before the kernel has read it.
    code = ctypes.create_string_buffer(program, len(program))
    count = len(program) // INSTRUCTION.size
    # struct sock_fprog: count, pointer
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", count, ctypes.addressof(code)))
