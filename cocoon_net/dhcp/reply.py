"""What to answer to a client, as RFC 2131 §4.3 has it. Pure: reads the table, returns a Decision, sends nothing.

The key of a lease is the MAC (chaddr). Cloned guests share client identifiers and would share an address by them; a
client identifier is echoed (RFC 6842) and written down, and decides nothing.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address
from typing import NamedTuple

from cocoon_net.dhcp import wire
from cocoon_net.dhcp.allocator import Allocator
from cocoon_net.dhcp.decision import Decision, Reason, bind, leave, name, release, silence, when
from cocoon_net.dhcp.lease import Lease, State, Trigger, move
from cocoon_net.dhcp.options import Code, MessageType
from cocoon_net.dhcp.pool import Pool
from cocoon_net.dhcp.wire import Packet
from cocoon_net.events import LeaseDeclined, PoolExhausted

LEAST_SIZE, MOST_SIZE, HEADERS = 576, 1500, 28
"""Octets of an IP datagram that any client takes (RFC 2131 §2), that Ethernet takes, and of IP and UDP in front."""


def decide(table: Allocator, packet: Packet, now: int) -> Decision:
    """Decide about one message from a client or a relay; ``now`` in Unix seconds."""
    if packet.op != wire.REQUEST:
        return silence(Reason.NOT_A_REQUEST)
    if packet.giaddr and not table.pool.holds(packet.giaddr):
        return silence(Reason.OTHER_SUBNET)
    match packet.type:
        case MessageType.DISCOVER:
            return _discover(table, packet, now)
        case MessageType.REQUEST:
            return _request(table, packet, now)
        case MessageType.DECLINE:
            return _decline(table, packet, now)
        case MessageType.RELEASE:
            return _release(table, packet, now)
        case MessageType.INFORM:
            return _inform(table, packet)
        case _:
            return silence(Reason.NOT_A_REQUEST)


def _discover(table: Allocator, packet: Packet, now: int) -> Decision:
    """RFC 2131 §4.3.1. An offer is a courtesy: held in memory, not committed."""
    mac = packet.chaddr
    address = table.choose(mac, _address(packet, Code.REQUESTED_ADDRESS))
    if address is None:
        return Decision(Reason.EXHAUSTED, events=(PoolExhausted(when(now), name(mac)),))
    state = move(table.at(address).state, Trigger.OFFER)
    until = now + table.pool.terms.offer
    offer = Lease(address, state, until, mac, now, port=packet.port) if state is State.OFFERED else None
    return Decision(Reason.OFFERED, MessageType.OFFER, address, _seconds(table, packet), offer=offer)


def _request(table: Allocator, packet: Packet, now: int) -> Decision:
    """RFC 2131 §4.3.2: which of its four states the client is in shows in options 54, 50 and ciaddr (table 4)."""
    server, wished = _address(packet, Code.SERVER_ID), _address(packet, Code.REQUESTED_ADDRESS)
    if server:
        if server != table.pool.server:
            offered = table.offered(packet.chaddr)
            return Decision(Reason.OTHER_SERVER, withdrawn=offered.address if offered else 0)
        return _select(table, packet, wished or packet.ciaddr, now)
    # INIT-REBOOT names the address in option 50; RENEWING and REBINDING in ciaddr.
    return _confirm(table, packet, packet.ciaddr or wished, now)


def _select(table: Allocator, packet: Packet, address: int, now: int) -> Decision:
    """SELECTING: the client took our offer, which we may have forgotten meanwhile; a free address is still its."""
    if not address:
        return silence(Reason.NO_ADDRESS)
    mac = packet.chaddr
    expected = table.offered(mac) or table.held(mac)
    if expected is not None and expected.address != address:
        in_use = expected.state is not State.FREE and expected.address in table.pool.members
        if in_use and table.pool.holds(address):
            return _refuse(table, packet, Reason.NOT_AS_OFFERED, now)
    return _promise(table, packet, address, now)


def _confirm(table: Allocator, packet: Packet, address: int, now: int) -> Decision:
    """INIT-REBOOT, RENEWING, REBINDING: the client believes that it has an address already."""
    if not address:
        return silence(Reason.NO_ADDRESS)
    if not table.pool.holds(address):
        return _refuse(table, packet, Reason.WRONG_SUBNET, now)
    lease, held = table.at(address), table.held(packet.chaddr)
    if lease.mac == packet.chaddr:
        return _promise(table, packet, address, now)
    if lease.state in (State.BOUND, State.COOLING):
        return _refuse(table, packet, Reason.TAKEN, now)
    if held is not None:
        return _refuse(table, packet, Reason.NOT_ITS_OWN, now)
    # "If the DHCP server has no record of this client, then it MUST remain silent": another server may have one.
    return silence(Reason.NO_RECORD)


def _promise(table: Allocator, packet: Packet, address: int, now: int) -> Decision:
    if table.takes(address, packet.chaddr):
        options = packet.options
        return bind(
            table,
            address,
            packet.chaddr,
            _seconds(table, packet),
            now,
            options.get(Code.CLIENT_ID, b""),
            _hostname(options.get(Code.HOSTNAME)),
            packet.port,
        )
    if not table.pool.holds(address):
        return _refuse(table, packet, Reason.WRONG_SUBNET, now)
    if address not in table.pool.members:
        return _refuse(table, packet, Reason.NOT_IN_POOL, now)
    return _refuse(table, packet, Reason.TAKEN, now)


def _refuse(table: Allocator, packet: Packet, reason: Reason, now: int) -> Decision:
    """NAK; a lease of an address that left the pool ends with it, for its client has just been told so."""
    held = table.held(packet.chaddr)
    if held is not None and held.state is State.BOUND and held.address not in table.pool.members:
        return leave(table, held, now)._replace(reason=reason, kind=MessageType.NAK)
    return Decision(reason, MessageType.NAK)


def _decline(table: Allocator, packet: Packet, now: int) -> Decision:
    """RFC 2131 §4.3.3: somebody else uses the address; its client must get another one."""
    server, address = _address(packet, Code.SERVER_ID), _address(packet, Code.REQUESTED_ADDRESS)
    if server and server != table.pool.server:
        return silence(Reason.OTHER_SERVER)
    lease = table.at(address)
    if lease.mac != packet.chaddr or lease.state not in (State.BOUND, State.OFFERED):
        return silence(Reason.NOT_ITS_OWN)
    until = now + table.pool.terms.quarantine
    event = LeaseDeclined(when(now), IPv4Address(address), name(packet.chaddr), when(until))
    quarantined = Lease(address, move(lease.state, Trigger.DECLINE), until, since=now, port=packet.port)
    return Decision(Reason.DECLINED, changes=(quarantined,), events=(event,))


def _release(table: Allocator, packet: Packet, now: int) -> Decision:
    """RFC 2131 §4.3.4: only its owner, only by the right address, only to us."""
    server = _address(packet, Code.SERVER_ID)
    if server and server != table.pool.server:
        return silence(Reason.OTHER_SERVER)
    lease = table.at(packet.ciaddr)
    if lease.mac != packet.chaddr or lease.state is not State.BOUND:
        return silence(Reason.NOT_ITS_OWN)
    return release(table, lease, now, "client")


def _inform(table: Allocator, packet: Packet) -> Decision:
    """RFC 2131 §4.3.5: parameters only; no address, no lease time, and no look at leases."""
    if not packet.ciaddr:
        return silence(Reason.NO_ADDRESS)
    if not table.pool.holds(packet.ciaddr):
        return silence(Reason.WRONG_SUBNET)
    return Decision(Reason.INFORMED, MessageType.ACK)


def _address(packet: Packet, code: Code) -> int:
    value = packet.options.get(code)
    return 0 if value is None else int.from_bytes(value)


def _seconds(table: Allocator, packet: Packet) -> int:
    return table.pool.seconds(packet.options.get(Code.LEASE_TIME))


def _hostname(value: bytes | None) -> str:
    """Read option 12 as text that can stand in a log; RFC 2132 §3.14 allows no more than this."""
    if value is None:
        return ""
    return "".join(char for char in value.decode("ascii", "ignore") if char.isalnum() or char in "-._")


def render(decision: Decision, packet: Packet, pool: Pool) -> bytes:
    """Render the reply of a decision that has one (RFC 2131 table 3)."""
    kind, options = decision.kind, packet.options
    if kind is None:
        return b""
    nak = kind is MessageType.NAK
    echo = b""
    if nak:
        echo = wire.option(Code.MESSAGE, str(decision.reason).encode())
    client_id, relay = options.get(Code.CLIENT_ID), options.get(Code.RELAY_AGENT)
    if client_id is not None:
        echo += wire.option(Code.CLIENT_ID, client_id)  # RFC 6842 §3: in every reply, unchanged.
    if relay is not None:
        echo += wire.option(Code.RELAY_AGENT, relay)  # RFC 3046 §2.2: echoed, and last.
    # RFC 2131 §4.3.2: the relay must broadcast a NAK, for its client may have no address.
    flags = packet.flags | wire.BROADCAST if nak and packet.giaddr else packet.flags
    ciaddr = packet.ciaddr if kind is MessageType.ACK else 0
    head = wire.reply_head(packet.xid, flags, ciaddr, decision.address, packet.giaddr, packet.chaddr)
    wished = options.get(Code.PARAMETER_LIST)
    message = head + wire.finish(pool.options.joined(kind, wished, decision.seconds) + echo)
    limit = options.get(Code.MAXIMUM_SIZE)
    most = LEAST_SIZE if limit is None else min(max(int.from_bytes(limit), LEAST_SIZE), MOST_SIZE)
    if len(message) <= most - HEADERS:
        return message
    room = most - HEADERS - len(head) - len(echo) - 1
    return head + wire.finish(wire.fit(pool.options.pieces(kind, wished, decision.seconds), room) + echo)


class Way(StrEnum):
    """How a reply travels (RFC 2131 §4.1)."""

    RELAY = "relay"
    """UDP, to the relay's server port."""
    BROADCAST = "broadcast"
    DIRECT = "direct"
    """To the client's MAC, though it may not answer ARP for the address yet."""


class Destination(NamedTuple):
    """Where a reply goes; ``address`` is that of the IP header."""

    way: Way
    address: int


EVERYONE = Destination(Way.BROADCAST, 0xFFFFFFFF)


def destination(decision: Decision, packet: Packet) -> Destination:
    """Choose where the reply goes, in the order of RFC 2131 §4.1."""
    if packet.giaddr:
        return Destination(Way.RELAY, packet.giaddr)
    if decision.kind is MessageType.NAK:
        return EVERYONE
    if packet.ciaddr:
        return Destination(Way.DIRECT, packet.ciaddr)
    if packet.flags & wire.BROADCAST:
        return EVERYONE
    return Destination(Way.DIRECT, decision.address)
