"""Ethernet frames with one DHCP datagram in them: the kernel's filter, unwrapping, wrapping (RFC 791, 768, 1071).

A packet socket sees a guest's frame with the name of the bridge port it came in by, before the bridge takes it; that
is how we know who speaks. The filter runs in the kernel for every frame of the namespace, so it says no early, and to
everything that a UDP socket on the bridge would not have got: other hosts' frames, fragments, other addresses.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from cocoon_net.node.bpf import (
    ANY_BIT,
    AT_LEAST,
    EQUAL,
    LOAD_BYTE,
    LOAD_HALF,
    LOAD_HEADER_LENGTH,
    LOAD_INDEXED_HALF,
    LOAD_WORD,
    RETURN,
    assemble,
)

CLIENT_PORT: Final = 68
SERVER_PORT: Final = 67
EVERYBODY: Final = b"\xff" * 6

_HEAD: Final = struct.Struct("!6s6s4sH6sHII 4sHH")  # Ethernet, IPv4 without options, UDP
_BEGIN: Final = bytes.fromhex("0800 45 10")  # IPv4 in Ethernet; version and length, low delay (RFC 791 §3.1)
_TTL: Final = bytes.fromhex("0000 0000 40 11")  # no identification, no fragment; 64 hops, UDP
_PORTS: Final = struct.pack("!HH", SERVER_PORT, CLIENT_PORT)
_UDP: Final = struct.Struct("!HHHH")
_ETHERNET: Final = 14
_MOD: Final = 0xFFFF
_SNAME: Final = 44
_OPTIONS: Final = 236
_UNFILLED: Final = bytes(_OPTIONS - _SNAME)
"""Where a message has the fields ``sname`` and ``file``, and what stands there if nobody fills them (RFC 2131 §2)."""

_KERNEL = 0xFFFFF000  # SKF_AD_OFF, linux/filter.h
_LINK_INDEX, _TAGGED = _KERNEL + 8, _KERNEL + 48  # SKF_AD_IFINDEX, SKF_AD_VLAN_TAG_PRESENT


def kernel_filter(
    bridge_index: int, bridge_mac: bytes, server: int, everybody: Sequence[int], muted: Sequence[int] = ()
) -> bytes:
    """Assemble the classic BPF program: DHCP requests for us, as the ports of the bridge see them.

    ``server`` is our address, ``everybody`` are those of all hosts (RFC 1122 §3.3.6); a frame from one of them, or from
    anything else that is no host's address, is dropped; from 0.0.0.0 come those who have none yet.

    The bridge shows each frame a second time as its own; that one is dropped, and so is what comes by the ``muted``
    ports (indexes, at most a hundred: a jump is an octet). Returns struct sock_filter[].
    """
    program: list[tuple[int, int, str, str] | str] = [  # (code, k, where to when true, when false); or a label
        (LOAD_HALF, 12, "", ""),
        (EQUAL, 0x0800, "", "drop"),  # IPv4
        (LOAD_BYTE, 23, "", ""),
        (EQUAL, 17, "", "drop"),  # UDP
        (LOAD_HALF, 20, "", ""),
        (ANY_BIT, 0x3FFF, "drop", ""),  # a fragment
        (LOAD_HEADER_LENGTH, _ETHERNET, "", ""),
        (LOAD_INDEXED_HALF, _ETHERNET + 2, "", ""),
        (EQUAL, SERVER_PORT, "", "drop"),
        (LOAD_WORD, _LINK_INDEX, "", ""),
        (EQUAL, bridge_index, "drop", ""),
        *((EQUAL, index, "drop", "") for index in muted),
        (LOAD_WORD, _TAGGED, "", ""),
        (EQUAL, 0, "", "drop"),
        (LOAD_BYTE, 26, "", ""),  # from which address: loopback, a group's, reserved (RFC 1122 §3.2.1.3)
        (EQUAL, 127, "drop", ""),
        (AT_LEAST, 224, "drop", ""),
        (LOAD_WORD, 26, "", ""),
        *((EQUAL, address, "drop", "") for address in (server, *everybody) if address),
        (LOAD_WORD, 30, "", ""),  # to which address
        *((EQUAL, address, "mac", "") for address in everybody),
        (EQUAL, server, "", "drop"),
        "mac",
        (LOAD_WORD, 0, "", ""),
        (EQUAL, 0xFFFFFFFF, "rest of everybody", ""),
        (EQUAL, int.from_bytes(bridge_mac[:4]), "", "drop"),
        (LOAD_HALF, 4, "", ""),
        (EQUAL, int.from_bytes(bridge_mac[4:]), "accept", "drop"),
        "rest of everybody",
        (LOAD_HALF, 4, "", ""),
        (EQUAL, 0xFFFF, "accept", "drop"),
        "accept",
        (RETURN, 0xFFFF, "", ""),
        "drop",
        (RETURN, 0, "", ""),
    ]
    return assemble(program)


def silence() -> bytes:
    """Assemble the program that drops everything: for a socket that claims a port and only sends."""
    return assemble([(RETURN, 0, "", "")])


def unwrap(frame: bytes) -> bytes | None:
    """Return the UDP payload of a frame that passed the filter; None when its lengths or its checksum are wrong.

    Between a guest's virtio or veth and us nobody has filled in the UDP checksum yet: the field then holds the sum of
    the pseudo header alone (CHECKSUM_PARTIAL), which is as good as right, for no wire was in between.
    """
    size = len(frame)
    if size < _ETHERNET + 28:
        return None
    header = (frame[_ETHERNET] & 0x0F) * 4
    start = _ETHERNET + header
    total = int.from_bytes(frame[16:18])
    if frame[_ETHERNET] >> 4 != 4 or header < 20 or total < header + 8 or _ETHERNET + total > size:
        return None
    if int.from_bytes(frame[_ETHERNET : _ETHERNET + header]) % _MOD:  # a sum of all its words is 0xFFFF (RFC 791 §3.1)
        return None
    origin, target, length, checksum = _UDP.unpack_from(frame, start)
    if length < 8 or header + length > total:
        return None
    payload = frame[start + 8 : start + length]
    if checksum:
        pseudo = int.from_bytes(frame[26:34]) + 17 + length
        local = checksum % _MOD == pseudo % _MOD
        if not local and (_sum(payload) + origin + target + length + checksum + pseudo) % _MOD:
            return None
    return payload


def source(frame: bytes) -> int:
    """Return the IP address that a frame which could be unwrapped came from."""
    return int.from_bytes(frame[26:30])


def wrap(payload: bytes, source_mac: bytes, target_mac: bytes, source: int, target: int) -> bytes:
    """Put a reply into UDP 67 -> 68, IPv4 and Ethernet, both checksums valid.

    One's complement addition is arithmetic modulo 65535, so one big division sums a datagram, and an address counts
    like its two halves (RFC 1071 §2).
    """
    length = len(payload) + 8
    addresses = source + target
    ip = _MOD - (0x4510 + 0x4011 + length + 20 + addresses) % _MOD
    udp = _MOD - (SERVER_PORT + CLIENT_PORT + length + _sum(payload) + addresses + 17 + length) % _MOD
    head = _HEAD.pack(target_mac, source_mac, _BEGIN, length + 20, _TTL, ip, source, target, _PORTS, length, udp)
    return head + payload


def _sum(payload: bytes) -> int:
    """Sum the words of a message; ``sname`` and ``file``, most of its length, mostly are zeros and add nothing."""
    if payload[_SNAME:_OPTIONS] == _UNFILLED:
        payload = payload[:_SNAME] + payload[_OPTIONS:]
    value = int.from_bytes(payload)
    return (value << 8 if len(payload) & 1 else value) % _MOD


_LAST: Final = tuple(map(str, range(256)))


def dotted(address: int) -> str:
    """Return an address as people write it."""
    return _network(address >> 8) + _LAST[address & 0xFF]


@lru_cache(maxsize=1024)
def _network(octets: int) -> str:
    """Return the first three octets, with their dots: a pool has few of them, and a storm a thousand addresses."""
    return f"{octets >> 16}.{octets >> 8 & 0xFF}.{octets & 0xFF}."
