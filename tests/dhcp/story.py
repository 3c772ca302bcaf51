"""A table and messages to it: what the server's batch does with a decision, without sockets and disks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any

from cocoon_net import records
from cocoon_net.dhcp import wire
from cocoon_net.dhcp.choice import adopt
from cocoon_net.dhcp.decision import Decision, end
from cocoon_net.dhcp.options import Code, MessageType
from cocoon_net.dhcp.pool import Pool
from cocoon_net.dhcp.reply import decide, render
from cocoon_net.dhcp.reservation import Reservation
from cocoon_net.dhcp.settings import Settings, Terms
from cocoon_net.dhcp.table import Table
from cocoon_net.dhcp.wire import Packet

ALICE, BOB, CAROL = (bytes.fromhex(f"5254000000{number:02x}") for number in (1, 2, 3))
SERVER = int(IPv4Address("172.20.100.1"))
OTHER_SERVER = int(IPv4Address("172.20.100.2"))
FIRST = int(IPv4Address("172.20.100.10"))
NOW = 1_800_000_000
TERMS = Terms(lease=3600, cooling=60, offer=30, quarantine=600)


def packet(
    kind: MessageType | int,
    mac: bytes = ALICE,
    *,
    server: int | None = None,
    requested: int | None = None,
    client_id: bytes | None = None,
    asks: Sequence[int] | None = None,
    options: Mapping[int, bytes] | None = None,
    **fields: Any,
) -> Packet:
    """Return a client's message; ``asks`` is its parameter request list, ``fields`` those of the header."""
    said: dict[int, bytes] = {int(Code.MESSAGE_TYPE): bytes((kind,))}
    if requested is not None:
        said[Code.REQUESTED_ADDRESS] = requested.to_bytes(4)
    if server is not None:
        said[Code.SERVER_ID] = server.to_bytes(4)
    if asks is not None:
        said[Code.PARAMETER_LIST] = bytes(asks)
    if client_id is not None:
        said[Code.CLIENT_ID] = client_id
    return Packet(wire.REQUEST, fields.pop("xid", 7), mac, {**said, **(options or {})}, **fields)


class Story:
    """A pool's table through time; ``say`` decides and does it, ``hear`` returns the reply as its client reads it."""

    def __init__(
        self, pool: records.Pool, settings: Settings | None = None, reservations: Sequence[Reservation] = ()
    ) -> None:
        self.record, self.settings = pool, settings or Settings(TERMS)
        self.table = Table(Pool.of(pool, self.settings, reservations))
        self.now = NOW

    def do(self, message: Packet) -> Decision:
        decision = decide(self.table, message, self.now)
        take(self.table, decision)
        return decision

    def say(self, kind: MessageType, mac: bytes = ALICE, **fields: Any) -> Decision:
        return self.do(packet(kind, mac, **fields))

    def hear(self, kind: MessageType | int, mac: bytes = ALICE, **fields: Any) -> Packet | None:
        message = packet(kind, mac, **fields)
        return self.answer(message)

    def answer(self, message: Packet) -> Packet | None:
        decision = self.do(message)
        if decision.kind is None:
            return None
        reply = wire.decode(render(decision, message, self.table.pool))
        assert isinstance(reply, Packet), reply
        return reply

    def bind(self, mac: bytes = ALICE, **fields: Any) -> int:
        address = self.say(MessageType.DISCOVER, mac, **fields).address
        bound = self.say(MessageType.REQUEST, mac, server=SERVER, requested=address, **fields)
        assert bound.kind is MessageType.ACK, bound
        return bound.address

    def reserve(self, *reservations: Reservation) -> None:
        adopt(self.table, Pool.of(self.record, self.settings, reservations))

    def wait(self, seconds: int) -> None:
        self.now += seconds
        for lease in self.table.due(self.now, 1000):
            take(self.table, end(self.table, lease, self.now))


def take(table: Table, decision: Decision) -> None:
    """Do what was decided, as the server's batch does."""
    if decision.withdrawn:
        table.withdraw(decision.withdrawn)
    if decision.offer is not None:
        table.offer(decision.offer, decision.seconds)
    for lease in decision.changes:
        table.put(lease)
