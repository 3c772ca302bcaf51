"""What must be true of the DHCP server whatever it is told: of each reply, of the table, of the book, of the routes.

scapy reads what we read and what we write, and shares no line with us; where it knows less (split options, fields that
carry options) it is not asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from ipaddress import IPv4Address
from typing import Any

from cocoon_net.dhcp import frame, wire
from cocoon_net.dhcp.lease import State
from cocoon_net.dhcp.options import ACK, NAK, OFFER, Code, MessageType
from cocoon_net.dhcp.table import Table
from cocoon_net.dhcp.wire import Packet

_PLAIN: Mapping[int, tuple[str, int]] = {
    50: ("requested_addr", 4),
    51: ("lease_time", 4),
    53: ("message-type", 1),
    54: ("server_id", 4),
    57: ("max_dhcp_size", 2),
}
"""Options of one length that both of us read: scapy's names of them, and the length."""

_LARGEST, _ECHO = 1500, 270
"""Octets of a reply, and of what it repeats that have room in the least that a client takes."""


class Broken(Exception):
    """A rule that does not hold; the message says which."""


def must(holds: bool, what: str) -> None:
    """Raise Broken unless it holds."""
    if not holds:
        raise Broken(what)


def check_reply(payload: bytes, asked: list[Packet], table: Table) -> None:
    """Check a reply, and that one of the messages of its batch is the one that it answers."""
    reply = wire.decode(payload)
    if reply is wire.Malformed.HARDWARE and not payload[2]:
        return  # to hardware without an address, whose identifier had no room
    must(isinstance(reply, Packet), f"a reply of ours cannot be read: {reply}")
    assert isinstance(reply, Packet)
    must(reply.op == wire.REPLY and (reply.hops, reply.secs, reply.siaddr) == (0, 0, 0), "table 3: op, hops, secs")
    must(any(_answers(reply, ask) for ask in asked), "it repeats the words of nobody (table 3)")
    echoed = sum(len(reply.options.get(code, b"")) for code in (61, 82, 118))
    must(len(payload) >= 300 and len(payload) + 28 <= _LARGEST + 2 * echoed, f"it has {len(payload)} octets")
    must(Code.SERVER_ID in reply.options, "table 3: the server identifier")
    leased = {code for code in (51, 58, 59) if code in reply.options}
    match reply.type:
        case MessageType.OFFER:
            must(reply.yiaddr in table.pool.members and 51 in leased and not reply.ciaddr, "table 3: an offer")
        case MessageType.ACK if reply.yiaddr:
            must(
                table.leases[reply.yiaddr].state in (State.BOUND, State.COOLING, State.QUARANTINED), "an ACK of nothing"
            )
            must(51 in leased, "table 3: the time of an ACK")
        case MessageType.ACK:
            must(not leased, "§4.3.5: an INFORM is not told a lease time")
        case MessageType.NAK:
            allowed = {53, 54, 56, 61, 82}
            must(not (reply.yiaddr or reply.ciaddr) and set(reply.options) <= allowed, "table 3: a NAK")
        case _:
            raise Broken(f"a server does not say {reply.type}")


def _answers(reply: Packet, ask: Packet) -> bool:
    flags = ask.flags | (wire.BROADCAST if reply.type == NAK and ask.giaddr else 0)
    same = (reply.xid, reply.htype, reply.hlen, reply.chaddr, reply.giaddr, reply.flags) == (
        ask.xid,
        ask.htype,
        ask.hlen,
        ask.chaddr,
        ask.giaddr,
        flags,
    )
    name, relay = ask.options.get(61, b""), ask.options.get(82, b"")
    fits = len(name) + len(relay) <= _ECHO  # an identifier that does not is left out, as any other option
    told = (name == reply.options.get(61, b"") or not fits) and relay == reply.options.get(82, b"")
    return same and told and reply.padding == ask.padding and _suits(reply.type, ask.type)


def _suits(said: int, asked: int) -> bool:
    match asked:
        case MessageType.DISCOVER:
            return said in (OFFER, ACK)
        case MessageType.REQUEST:
            return said in (ACK, NAK)
        case MessageType.INFORM:
            return said == ACK
        case _:
            return False


def check_table(table: Table, routed: int) -> None:
    """Check that no address has two clients, none is lost and none is counted twice."""
    bound = [lease for lease in table.leases.values() if lease.state is State.BOUND]
    owners = [(lease.mac, lease.client_id) for lease in bound]
    must(len(set(owners)) == len(owners), "a client has two addresses")
    must(routed == len(bound), f"{routed} routes, {len(bound)} leases")
    named = [(lease.mac, lease.client_id) for lease in table.leases.values() if lease.mac]
    must(len(set(named)) == len(named), "two leases name one client")
    for state in (State.BOUND, State.COOLING, State.QUARANTINED):
        count = sum(lease.state is state for lease in table.leases.values())
        must(table.counts[state] == count, f"{table.counts[state]} {state} are counted, {count} are")
    must(table.counts[State.OFFERED] == len(table.offers), "the offers are counted wrong")
    free, resting = set(table.unused), set(table.resting)  # its own, looked at by nobody else
    for address in table.pool.members:
        states = (address in free, address in resting, address in table.offers)
        lease = table.leases.get(address)
        idle = lease is None or lease.state is State.FREE
        must(sum(states) <= 1, f"{address} is in two places")
        must(idle == (address in free) or address in table.offers, f"{address} is free and cannot be given, or is not")


def check_read(data: bytes, packet: Packet) -> None:
    """Check that scapy reads the same out of a datagram as we did."""
    bootp, dhcp = _scapy()
    theirs = bootp(data)
    ours = (packet.op, packet.htype, packet.hlen, packet.hops, packet.xid, packet.secs, packet.flags)
    must(
        ours
        == tuple(map(int, (theirs.op, theirs.htype, theirs.hlen, theirs.hops, theirs.xid, theirs.secs, theirs.flags))),
        "the head",
    )
    for name in ("ciaddr", "yiaddr", "siaddr", "giaddr"):
        must(str(IPv4Address(getattr(packet, name))) == getattr(theirs, name), name)
    if packet.hlen:
        must((packet.chaddr + packet.padding).ljust(16, b"\0") == bytes(theirs.chaddr)[:16].ljust(16, b"\0"), "chaddr")
    if not theirs.haslayer(dhcp) or 52 in packet.options:
        return
    told = [one for one in theirs[dhcp].options if isinstance(one, tuple)]
    for code, (name, size) in _PLAIN.items():
        values = [one[1:] for one in told if one[0] == name]
        mine = packet.options.get(code, b"")
        if len(values) != 1 or len(values[0]) != 1 or len(mine) != size:
            continue
        value = values[0][0]
        ours_is = str(IPv4Address(mine)) if code in (50, 54) else int.from_bytes(mine)
        must(value == ours_is, f"option {code}: {value!r}, ours {mine!r}")


def check_frame(payload: bytes) -> None:
    """Check that what we wrap is what a client unwraps."""
    made = frame.wrap(payload, b"\2\0\0\0\0\1", b"\2\0\0\0\0\2", 0xAC140001, 0xAC140009)
    must(frame.unwrap(made) == payload, "a frame of ours cannot be unwrapped")


@cache
def _scapy() -> tuple[Any, Any]:
    from scapy.layers.dhcp import BOOTP, DHCP

    return BOOTP, DHCP
