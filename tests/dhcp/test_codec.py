"""Bytes to packets and back: malformed input is a reason, and scapy, which shares no line with us, agrees."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP

from cocoon_net.dhcp import wire
from cocoon_net.dhcp.lease import MOVES, lease_machine, moves
from cocoon_net.dhcp.wire import Packet, decode, encode

MAC = bytes.fromhex("525400000001")
GOOD = encode(Packet(wire.REQUEST, 1, MAC, {53: b"\x01", 55: b"\x01\x03\x06"}))


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


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(0, 140), max_size=8), tail=st.integers(0, 40), spare=st.integers(-200, 4))
def test_options_are_spread_over_the_fields_to_the_last_octet(sizes: list[int], tail: int, spare: int) -> None:
    pieces = [wire.option(200 + number, bytes(size)) for number, size in enumerate(sizes)]
    last = wire.option(82, bytes(tail))
    whole = sum(map(len, pieces)) + len(last) + 1
    room = max(whole + spare, len(last) + 4)
    main, file, sname = wire.spread(pieces, last, room)
    assert len(main) + 1 <= room
    assert len(file) + 1 <= 128
    assert len(sname) + 1 <= 64
    assert main.endswith(last)
    if room >= whole:
        assert (main, file, sname) == (b"".join(pieces) + last, b"", b"")
        return
    head = wire.overload(wire.reply_head(Packet(wire.REQUEST, 1, MAC, {}), 0, 0, 0), file, sname)
    read = decode(head + wire.option(53, b"\x02") + wire.finish(main))
    assert isinstance(read, Packet)
    left_out = [piece for number, piece in enumerate(pieces) if 200 + number not in read.options]
    for piece in left_out:
        assert len(piece) > room - len(main) - 1 - (0 if 52 in read.options else 3)
        assert len(piece) > 127 - len(file)
        assert len(piece) > 63 - len(sname)


def test_the_plain_dict_of_the_hot_path_is_the_machines_own_table() -> None:
    assert moves(lease_machine()) == {(state.value, trigger.value): to.value for (state, trigger), to in MOVES.items()}
    assert len(MOVES) == 19
