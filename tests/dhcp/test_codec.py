"""Bytes to packets and back: malformed input is a reason, and scapy, which shares no line with us, agrees."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP

from cocoon_net.dhcp import wire
from cocoon_net.dhcp.lease import MOVES, lease_machine, moves
from cocoon_net.dhcp.wire import Malformed, Packet, decode, encode

MAC = bytes.fromhex("525400000001")
GOOD = encode(Packet(wire.REQUEST, 1, MAC, {53: b"\x01", 55: b"\x01\x03\x06"}))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Malformed.SHORT),
        (GOOD[:240], Malformed.SHORT),
        (b"\x03" + GOOD[1:], Malformed.OP),
        (GOOD[:1] + b"\x06" + GOOD[2:], Malformed.HARDWARE),
        (GOOD[:28] + b"\xff" * 6 + GOOD[34:], Malformed.HARDWARE),
        (GOOD[:236] + b"\0\0\0\0" + GOOD[240:], Malformed.COOKIE),
        (GOOD[:240] + b"\x35\xff\x01", Malformed.TRUNCATED),
        (GOOD[:240] + b"\x37\x01\x01\xff", Malformed.TYPE),
        (GOOD[:240] + b"\x35\x02\x01\x01\xff", Malformed.LENGTH),
        (GOOD[:240] + b"\x35\x01\x03\x32\x03\x01\x01\x01\xff", Malformed.LENGTH),
    ],
)
def test_what_cannot_be_read_has_a_reason(data: bytes, reason: Malformed) -> None:
    assert decode(data) is reason


@given(st.binary(max_size=700))
def test_no_bytes_ever_raise(data: bytes) -> None:
    assert isinstance(decode(data), Packet | Malformed)


@given(st.binary(max_size=400))
def test_no_options_ever_raise(tail: bytes) -> None:
    assert isinstance(decode(GOOD[:240] + tail), Packet | Malformed)


words = st.integers(0, 2**32 - 1)
codes = st.integers(1, 254).filter(lambda code: code not in (50, 51, 52, 53, 54, 57))


@given(
    options=st.dictionaries(codes, st.binary(max_size=600), max_size=5),
    kind=st.integers(1, 8),
    xid=words,
    addresses=st.tuples(words, words, words, words),
    flags=st.integers(0, 0xFFFF),
)
def test_what_is_encoded_is_decoded_however_long_its_options(
    options: dict[int, bytes], kind: int, xid: int, addresses: tuple[int, int, int, int], flags: int
) -> None:
    packet = Packet(wire.REPLY, xid, MAC, {53: bytes((kind,)), **options}, flags, *addresses)
    assert decode(encode(packet)) == packet
    assert len(encode(packet)) >= wire.MINIMUM_SIZE


@settings(max_examples=50, deadline=None)
@given(xid=words, wished=words, name=st.text("abcdefgh-", min_size=1, max_size=60))
def test_scapy_reads_what_we_write_and_we_read_what_scapy_writes(xid: int, wished: int, name: str) -> None:
    ours = Packet(wire.REQUEST, xid, MAC, {53: b"\x03", 50: wished.to_bytes(4), 12: name.encode()}, ciaddr=wished)
    read = BOOTP(encode(ours))
    assert (read.op, read.xid, read.chaddr[:6]) == (1, xid, MAC)
    told = {option[0]: option[1] for option in read[DHCP].options if isinstance(option, tuple)}
    assert told["message-type"] == 3
    assert told["hostname"] == name.encode()
    theirs = BOOTP(op=1, xid=xid, chaddr=MAC, ciaddr=read.ciaddr) / DHCP(
        options=[("message-type", 3), ("requested_addr", told["requested_addr"]), ("hostname", name), "end"]
    )
    back = decode(bytes(theirs))
    assert isinstance(back, Packet)
    assert (back.xid, back.ciaddr, dict(back.options)) == (xid, wished, dict(ours.options))


def test_overloaded_fields_are_read_file_first(tmp_path: object) -> None:
    raw = bytearray(encode(Packet(wire.REQUEST, 1, MAC, {53: b"\x01", 52: b"\x03"})))
    raw[108 : 108 + 5] = b"\x0c\x02ab\xff"
    raw[44 : 44 + 5] = b"\x0c\x02cd\xff"
    packet = decode(bytes(raw))
    assert isinstance(packet, Packet)
    assert packet.options[12] == b"abcd", "RFC 3396: file, then sname, joined"


def test_the_plain_dict_of_the_hot_path_is_the_machines_own_table() -> None:
    assert moves(lease_machine()) == {(state.value, trigger.value): to.value for (state, trigger), to in MOVES.items()}
    assert len(MOVES) == 19
