"""Load for a DHCP server: many clients in one process behind one port of the bridge, by raw frames.

Used by the benchmark, by the test that kills the server under load, and by floods. Runs in the namespace of the
clients, and costs as little as it can: it shares the machine with what it measures.
"""

from __future__ import annotations

import itertools
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cocoon_net.dhcp import wire
from cocoon_net.dhcp.frame import EVERYBODY
from cocoon_net.dhcp.options import Code, MessageType

PARAMETERS = bytes((1, 3, 6, 12, 15, 26, 28, 51, 54, 58, 59))
"""The parameter request list of a common client."""

SERVER = 0xAC140001
"""172.20.0.1, the server of a benchmark."""

_RECEIVE_BUFFER = 33  # SO_RCVBUFFORCE
_HEADERS = 42
_RETRY = 0.5
_PATIENCE = 120.0
_CLIENT = 0xFFFFFF
"""The part of a transaction's number that names the client; the rest counts its exchanges."""
_RENEWING = 8


class Heard(NamedTuple):
    """An ACK that a client has seen."""

    mac: str
    address: int
    seconds: int
    """The lease time that it promised."""
    asked: float
    """When the first REQUEST of the exchange went out, in Unix seconds: the ACK may be the answer to it, however late.

    The lease runs from there (RFC 2131 §4.4.1)."""
    at: float
    """When the ACK came in. Some clients count from here."""


class Report(NamedTuple):
    """How a round of exchanges went."""

    leases: int
    seconds: float
    times: list[float]
    """Of each exchange, sorted."""
    again: int
    """Messages that had to be sent again."""


class Clients:
    """``count`` clients on ``link``; their addresses survive between rounds.

    ``seconds`` is the lease time that they ask for, ``heard`` is called with each ACK that they see. ``first`` keeps
    the clients of several apart; below 2**24.
    """

    def __init__(
        self,
        count: int,
        link: str = "eth0",
        *,
        server: int = SERVER,
        first: int = 0,
        seconds: int = 0,
        heard: Callable[[Heard], None] | None = None,
    ) -> None:
        self.addresses = [0] * count
        self._server = server.to_bytes(4)
        self._first = first
        self._round = 0
        self._wish = {int(Code.LEASE_TIME): seconds.to_bytes(4)} if seconds else {}
        self._heard = heard
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self._socket.bind((link, 0x0800))
        self._socket.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER, 8 << 20)
        self._socket.settimeout(0.05)

    def mac(self, index: int) -> bytes:
        """Return the MAC of a client."""
        return b"\x02\x10" + (self._first + index).to_bytes(4)

    def run(self, window: int, patience: float = _PATIENCE, retry: float = _RETRY) -> Report:
        """Run one exchange for each client, ``window`` of them at once: DISCOVER to ACK, or a REBINDING to its ACK."""
        count, sock = len(self.addresses), self._socket
        self._round = self._round + 1 & 0xFF
        begun = [0.0] * count
        times: list[float] = []
        next_one = again = 0
        under_way: dict[int, float] = {}
        asked: dict[int, float] = {}
        start = time.perf_counter()
        while len(times) < count and time.perf_counter() - start < patience:
            while next_one < count and len(under_way) < window:
                begun[next_one] = under_way[next_one] = time.perf_counter()
                self._ask(next_one)
                next_one += 1
            try:
                frame = sock.recv(2048)
            except TimeoutError:
                now = time.perf_counter()
                for index, at in list(under_way.items()):
                    if now - at > retry:
                        again += 1
                        under_way[index] = now
                        self._ask(index)
                continue
            payload = frame[_HEADERS:]
            if len(payload) < wire.MINIMUM_SIZE or payload[0] != wire.REPLY:  # the bridge's own IGMP, say
                continue
            xid = int.from_bytes(payload[4:8])
            index = (xid & _CLIENT) - 1 - self._first
            if xid >> 24 != self._round or index not in under_way:  # another's, or the second answer of an old exchange
                continue
            match payload[242]:
                case MessageType.OFFER:
                    under_way[index] = time.perf_counter()
                    asked.setdefault(index, under_way[index])
                    sock.send(self.request(index, int.from_bytes(payload[16:20])))
                case MessageType.ACK:
                    self.addresses[index] = address = int.from_bytes(payload[16:20])
                    now = time.perf_counter()
                    times.append(now - begun[index])
                    del under_way[index]
                    if self._heard is not None:
                        mac, at = self.mac(index).hex(":"), time.time()
                        since = now - asked.get(index, begun[index])
                        self._heard(Heard(mac, address, _lease_time(payload), at - since, at))
                case MessageType.NAK:
                    self.addresses[index] = 0
                    self._ask(index)
        return Report(len(times), time.perf_counter() - start, sorted(times), again)

    def flood(self, seconds: float) -> int:
        """Send DISCOVERs, each under a MAC of its own, as fast as they go, and read nothing; returns how many went."""
        sent, until = 0, time.perf_counter() + seconds
        frames = [self.discover(index) for index in range(len(self.addresses))]
        self._socket.settimeout(1.0)
        for frame in frames:
            self._socket.send(frame)
            sent += 1
            if not sent & 0xFF and time.perf_counter() > until:
                break
        return sent

    def send(self, frame: bytes) -> None:
        """Send a frame of whatever kind."""
        self._socket.send(frame)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _ask(self, index: int) -> None:
        address = self.addresses[index]
        self._socket.send(self.rebind(index, address) if address else self.discover(index))

    def discover(self, index: int) -> bytes:
        """Build a DISCOVER."""
        return self.frame(index, MessageType.DISCOVER, {})

    def request(self, index: int, address: int) -> bytes:
        """Build a REQUEST that selects an offer."""
        return self.frame(index, MessageType.REQUEST, {54: self._server, 50: address.to_bytes(4)})

    def rebind(self, index: int, address: int) -> bytes:
        """Build a REQUEST of a client that is REBINDING: broadcast, its address in ciaddr."""
        return self.frame(index, MessageType.REQUEST, {}, ciaddr=address)

    def frame(self, index: int, kind: MessageType, more: dict[int, bytes], ciaddr: int = 0) -> bytes:
        """Build a client's frame: broadcast, UDP without checksum (RFC 768 allows it)."""
        mac = self.mac(index)
        options = {int(Code.MESSAGE_TYPE): bytes((kind,)), int(Code.CLIENT_ID): b"\x01" + mac, **self._wish}
        options |= {**more, int(Code.PARAMETER_LIST): PARAMETERS}
        packet = wire.Packet(wire.REQUEST, self._round << 24 | self._first + index + 1, mac, options, ciaddr=ciaddr)
        return broadcast(mac, wire.encode(packet), ciaddr)


def stream(path: Path, size: int, seconds: int) -> None:
    """Lease for ever, ``size`` new clients at a time, while the latest ones renew all the time.

    ``seconds`` is the lease time that they ask for. Each ACK is a line of ``path``: MAC, address, lease time, when it
    was asked for and when it came.
    """
    with path.open("ab", buffering=0) as file:

        def note(heard: Heard) -> None:
            line = f"{heard.mac} {heard.address} {heard.seconds} {heard.asked:.6f} {heard.at:.6f}\n"
            file.write(line.encode())

        latest: deque[Clients] = deque(maxlen=_RENEWING)

        def renew() -> None:  # of its own, so that a server which can do only the one or the other shows it
            while True:
                for clients in list(latest):
                    clients.run(size, patience=3600.0, retry=0.1)
                time.sleep(0.01)

        threading.Thread(target=renew, daemon=True).start()
        for generation in itertools.count():
            clients = Clients(size, first=generation * size, seconds=seconds, heard=note)
            clients.run(size, patience=3600.0, retry=0.1)
            latest.append(clients)


def broadcast(mac: bytes, payload: bytes, source: int = 0) -> bytes:
    """Put a message into a client's broadcast frame, 68 -> 67, without a UDP checksum."""
    length = len(payload) + 8
    total = 0xFFFF - (0x4500 + length + 20 + 0x4011 + source) % 0xFFFF  # RFC 1071 §2; all ones of the target are 0
    ip = struct.pack("!BBHHHBBHII", 0x45, 0, length + 20, 0, 0, 64, 17, total, source, 0xFFFFFFFF)
    return EVERYBODY + mac + b"\x08\x00" + ip + struct.pack("!HHHH", 68, 67, length, 0) + payload


def _lease_time(payload: bytes) -> int:
    packet = wire.decode(payload)
    return int.from_bytes(packet.options.get(Code.LEASE_TIME, b"")) if isinstance(packet, wire.Packet) else 0


if __name__ == "__main__":
    stream(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
