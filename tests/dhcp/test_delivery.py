"""Replies as they arrive at a guest, frame by frame, read by scapy (RFC 2131 §4.1, RFC 1542 §5.4, RFC 791, 768)."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from cocoon_net.dhcp import wire
from cocoon_net.dhcp.options import MessageType
from cocoon_net.dhcp.server import Server
from cocoon_net.dhcp.wire import Packet
from cocoon_net.lab.load import broadcast
from tests.dhcp.story import ALICE, FIRST, SERVER, packet

pytestmark = pytest.mark.root

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = MessageType

EVERYBODY, ME, BRIDGE = "ff:ff:ff:ff:ff:ff", ALICE.hex(":"), "02:00:5e:00:00:01"
RELAY = int(IPv4Address("172.20.100.200"))


def heard(sock: socket.socket, seconds: float = 2.0) -> Iterator[Ether]:
    """Yield the frames that came from port 67."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        sock.settimeout(left)
        with contextlib.suppress(TimeoutError):
            frame = Ether(sock.recv(4096))
            if UDP in frame and frame[UDP].sport == 67:
                yield frame


def exchange(ask: Packet, source: int, seconds: float = 2.0, target: str = "255.255.255.255", port: int = 68) -> Any:
    """In a guest: say something on eth0 to everybody's MAC and return the first answer."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as sock:
        sock.bind(("eth0", 0x0800))
        head = Ether(src=ask.chaddr, dst=EVERYBODY) / IP(src=str(IPv4Address(source)), dst=target)
        sock.send(bytes(head / UDP(sport=port, dport=67) / wire.encode(ask)))
        return next(heard(sock, seconds), None)


@pytest.fixture
def guest(node: Any) -> str:
    name: str = node.add_guest(ME)
    return name


WAYS = [  # kind of answer, fields of the question -> MAC, address and port that it goes to
    (OFFER, {}, ME, FIRST, 68),
    (OFFER, {"flags": wire.BROADCAST}, EVERYBODY, 0xFFFFFFFF, 68),
    (ACK, {}, ME, FIRST, 68),
    (ACK, {"flags": wire.BROADCAST}, ME, FIRST, 68),
    (NAK, {}, EVERYBODY, 0xFFFFFFFF, 68),
    (INFORM, {}, ME, FIRST + 90, 68),
    (INFORM, {"ciaddr": 0}, ME, FIRST + 90, 68),
    (OFFER, {"hlen": 8}, EVERYBODY, 0xFFFFFFFF, 68),  # no frame can be sent to such an address
    (INFORM, {"hlen": 8}, ME, FIRST + 90, 68),  # but whoever has one of IP can be asked for another
    (OFFER, {"giaddr": RELAY}, ME, RELAY, 67),
    (ACK, {"giaddr": RELAY}, ME, RELAY, 67),
    (NAK, {"giaddr": RELAY}, ME, RELAY, 67),
    (INFORM, {"giaddr": RELAY}, ME, FIRST + 90, 68),
]


@pytest.mark.parametrize(("kind", "fields", "mac", "address", "port"), WAYS)
def test_a_reply_arrives_where_4_1_sends_it(
    node: Any,
    book: Any,
    pool: Any,
    serving: Any,
    guest: str,
    kind: MessageType,
    fields: dict[str, int],
    mac: str,
    address: int,
    port: int,
) -> None:
    for own in ("172.20.100.200/24", "172.20.100.100/24"):  # the relay's, and who informs: they answer ARP
        node.execute(guest, "ip", "address", "add", own, "dev", "eth0")
    with serving(node, Server(book, pool)):
        bind = [(packet(DISCOVER), 0), (packet(REQUEST, server=SERVER, requested=FIRST), 0)] if kind is ACK else []
        ask = {
            OFFER: (packet(DISCOVER, **fields), 0),
            ACK: (packet(REQUEST, **{"ciaddr": FIRST, **fields}), FIRST),
            NAK: (packet(REQUEST, requested=int(IPv4Address("10.0.0.9")), **fields), 0),
            INFORM: (packet(INFORM, **{"ciaddr": FIRST + 90, **fields}), FIRST + 90),
        }[kind]
        frame = None
        for message, source in (*bind, ask):
            frame = node.of_guest(guest, lambda message=message, source=source: exchange(message, source))
            assert frame is not None, message
    assert (frame.src, frame.dst) == (BRIDGE, mac)
    assert (frame[IP].src, frame[IP].dst) == ("172.20.100.1", str(IPv4Address(address)))
    assert (frame[UDP].sport, frame[UDP].dport) == (67, port)
    assert frame[IP].ttl == 64
    assert frame[IP].ihl == 5
    assert len(frame) == 14 + frame[IP].len
    assert frame[UDP].len == frame[IP].len - 20
    if not (
        fields.get("giaddr") or (kind is INFORM and "hlen" in fields)
    ):  # those of the kernel's own socket are filled in by hardware, where there is any
        again = Ether(bytes(frame))
        del again[IP].chksum, again[UDP].chksum
        again = Ether(bytes(again))
        assert (frame[IP].chksum, frame[UDP].chksum) == (again[IP].chksum, again[UDP].chksum)
    reply = wire.decode(bytes(frame[BOOTP]))
    assert isinstance(reply, Packet)
    assert reply.type == (ACK if kind is INFORM else kind)


@pytest.mark.parametrize(
    ("target", "read"),
    [
        ("255.255.255.255", True),
        ("172.20.100.255", True),  # RFC 1122 §3.3.6: the subnet's own broadcast address is everybody's, too
        ("172.20.100.0", True),  # and so are the forms of 4.2BSD
        ("0.0.0.0", True),
        ("172.20.100.1", True),
        ("172.20.100.9", False),
        ("172.20.101.255", False),
        ("172.20.255.255", False),
    ],
)
def test_what_is_sent_to_everybody_or_to_us_is_read(
    node: Any, book: Any, pool: Any, serving: Any, guest: str, target: str, read: bool
) -> None:
    ask = packet(DISCOVER)
    with serving(node, Server(book, pool)):
        heard = node.of_guest(guest, lambda: exchange(ask, 0, 2.0 if read else 0.4, target))
    assert (heard is not None) == read


def test_rfc_1122_3_2_1_3_what_comes_from_no_hosts_address_is_not_read(
    node: Any, book: Any, pool: Any, serving: Any, guest: str
) -> None:
    """A group's, loopback, everybody's, reserved, our own."""
    nobody = (
        "224.0.0.1",
        "127.0.0.1",
        "255.255.255.255",
        "172.20.100.255",
        "172.20.100.0",
        "240.0.0.1",
        "172.20.100.1",
    )
    with serving(node, Server(book, pool)):
        for source, read in [*((source, False) for source in nobody), ("223.0.0.1", True), ("169.254.7.7", True)]:
            ask, number = packet(DISCOVER), int(IPv4Address(source))
            patience = 2.0 if read else 0.3
            heard = node.of_guest(
                guest, lambda ask=ask, number=number, patience=patience: exchange(ask, number, patience)
            )
            assert (heard is not None) == read, source


def test_another_subnet_has_another_broadcast_address_after_a_reload(
    node: Any, book: Any, pool_of: Any, serving: Any, guest: str, eventually: Any
) -> None:
    server = Server(book, pool_of(20))
    with serving(node, server):
        assert node.of_guest(guest, lambda: exchange(packet(DISCOVER), 0, 0.4, "172.20.100.127")) is None
        server.reload(pool_of(20, subnet="172.20.100.0/25"))
        eventually(lambda: node.of_guest(guest, lambda: exchange(packet(DISCOVER), 0, 0.4, "172.20.100.127")))
        assert node.of_guest(guest, lambda: exchange(packet(DISCOVER), 0, 0.4, "172.20.100.255")) is None


def test_4_1_a_reply_goes_to_port_68_whatever_port_asked(
    node: Any, book: Any, pool: Any, serving: Any, guest: str
) -> None:
    with serving(node, Server(book, pool)):
        frame = node.of_guest(guest, lambda: exchange(packet(DISCOVER), 0, port=1068))
    assert (frame[UDP].sport, frame[UDP].dport) == (67, 68)


def test_a_reply_leaves_by_the_port_that_asked_and_no_other(node: Any, book: Any, pool: Any, serving: Any) -> None:
    asker, other = node.add_guest(ME), node.add_guest("52:54:00:00:00:02")
    with (
        serving(node, Server(book, pool)),
        node.of_guest(other, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))) as ear,
    ):
        ask = packet(DISCOVER, flags=wire.BROADCAST)
        assert node.of_guest(asker, lambda: exchange(ask, 0)) is not None
        assert next(heard(ear, 0.3), None) is None, "a lease is nobody else's business"


@pytest.mark.parametrize(
    ("at", "checksum", "read"),
    [(40, 0, True), (40, 0xBEEF, False), (24, 0, False), (24, 0xBEEF, False)],
    ids=["no UDP sum", "wrong UDP sum", "no IP sum", "wrong IP sum"],
)
def test_a_wrong_checksum_is_not_read_and_no_udp_one_is(
    node: Any, book: Any, pool: Any, serving: Any, guest: str, at: int, checksum: int, read: bool
) -> None:
    """RFC 768 has a UDP checksum that is not there, RFC 791 §3.1 none of IP's."""

    def speak() -> Ether | None:
        frame = bytearray(broadcast(ALICE, wire.encode(packet(DISCOVER))))
        frame[at : at + 2] = checksum.to_bytes(2)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as sock:
            sock.bind(("eth0", 0x0800))
            sock.send(bytes(frame))
            return next(heard(sock, 0.4), None)

    server = Server(book, pool)
    with serving(node, server):
        assert (node.of_guest(guest, speak) is not None) == read
        assert server.snapshot().malformed == ({} if read else {"frame": 1})
