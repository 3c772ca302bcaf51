"""The kernel's filter of a socket: a classic BPF program that says which datagrams are worth a wake-up (socket(7))."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

LOAD_WORD, LOAD_HALF, LOAD_BYTE, LOAD_INDEXED_HALF = 0x20, 0x28, 0x30, 0x48
LOAD_HEADER_LENGTH, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0xB1, 0x15, 0x35, 0x45, 0x06
"""Codes of linux/bpf_common.h, with their operand from the packet (BPF_ABS, BPF_IND, BPF_MSH) or constant (BPF_K)."""

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, where to when true, when false, operand
_SO_ATTACH_FILTER = 26


def assemble(program: Iterable[tuple[int, int, str, str] | str]) -> bytes:
    """Return struct sock_filter[]; a line is a code, its operand, and the labels to go on at when true and when false.

    An empty label is the next line, a string alone is a label. Pure.
    """
    labels: dict[str, int] = {}
    instructions: list[tuple[int, int, str, str]] = []
    for line in program:
        if isinstance(line, str):
            labels[line] = len(instructions)
        else:
            instructions.append(line)
    return b"".join(
        _INSTRUCTION.pack(code, *(labels[where] - at - 1 if where else 0 for where in (true, false)), operand)
        for at, (code, operand, true, false) in enumerate(instructions)
    )


def attach(sock: socket.socket, program: bytes) -> None:
    """Give a socket its program, in place of the one it has. Raises OSError."""
    import ctypes

    # Must not be compiled: mypyc lets go of a local after its last use, here before the kernel has read it.
    code = ctypes.create_string_buffer(program, len(program))
    count = len(program) // _INSTRUCTION.size
    # struct sock_fprog: count, pointer
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", count, ctypes.addressof(code)))
