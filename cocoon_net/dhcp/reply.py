"""What to answer to a client, as RFC 2131 §4.3 has it. Pure: reads the table, returns a Decision, sends nothing.

Who is the same client, and who is not: docs/decisions/0006-who-is-a-client.md.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Final, NamedTuple

from cocoon_net.dhcp import wire
from cocoon_net.dhcp.choice import choose, takes
from cocoon_net.dhcp.decision import Decision, Reason, bind, leave, name, release, silence, when
from cocoon_net.dhcp.lease import BOUND, COOLING, FREE, OFFERED, Client, Lease, Trigger, move, owns
from cocoon_net.dhcp.options import ACK, MUST, NAK, OFFER, Code, MessageType
from cocoon_net.dhcp.pool import Pool
from cocoon_net.dhcp.relay import link, server_of
from cocoon_net.dhcp.table import Table
from cocoon_net.dhcp.tuples import NEW
from cocoon_net.dhcp.wire import (
    CLIENT_ID,
    ETHERNET,
    HOSTNAME,
    LEASE_TIME,
    MAXIMUM_SIZE,
    PARAMETER_LIST,
    RAPID_COMMIT,
    RELAY_AGENT,
    REQUESTED_ADDRESS,
    SERVER_ID,
    SHORTEST_ID,
    SUBNET_SELECTION,
    TYPE,
    Packet,
)
from cocoon_net.events import LeaseDeclined, PoolExhausted

LEAST_SIZE: Final = 576
HEADERS: Final = 28
"""Octets of an IP datagram that any client takes (RFC 2131 §2), and of IP and UDP in front."""


def decide(table: Table, packet: Packet, now: int) -> Decision:
    """Decide about one message from a client or a relay; ``now`` in Unix seconds."""
    if packet.op != wire.REQUEST:
        return silence(Reason.NOT_A_REQUEST)
    if (packet.giaddr or SUBNET_SELECTION in packet.options) and not table.pool.holds(link(packet)):
        return silence(Reason.OTHER_SUBNET)
    decide_about = _DECIDE.get(packet.options[TYPE][0])
    return silence(Reason.NOT_A_REQUEST) if decide_about is None else decide_about(table, packet, now)


def _discover(table: Table, packet: Packet, now: int) -> Decision:
    """RFC 2131 §4.3.1. An offer is a courtesy: held in memory, not committed."""
    client = _client(packet)
    address = choose(table, client, _address(packet, REQUESTED_ADDRESS), now)
    if address is None:
        return Decision(Reason.EXHAUSTED, events=(PoolExhausted(when(now), name(client.mac)),))
    if table.pool.terms.rapid_commit and RAPID_COMMIT in packet.options and takes(table, address, client):
        return _promise(table, packet, client, address, now)  # RFC 4039 §3.1
    return _offer(table, packet, client, address, now)


def offer(table: Table, packet: Packet, address: int, now: int) -> Decision:
    """Offer ``address``, and no other one, to who asks."""
    return _offer(table, packet, _client(packet), address, now)


def _offer(table: Table, packet: Packet, client: Client, address: int, now: int) -> Decision:
    before = table.known(address)
    state = FREE if before is None else before.state
    if before is not None and state is COOLING and not owns(before, client):
        state = move(state, Trigger.REUSE)  # nothing else is free: its rest is over
    state = move(state, Trigger.OFFER)
    held = None
    if state is OFFERED:
        until = now + table.pool.terms.offer
        held = NEW(Lease, (address, state, until, client.mac, now, client.id, "", client.port))
    return NEW(Decision, (Reason.OFFERED, OFFER, address, _seconds(table, packet), (), held, 0, ()))


def _request(table: Table, packet: Packet, now: int) -> Decision:
    """RFC 2131 §4.3.2: which of its four states the client is in shows in options 54, 50 and ciaddr (table 4)."""
    client = _client(packet)
    server, wished = _address(packet, SERVER_ID), _address(packet, REQUESTED_ADDRESS)
    if server:
        if server != table.pool.server and server != server_of(packet, table.pool.server):
            offered = table.offered(client)
            return Decision(Reason.OTHER_SERVER, withdrawn=offered.address if offered else 0)
        return _select(table, packet, client, wished or packet.ciaddr, now)
    # RENEWING and REBINDING name the address in ciaddr, INIT-REBOOT in option 50.
    return _confirm(table, packet, client, packet.ciaddr or wished, now)


def _select(table: Table, packet: Packet, client: Client, address: int, now: int) -> Decision:
    """SELECTING: the client took our offer, which we may have forgotten meanwhile; a free address is still its.

    One that is free and was not offered, too: a NAK is for what cannot be satisfied (RFC 2131 §4.3.2).
    """
    if not address and REQUESTED_ADDRESS not in packet.options:
        return silence(Reason.NO_ADDRESS)
    return _promise(table, packet, client, address, now)


def _confirm(table: Table, packet: Packet, client: Client, address: int, now: int) -> Decision:
    """INIT-REBOOT, RENEWING, REBINDING: the client believes that it has an address already."""
    if not address and REQUESTED_ADDRESS not in packet.options:
        return silence(Reason.NO_ADDRESS)
    if not table.pool.holds(address):
        return _refuse(table, client, Reason.WRONG_SUBNET, now)
    lease, kept = table.at(address), table.pool.kept.get(client.mac)
    if owns(lease, client) or (kept is not None and kept.address == address):
        return _promise(table, packet, client, address, now)
    if lease.state in (BOUND, COOLING):
        return _refuse(table, client, Reason.TAKEN, now)
    if kept is not None or address in table.pool.owners:
        return _refuse(table, client, Reason.RESERVED, now)
    if table.held(client) is not None:
        return _refuse(table, client, Reason.NOT_ITS_OWN, now)
    if packet.ciaddr and lease.mac:  # a clone of who had it last, and who may only be asleep
        return _refuse(table, client, Reason.TAKEN, now)
    if packet.ciaddr and (not packet.giaddr or takes(table, address, client)):
        # It renews what only we can have leased: our record was lost, its address need not be. Or another node's, where
        # its guest is no more; only behind a relay there may be another server.
        return _promise(table, packet, client, address, now)
    # "If the DHCP server has no record of this client, then it MUST remain silent": another server may have one.
    return silence(Reason.NO_RECORD)


def _promise(table: Table, packet: Packet, client: Client, address: int, now: int) -> Decision:
    if takes(table, address, client):
        hostname = _hostname(packet.options.get(HOSTNAME))
        return bind(table, address, client, _seconds(table, packet, address), now, hostname)
    pool = table.pool
    if not pool.holds(address):
        return _refuse(table, client, Reason.WRONG_SUBNET, now)
    if address not in pool.members:
        return _refuse(table, client, Reason.NOT_IN_POOL, now)
    if client.mac in pool.kept or address in pool.owners:
        return _refuse(table, client, Reason.RESERVED, now)
    return _refuse(table, client, Reason.TAKEN, now)


def _refuse(table: Table, client: Client, reason: Reason, now: int) -> Decision:
    """NAK. A lease that the client may not keep ends with it: the address left the pool, or a reservation says so."""
    held = table.held(client)
    if held is not None and held.state is BOUND and not takes(table, held.address, client):
        return leave(table, held, now)._replace(reason=reason, kind=NAK)
    return Decision(reason, NAK)


def _decline(table: Table, packet: Packet, now: int) -> Decision:
    """RFC 2131 §4.3.3: somebody else uses the address; its client must get another one."""
    if not _meant(table, packet):
        return silence(Reason.OTHER_SERVER)
    address = _address(packet, REQUESTED_ADDRESS)
    lease = table.at(address)
    if lease.state not in (BOUND, OFFERED) or not owns(lease, _client(packet)):
        return silence(Reason.NOT_ITS_OWN)
    until = now + table.pool.terms.quarantine
    event = LeaseDeclined(when(now), IPv4Address(address), name(packet.hardware), when(until))
    quarantined = Lease(address, move(lease.state, Trigger.DECLINE), until, since=now, port=packet.port)
    return Decision(Reason.DECLINED, changes=(quarantined,), events=(event,))


def _release(table: Table, packet: Packet, now: int) -> Decision:
    """RFC 2131 §4.3.4: only its owner, only by the right address, only to us."""
    if not _meant(table, packet):
        return silence(Reason.OTHER_SERVER)
    lease = table.at(packet.ciaddr)
    if lease.state is not BOUND or not owns(lease, _client(packet)):
        return silence(Reason.NOT_ITS_OWN)
    return release(table, lease, now, "client")


def _inform(table: Table, packet: Packet, _: int) -> Decision:
    """RFC 2131 §4.3.5: parameters only; no address, no lease time, and no look at leases."""
    address = packet.ciaddr or (0 if packet.giaddr else packet.source)
    if not address and not packet.giaddr:
        return silence(Reason.NO_ADDRESS)
    if address and not table.pool.holds(address):
        return silence(Reason.WRONG_SUBNET)
    if address and (address == table.pool.server or address in table.pool.everybody):
        return silence(Reason.NO_ADDRESS)
    return Decision(Reason.INFORMED, ACK)


_DECIDE: Final[dict[int, Callable[[Table, Packet, int], Decision]]] = {
    MessageType.DISCOVER: _discover,
    MessageType.REQUEST: _request,
    MessageType.DECLINE: _decline,
    MessageType.RELEASE: _release,
    MessageType.INFORM: _inform,
}
"""What clients say (RFC 2131 table 2); everything else is a server's, or another protocol's."""


def _client(packet: Packet) -> Client:
    name = packet.options.get(CLIENT_ID, b"")
    mac = packet.chaddr if packet.htype == ETHERNET else packet.hardware
    return NEW(Client, (mac, name if len(name) >= SHORTEST_ID else b"", packet.port))


def _meant(table: Table, packet: Packet) -> bool:
    """Whether a message is for us: its server identifier is ours, or it has none."""
    server, ours = _address(packet, SERVER_ID), table.pool.server
    return not server or server in (ours, server_of(packet, ours))


def _address(packet: Packet, code: int) -> int:
    value = packet.options.get(code)
    return 0 if value is None else int.from_bytes(value)


def _seconds(table: Table, packet: Packet, address: int = 0) -> int:
    """Return the lease time that the client asks for, else what was offered to it with ``address``, else ours."""
    wished = packet.options.get(LEASE_TIME)
    return (wished is None and table.lease_times.get(address)) or table.pool.seconds(wished)


_NOT_OF_A_NAME: Final = bytes(range(256)).translate(None, (string.ascii_letters + string.digits + "-._").encode())


def _hostname(value: bytes | None) -> str:
    """Read option 12 as text that can stand in a log; RFC 2132 §3.14 allows no more than this."""
    if value is None:
        return ""
    return (value if value.isalnum() else value.translate(None, _NOT_OF_A_NAME)).decode()


def render(decision: Decision, packet: Packet, pool: Pool) -> bytes:
    """Render the reply of a decision that has one (RFC 2131 table 3)."""
    kind, options = decision.kind, packet.options
    if kind is None:
        return b""
    nak = kind is NAK
    echo = tail = more = b""
    client_id, relay = options.get(CLIENT_ID), options.get(RELAY_AGENT)
    if client_id:
        echo = wire.option(CLIENT_ID, client_id)  # RFC 6842 §3: in every reply, unchanged.
    if nak:
        more = wire.option(Code.MESSAGE, str(decision.reason).encode())
    elif SUBNET_SELECTION in options and len(options[SUBNET_SELECTION]) == 4:
        more = wire.option(SUBNET_SELECTION, options[SUBNET_SELECTION])  # RFC 3011 §2
    if RAPID_COMMIT in options and kind is ACK and packet.type == MessageType.DISCOVER:
        more += wire.option(RAPID_COMMIT, b"")  # RFC 4039 §3.1
    if relay is not None:
        tail = wire.option(RELAY_AGENT, relay)  # RFC 3046 §2.2: echoed, and last.
    # RFC 2131 §4.3.2: the relay must broadcast a NAK, for its client may have no address.
    flags = packet.flags | wire.BROADCAST if nak and packet.giaddr else packet.flags
    ciaddr = packet.ciaddr if kind is ACK else 0
    head = wire.reply_head(packet, flags, ciaddr, decision.address)
    told = pool.options_of(packet.hardware) if pool.kept else pool.options
    wished = options.get(PARAMETER_LIST)
    server = server_of(packet, pool.server) if packet.giaddr else pool.server
    limit = options.get(MAXIMUM_SIZE)
    room = (LEAST_SIZE if limit is None else min(max(int.from_bytes(limit), LEAST_SIZE), pool.mtu)) - HEADERS
    if server == pool.server:
        message = head + wire.finish(told.joined(kind, wished, decision.seconds) + more + echo + tail)
        if len(message) <= room:
            return message
    pieces = told.pieces(kind, wished, decision.seconds)
    pieces[SERVER_ID] = wire.option(SERVER_ID, server.to_bytes(4))
    first = [pieces.pop(code) for code in MUST if code in pieces]
    if nak:  # table 3: file and sname are not used
        body, left = b"".join(first), room - len(head) - len(tail) - 1
        for piece in (echo, more):
            body += piece if len(body) + len(piece) <= left else b""
        return head + wire.finish(body + tail)
    body, file, sname = wire.spread([*first, echo, more, *pieces.values()], tail, room - len(head))
    return wire.overload(head, file, sname) + wire.finish(body)


class Way(StrEnum):
    """How a reply travels (RFC 2131 §4.1)."""

    RELAY = "relay"
    """UDP, to the relay's server port."""
    ROUTED = "routed"
    """UDP, to a client that has an address and answers ARP for it."""
    BROADCAST = "broadcast"
    DIRECT = "direct"
    """To the client's MAC, though it may not answer ARP for the address yet."""


RELAY: Final = Way.RELAY
ROUTED: Final = Way.ROUTED
BROADCAST: Final = Way.BROADCAST
DIRECT: Final = Way.DIRECT


class Destination(NamedTuple):
    """Where a reply goes; ``address`` is that of the IP header."""

    way: Way
    address: int


EVERYONE: Final = Destination(BROADCAST, 0xFFFFFFFF)


def destination(decision: Decision, packet: Packet) -> Destination:
    """Choose where the reply goes, in the order of RFC 2131 §4.1; to an INFORM, what §4.3.5 says goes first."""
    if packet.giaddr:
        if packet.ciaddr and packet.type == MessageType.INFORM:
            return Destination(ROUTED, packet.ciaddr)
        return NEW(Destination, (RELAY, packet.giaddr))
    if decision.kind is NAK:
        return EVERYONE
    own = packet.ciaddr or packet.source
    if own:
        return Destination(DIRECT if len(packet.chaddr) == wire.MAC_LENGTH else ROUTED, own)
    if packet.flags & wire.BROADCAST or len(packet.chaddr) != wire.MAC_LENGTH:
        return EVERYONE
    return NEW(Destination, (DIRECT, decision.address))
