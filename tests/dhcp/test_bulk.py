"""Many datagrams in one system call: in order, none lost, and one that is refused keeps nobody back."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from cocoon_net.dhcp import bulk
from cocoon_net.dhcp.bulk import LARGEST, Receiver, Sender

HOME, EVERYBODY = int(IPv4Address("127.0.0.1")), 0xFFFFFFFF


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return a UDP socket to send by, and one that listens on loopback."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sends,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hears,
    ):
        hears.bind(("127.0.0.1", 0))
        yield sends, hears


def test_a_refused_datagram_is_counted_and_keeps_no_other_back(pair: tuple[socket.socket, socket.socket]) -> None:
    sends, hears = pair
    port = hears.getsockname()[1]
    sender, receiver = Sender(sends, 8), Receiver(hears, 8)
    for number, address in enumerate((HOME, EVERYBODY, HOME)):  # no SO_BROADCAST: the kernel says EACCES
        sender.put(b"%d" % number, bulk.inet(address, port), 10 + number)
    assert receiver.take() == []
    sender.flush()
    assert [data for data, _ in receiver.take()] == [b"0", b"2"]
    assert sender.refused == [11]


def test_what_is_full_is_sent_at_once_and_taken_in_order(pair: tuple[socket.socket, socket.socket]) -> None:
    sends, hears = pair
    port = hears.getsockname()[1]
    sender, receiver = Sender(sends, 4), Receiver(hears, 3)
    sent = [bytes([number]) * (1 + 500 * number) for number in range(9)]
    for data in sent:
        sender.put(data, bulk.inet(HOME, port))
    taken = [[data for data, _ in receiver.take()] for _ in range(4)]
    assert taken == [sent[:3], sent[3:6], sent[6:8], []]
    sender.flush()
    assert [data for data, _ in receiver.take()] == sent[8:]
    assert sender.refused == []


def test_what_no_frame_can_hold_is_not_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    sends, hears = pair
    sender, receiver = Sender(sends, 4), Receiver(hears, 4)
    sender.put(bytes(LARGEST + 1), bulk.inet(HOME, hears.getsockname()[1]), 7)
    sender.put(bytes(LARGEST), bulk.inet(HOME, hears.getsockname()[1]))
    sender.flush()
    assert [len(data) for data, _ in receiver.take()] == [LARGEST]
    assert sender.refused == [7]


def test_a_closed_socket_is_an_error_and_not_silence(pair: tuple[socket.socket, socket.socket]) -> None:
    _, hears = pair
    receiver = Receiver(hears, 4)
    hears.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        receiver.take()
