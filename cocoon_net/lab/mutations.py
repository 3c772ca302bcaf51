"""DHCP datagrams that nobody would write: good ones, changed here and there, by a seeded generator.

What is good is kept to the letter (a cookie, a type, lengths that fit), so that most changes get past the first look;
what is changed is what parsers get wrong: lengths, repeated and split options, overload, the edges of fields.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network

from cocoon_net.dhcp import wire
from cocoon_net.dhcp.options import ASKED, MessageType
from cocoon_net.dhcp.wire import Packet

NETWORK = IPv4Network("172.20.100.0/24")
SERVER, FIRST = int(NETWORK[1]), int(NETWORK[10])
PORTS = {"tap1": 11, "tap2": 12, "tap3": 13}
SIZE = 20
"""Addresses in the pool, from ``FIRST``."""

_HEAD = 240
_EDGES = (0, 1, 2, 3, 4, 5, 6, 16, 17, 53, 61, 82, 127, 128, 254, 255)
_ADDRESSES = tuple(
    int(one)
    for one in (
        *(NETWORK[n] for n in (0, 1, 2, 10, 11, 12, 29, 30, 200, 255)),
        *map(IPv4Address, ("0.0.0.0", "255.255.255.255", "10.0.0.9", "224.0.0.1")),
    )
)
_FIELDS = (
    (0, 1),
    (1, 1),
    (2, 1),
    (3, 1),
    (4, 4),
    (8, 2),
    (10, 2),
    (12, 4),
    (16, 4),
    (20, 4),
    (24, 4),
    (28, 6),
    (34, 10),
)
"""Offset and octets of each fixed field before ``sname``."""
_TOLD = (12, 43, 50, 51, 52, 53, 54, 55, 56, 57, 58, 60, 61, 77, 80, 81, 82, 93, 116, 118, 121, 252)


class Mutations:
    """A stream of datagrams from ``seeds``; the same seed is the same stream. What ``keep`` is given is built upon."""

    def __init__(self, seeds: Sequence[bytes], seed: int) -> None:
        self._random = random.Random(seed)
        self._seeds = list(seeds)
        self._changes: tuple[Callable[[bytearray], None], ...] = (
            self._flip,
            self._field,
            self._edge,
            self._cut,
            self._insert,
            self._repeat,
            self._option,
            self._option,
            self._overload,
        )

    def keep(self, data: bytes) -> None:
        """Have later ones be built upon a datagram that did something new."""
        self._seeds.append(data)

    def next(self) -> bytes:
        """Return a datagram: one in three as a client would say it, the others changed one to five times."""
        choice = self._random
        data = bytearray(self._lawful() if choice.random() < 0.6 else choice.choice(self._seeds))
        if choice.random() < 0.67:
            for _ in range(choice.choice((1, 1, 1, 2, 3, 5))):
                choice.choice(self._changes)(data)
        return bytes(data[:2000])

    def port(self, data: bytes) -> str:
        """Return the port that it comes in by: mostly that of its client."""
        ports = (*PORTS,)
        return self._random.choice(ports) if self.chance(12) else ports[sum(data[28:34]) % len(ports)]

    def chance(self, of: int) -> bool:
        """Whether something that happens once in so many times happens now."""
        return not self._random.randrange(of)

    def seconds(self) -> int:
        """Return how long nothing is said now and then: mostly not at all."""
        return self._random.choice((0, 0, 0, 0, 1, 2, 5, 31, 61, 900, 3600))

    def frame(self, frame: bytes) -> bytes:
        """Change an octet of a frame around a datagram."""
        at = self._random.randrange(len(frame))
        return frame[:at] + bytes((self._random.randrange(256),)) + frame[at + 1 :]

    def _lawful(self) -> bytes:
        """Return what a client of few says, in whatever state."""
        choice = self._random
        kind = choice.choice((MessageType.DISCOVER, MessageType.REQUEST, MessageType.REQUEST, *ASKED))
        said: dict[int, bytes] = {53: bytes((kind,))}
        for code, value in (
            (50, self._address()),
            (54, choice.choice((SERVER, SERVER, SERVER, self._wild())).to_bytes(4)),
            (51, choice.choice((0, 1, 60, 600, 3600, 0xFFFF_FFFF)).to_bytes(4)),
            (55, bytes(choice.choices(range(256), k=choice.choice((0, 1, 8, 60, 255))))),
            (57, choice.choice((0, 300, 576, 700, 1500, 65535)).to_bytes(2)),
            (61, bytes(choice.choices(range(3), k=choice.choice((0, 1, 2, 7, 40, 255, 400))))),
            (12, bytes(choice.choices(range(256), k=choice.choice((0, 1, 9, 63, 255))))),
            (80, b""),
            (82, choice.choice((b"", b"\1\2ab", b"\5\4" + self._address(), b"\x0b\4" + self._address(), b"\5\xff"))),
            (118, self._address()),
        ):
            likely = {50: 0.7, 54: 0.5, 55: 0.5}.get(code, 0.15)
            if choice.random() < likely:
                said[code] = value
        mac = bytes((2, 0, 0, 0, 0, choice.randrange(1, 9)))
        return wire.encode(
            Packet(
                wire.REQUEST,
                choice.getrandbits(32),
                mac,
                said,
                flags=choice.choice((0, 0, wire.BROADCAST, 0x7FFF)),
                ciaddr=self._wild() if choice.random() < 0.4 else 0,
                giaddr=self._wild() if choice.random() < 0.15 else 0,
            )
        )

    def _wild(self) -> int:
        choice = self._random
        return FIRST + choice.randrange(SIZE) if choice.random() < 0.7 else choice.choice(_ADDRESSES)

    def _address(self) -> bytes:
        return self._wild().to_bytes(4)

    # Changes

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)

    def _edge(self, data: bytearray) -> None:
        if data:
            data[self._random.randrange(len(data))] = self._random.choice(_EDGES)

    def _field(self, data: bytearray) -> None:
        at, size = self._random.choice(_FIELDS)
        edges = bytes(self._random.choice(_EDGES) for _ in range(size))
        data[at : at + size] = self._address() if size == 4 and at != 4 else edges

    def _cut(self, data: bytearray) -> None:
        del data[self._random.randrange(len(data) + 1) :]

    def _insert(self, data: bytearray) -> None:
        at = self._random.randrange(min(_HEAD, len(data)), len(data) + 1)
        data[at:at] = self._random.randbytes(self._random.choice((1, 2, 4, 16)))

    def _repeat(self, data: bytearray) -> None:
        if len(data) > _HEAD:
            at = self._random.randrange(_HEAD, len(data))
            piece = data[at : at + self._random.choice((3, 6, 9, 40))]
            data[_HEAD:_HEAD] = piece

    def _option(self, data: bytearray) -> None:
        size = self._random.choice((0, 1, 2, 3, 4, 4, 4, 5, 8, 255))
        value = self._address() if size == 4 else self._random.randbytes(size)
        data[_HEAD:_HEAD] = bytes((self._random.choice(_TOLD), size)) + value

    def _overload(self, data: bytearray) -> None:
        if len(data) <= _HEAD:
            return
        data[_HEAD:_HEAD] = bytes((52, 1, self._random.choice((0, 1, 2, 3, 3, 4))))
        for start, end in ((44, 108), (108, 236)):
            inside = bytearray()
            while len(inside) < end - start and self._random.random() < 0.8:
                self._option_into(inside)
            data[start:end] = (inside + b"\xff").ljust(end - start, b"\0")[: end - start]

    def _option_into(self, out: bytearray) -> None:
        size = self._random.choice((0, 1, 4, 9, 30))
        out += bytes((self._random.choice(_TOLD), size)) + self._random.randbytes(size)
