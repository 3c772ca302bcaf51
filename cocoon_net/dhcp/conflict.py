"""Whether somebody uses an address that nobody was leased: an ARP probe before it is first offered (RFC 5227 §2.1.1).

Off by default: each first offer waits for an answer that should never come. The loop never waits: the offer is held,
other packets go on, and it is spoken when the time is up.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import NamedTuple

from cocoon_net.dhcp import frame
from cocoon_net.dhcp.decision import Decision
from cocoon_net.dhcp.wire import Packet

WAIT = 0.3
"""Seconds that somebody has to answer; a guest on the same bridge takes a millisecond."""

TRUSTED_FOR = 300.0
"""Seconds in which an address that nobody answered for is not asked about again."""

MOST = 4_096
"""Offers held at once, and addresses remembered; beyond them, offers are spoken at once."""

_ARP = 0x0806
_MESSAGE = struct.Struct("!6s6sHHHBBH6sI6sI")  # Ethernet, then RFC 826: types, sizes, operation, sender, target
_ASK, _ANSWER = 1, 2


class Held(NamedTuple):
    """An offer that waits."""

    until: float
    decision: Decision
    packet: Packet


class Conflict(NamedTuple):
    """Somebody answered for an address that was about to be offered."""

    address: int
    mac: bytes
    held: Held


class Conflicts:
    """The probes under way on the bridge with ``index`` and ``mac``. Raises OSError when there can be no socket."""

    def __init__(self, index: int, mac: bytes) -> None:
        self._mac = mac
        self._held: dict[int, Held] = {}
        self._silent: dict[int, float] = {}
        self.socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.htons(_ARP)
        )
        try:
            self.socket.bind((socket.if_indextoname(index), _ARP))
        except BaseException:
            self.socket.close()
            raise

    def hold(self, decision: Decision, packet: Packet, time: float) -> bool:
        """Ask about the address of an offer and hold it; False when it may be spoken at once."""
        address = decision.address
        before = self._held.get(address)
        if before is not None and before.packet.hardware == packet.hardware:  # it asked again; the probe is under way
            self._held[address] = Held(before.until, decision, packet)
            return True
        if self._silent.get(address, 0.0) > time or len(self._held) >= MOST:
            return False
        ask = _MESSAGE.pack(
            *(frame.EVERYBODY, self._mac, _ARP, 1, 0x0800, 6, 4, _ASK),
            *(self._mac, 0, bytes(6), address),  # from no address, so that nobody learns one
        )
        try:
            self.socket.send(ask)
        except OSError:
            return False
        self._held[address] = Held(time + WAIT, decision, packet)
        return True

    def hear(self) -> list[Conflict]:
        """Read what was answered; a client that answers for itself is no conflict."""
        found: list[Conflict] = []
        with contextlib.suppress(BlockingIOError, OSError):
            while True:
                data = self.socket.recv(128)
                if len(data) < _MESSAGE.size:
                    continue
                *_, operation, mac, sender, _, _ = _MESSAGE.unpack_from(data)
                held = self._held.get(sender)
                if operation != _ANSWER or held is None or mac == held.packet.chaddr:
                    continue
                del self._held[sender]
                found.append(Conflict(sender, mac, held))
        return found

    def due(self, time: float) -> list[Held]:
        """Take the offers that nobody answered for in time."""
        out: list[Held] = []
        for address, held in list(self._held.items()):  # in the order of their time, for all wait as long
            if held.until > time:
                break
            del self._held[address]
            if len(self._silent) >= MOST:
                self._silent = {one: until for one, until in self._silent.items() if until > time}
            if len(self._silent) < MOST:
                self._silent[address] = time + TRUSTED_FOR
            out.append(held)
        return out

    def next(self) -> float | None:
        """Return when the first offer is due, None when none is held."""
        return next((held.until for held in self._held.values()), None)

    def close(self) -> None:
        """Forget what is held: its clients ask again."""
        self.socket.close()
        self._held.clear()
