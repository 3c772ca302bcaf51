"""Ethernet, IP and UDP around a message, octet by octet: what is read of it, what is not (RFC 791, 768, 1122)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP, IPOption_Router_Alert
from scapy.layers.l2 import Ether

from cocoon_net.dhcp import frame
from tests.dhcp.story import ALICE, FIRST, SERVER

PAYLOAD = bytes(range(256)) + bytes(44)
ME, EVERYBODY = ALICE.hex(":"), "ff:ff:ff:ff:ff:ff"


def framed(
    payload: bytes = PAYLOAD, *, ip: dict[str, object] | None = None, udp: dict[str, object] | None = None
) -> bytes:
    head = Ether(src=ME, dst=EVERYBODY) / IP(**{"src": "0.0.0.0", "dst": "255.255.255.255", **(ip or {})})
    return bytes(head / UDP(**{"sport": 68, "dport": 67, **(udp or {})}) / payload)


def headed(first: int, total: int, size: int) -> bytes:
    """Return a frame of ``size`` octets with this first octet and length of IP, and the checksum that they need."""
    data = bytearray(WHOLE[:size].ljust(size, b"\0"))
    data[14], data[16:18], data[24:26] = first, total.to_bytes(2), bytes(2)
    words = int.from_bytes(data[14 : 14 + (first & 15) * 4]) % 0xFFFF
    data[24:26] = (0xFFFF - words).to_bytes(2)
    return bytes(data)


WHOLE = framed()
READ = [  # RFC, what is odd about it, the frame
    ("768", "nothing, with every checksum", framed()),
    ("768", "no UDP checksum", framed(udp={"chksum": 0})),
    ("791 §3.1", "an option in the IP header", framed(ip={"options": [IPOption_Router_Alert()]})),
    ("791 §3.1", "a time to live of 0", framed(ip={"ttl": 0})),
    ("791 §3.1", "another type of service, not to be fragmented", framed(ip={"tos": 0xB8, "flags": "DF", "id": 7})),
    ("894", "what Ethernet fills up behind it", framed() + bytes(46)),
    ("768", "a source port that is not 68", framed(udp={"sport": 1068})),
    ("768", "IP that is longer than UDP", framed(PAYLOAD + b"more", udp={"len": 308, "chksum": 0})),
]


@pytest.mark.parametrize(("section", "what", "data"), READ, ids=lambda value: str(value)[:40])
def test_what_is_odd_and_whole_is_read(section: str, what: str, data: bytes) -> None:
    assert frame.unwrap(data) == PAYLOAD


def test_a_checksum_that_nobody_has_filled_in_yet_is_as_good_as_right() -> None:
    """CHECKSUM_PARTIAL: a virtio guest leaves the sum of the pseudo header for hardware that there is none of."""
    pseudo = (0xFFFF + 0xFFFF + 17 + 308) % 0xFFFF
    assert frame.unwrap(framed(udp={"chksum": pseudo})) == PAYLOAD
    assert frame.unwrap(framed(udp={"chksum": pseudo + 1})) is None


UNREAD = [  # RFC, what is wrong, the frame
    ("894", "nothing in it", b""),
    ("894", "a head and no IP", WHOLE[:14]),
    ("791 §3.1", "half an IP header", WHOLE[:30]),
    ("791 §3.1", "an IP header and half of UDP's", WHOLE[:40]),
    ("791 §3.1", "fewer octets than IP says", WHOLE[:-1]),
    ("791 §3.1", "IP of version 6", headed(0x65, 328, 342)),
    ("791 §3.1", "an IP header of 16 octets", headed(0x44, 328, 342)[:36] + bytes(2) + WHOLE[38:]),
    ("791 §3.1", "an IP header that is all of it", headed(0x4F, 60, 74)),
    ("791 §3.1", "a total length of 27", framed(ip={"len": 27})),
    ("791 §3.1", "a total length of 0", framed(ip={"len": 0})),
    ("791 §3.1", "an IP checksum that is wrong", framed(ip={"chksum": 0x1234})),
    ("768", "a UDP checksum that is wrong", framed(udp={"chksum": 0x1234})),
    ("768", "a UDP length of 7", framed(udp={"len": 7, "chksum": 0})),
    ("768", "a UDP length beyond IP's", framed(udp={"len": 309, "chksum": 0})),
]


@pytest.mark.parametrize(("section", "what", "data"), UNREAD, ids=lambda value: str(value)[:40])
def test_what_is_not_whole_is_not_read(section: str, what: str, data: bytes) -> None:
    assert frame.unwrap(data) is None


@given(st.binary(max_size=400), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_what_is_wrapped_has_the_checksums_that_scapy_works_out(payload: bytes, source: int, target: int) -> None:
    data = frame.wrap(payload, bytes.fromhex("02005e000001"), ALICE, source, target)
    assert frame.unwrap(data) == payload
    again = Ether(data)
    told = (again[IP].chksum, again[UDP].chksum or 0xFFFF)
    del again[IP].chksum, again[UDP].chksum
    again = Ether(bytes(again))
    assert told == (again[IP].chksum, again[UDP].chksum or 0xFFFF)


@given(st.binary(max_size=400))
def test_no_frame_ever_raises(data: bytes) -> None:
    frame.unwrap(data)


def test_a_reply_is_from_port_67_to_68_by_the_right_way() -> None:
    read = Ether(frame.wrap(PAYLOAD, b"\2" * 6, ALICE, SERVER, FIRST))
    assert (read.dst, read[IP].src, read[IP].dst) == (ME, "172.20.100.1", "172.20.100.10")
    assert (read[UDP].sport, read[UDP].dport, read[UDP].len) == (67, 68, 308)
