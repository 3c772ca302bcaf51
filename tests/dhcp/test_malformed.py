"""What is not a message: one reason each, one counter, and nothing else happens. With a corpus, and with fuzzing.

``corpus/`` holds datagrams that once broke a DHCP server, ours or another: hex, with a comment on the first line.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cocoon_net import records
from cocoon_net.dhcp import wire
from cocoon_net.dhcp.decision import Decision
from cocoon_net.dhcp.lease import State
from cocoon_net.dhcp.options import Code, MessageType
from cocoon_net.dhcp.reply import decide, destination, render
from cocoon_net.dhcp.server import Server
from cocoon_net.dhcp.wire import Malformed, Packet, decode
from cocoon_net.lab.load import broadcast
from tests.dhcp.conftest import make_pool
from tests.dhcp.story import ALICE, FIRST, SERVER, Story, packet

GOOD = wire.encode(packet(MessageType.DISCOVER))
HEAD = GOOD[:240]
CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.hex"))


def with_options(*options: bytes) -> bytes:
    return HEAD + b"".join(options)


def patched(at: int, value: bytes) -> bytes:
    return GOOD[:at] + value + GOOD[at + len(value) :]


def overloaded(bits: int, file: bytes = b"", sname: bytes = b"", more: bytes = b"\x35\x01\x01") -> bytes:
    data = bytearray(with_options(more, b"\x34\x01", bytes((bits,)), b"\xff"))
    data[108 : 108 + len(file)] = file
    data[44 : 44 + len(sname)] = sname
    return bytes(data)


TYPE = b"\x35\x01\x01"
NAMED = HEAD[:1] + b"\x20\0" + HEAD[3:28] + bytes(16) + HEAD[44:] + TYPE
"""InfiniBand: its address is too long for ``chaddr``, so it has none there (RFC 4390)."""

REASONS = [  # RFC section, what is wrong, datagram, why it is not read
    ("2131 §2", "nothing", b"", Malformed.SHORT),
    ("2131 §2", "one octet", b"\x01", Malformed.SHORT),
    ("951", "BOOTP without vendor field", GOOD[:236], Malformed.SHORT),
    ("2131 §2", "no option at all", HEAD, Malformed.SHORT),
    ("2131 §2", "op 0", patched(0, b"\0"), Malformed.OP),
    ("2131 §2", "op 3", patched(0, b"\3"), Malformed.OP),
    ("2131 §2", "hardware of type 0", patched(1, b"\0"), Malformed.HARDWARE),
    ("4390 §2.1", "InfiniBand, which has no room for its address", patched(1, b"\x20\0"), Malformed.HARDWARE),
    ("2131 §2", "an address of 0 octets", patched(2, b"\0"), Malformed.HARDWARE),
    ("2131 §2", "an address of 17 octets", patched(2, b"\x11"), Malformed.HARDWARE),
    ("2131 §2", "an address of 255 octets", patched(2, b"\xff"), Malformed.HARDWARE),
    ("2131 §2", "an address of 16 octets, all 0", patched(2, b"\x10" + GOOD[3:28] + bytes(16)), Malformed.HARDWARE),
    (
        "802-2014 §8",
        "the address of a group, as IEEE 802",
        patched(1, b"\x06" + GOOD[2:28] + b"\x01"),
        Malformed.HARDWARE,
    ),
    ("802-2014 §8", "the address of nobody", patched(28, bytes(6)), Malformed.HARDWARE),
    ("802-2014 §8", "the address of everybody", patched(28, b"\xff" * 6), Malformed.HARDWARE),
    ("802-2014 §8", "the address of a group", patched(28, b"\x01\0\x5e\0\0\x01"), Malformed.HARDWARE),
    ("2131 §3", "no cookie", patched(236, bytes(4)), Malformed.COOKIE),
    ("2131 §3", "a cookie in the wrong order", patched(236, b"\x63\x53\x82\x63"), Malformed.COOKIE),
    ("2132 §2", "a length beyond the end", with_options(TYPE, b"\x0c\xff", b"name"), Malformed.TRUNCATED),
    ("2132 §2", "a length one beyond the end", with_options(TYPE, b"\x0c\x05", b"name"), Malformed.TRUNCATED),
    ("2132 §2", "a code and no length", with_options(TYPE, b"\x0c"), Malformed.TRUNCATED),
    ("1534 §2", "BOOTP with a vendor field", with_options(b"\x01\x04\xff\xff\xff\0\xff"), Malformed.TYPE),
    ("2132 §2", "END and nothing else", with_options(b"\xff"), Malformed.TYPE),
    ("2132 §2", "PAD and nothing else", with_options(bytes(60)), Malformed.TYPE),
    ("2132 §2", "the type after END", with_options(b"\xff", TYPE), Malformed.TYPE),
    ("2132 §9.6", "a type of 0 octets", with_options(b"\x35\0\xff"), Malformed.TYPE),
    ("4390 §2.1", "an address of 0 octets and a name of 1", NAMED + b"\x3d\1a\xff", Malformed.HARDWARE),
    ("2131 §4.1", "an option that runs out of file", overloaded(1, file=b"\x0c\x80"), Malformed.TRUNCATED),
    ("2131 §4.1", "an option that runs out of sname", overloaded(2, sname=b"\x0c\x3f"), Malformed.TRUNCATED),
]


@pytest.mark.parametrize(("section", "what", "data", "reason"), REASONS, ids=lambda value: str(value)[:50])
def test_what_cannot_be_read_has_one_reason(section: str, what: str, data: bytes, reason: Malformed) -> None:
    assert decode(data) is reason


READ = [  # RFC section, what is odd, datagram, the options that are read of it
    ("2132 §2", "no END", with_options(TYPE), {53: b"\1"}),
    ("2132 §3.1", "PADs", with_options(bytes(3), TYPE, bytes(5), b"\x0c\2me", b"\xff"), {53: b"\1", 12: b"me"}),
    ("2132 §3.2", "rubbish after END", with_options(TYPE, b"\xff", b"\x0c\xff\x63"), {53: b"\1"}),
    ("2132 §3.14", "an empty name", with_options(TYPE, b"\x0c\0\xff"), {53: b"\1", 12: b""}),
    ("2132 §9.8", "an empty list", with_options(TYPE, b"\x37\0\xff"), {53: b"\1", 55: b""}),
    ("2132 §9.14", "an empty identifier", with_options(TYPE, b"\x3d\0\xff"), {53: b"\1", 61: b""}),
    ("2131 §4.1", "what nobody knows", with_options(TYPE, b"\xfe\1x\xe0\1y\xff"), {53: b"\1", 254: b"x", 224: b"y"}),
    ("3396 §7", "an option in two pieces", with_options(b"\x0c\2ab", TYPE, b"\x0c\2cd\xff"), {12: b"abcd", 53: b"\1"}),
    ("2132 §9.3", "file", overloaded(1, file=b"\x0c\2ab\xff"), {53: b"\1", 52: b"\1", 12: b"ab"}),
    ("2132 §9.3", "sname", overloaded(2, sname=b"\x0c\2ab\xff"), {53: b"\1", 52: b"\2", 12: b"ab"}),
    ("2131 §4.1", "file, no END", overloaded(1, b"\x0c\x7e" + b"a" * 126), {53: b"\1", 52: b"\1", 12: b"a" * 126}),
    (
        "3396 §5",
        "pieces in all three fields: options, file, sname",
        overloaded(3, file=b"\x0c\2cd\xff", sname=b"\x0c\2ef\xff", more=b"\x35\1\1\x0c\2ab"),
        {53: b"\1", 12: b"abcdef", 52: b"\3"},
    ),
    ("2131 §4.1", "the type in file", overloaded(1, file=b"\x35\1\3\xff", more=b""), {52: b"\1", 53: b"\3"}),
    (
        "2131 §4.1",
        "an overload inside file, which counts for nothing",
        overloaded(1, file=b"\x34\1\2\x0c\2ab\xff", sname=b"\x0c\2no\xff"),
        {53: b"\1", 52: b"\1", 12: b"ab"},
    ),
    ("2132 §9.6", "a type of 2 octets", with_options(b"\x35\2\1\3\xff"), {53: b"\1\3"}),
    ("3396 §7", "two types, which are one of 2 octets", with_options(TYPE, TYPE, b"\xff"), {53: b"\1\1"}),
    *(
        (f"2132 §9.{section}", f"option {code} of {length} octets, as if it was absent", data, {53: b"\1"})
        for section, code, right in ((1, 50, 4), (2, 51, 4), (7, 54, 4), (10, 57, 2))
        for length in (0, right - 1, right + 1, 2 * right)
        for data in (with_options(TYPE, bytes((code, length)) + bytes(length) + b"\xff"),)
    ),
    ("2132 §9.3", "an overload of 0", overloaded(0, b"\x0c\2no\xff"), {53: b"\1", 52: b"\0"}),
    ("2132 §9.3", "an overload of 4", overloaded(4, b"\x0c\2no\xff"), {53: b"\1", 52: b"\4"}),
    ("2132 §9.3", "an overload of 5", overloaded(5, b"\x0c\2no\xff"), {53: b"\1", 52: b"\5"}),
    (
        "2132 §9.3",
        "an overload of 2 octets",
        overloaded(1, b"\x0c\2no\xff", more=TYPE + b"\x34\1\1"),
        {53: b"\1", 52: b"\1\1"},
    ),
    ("4390 §2.1", "InfiniBand", NAMED + b"\x3d\2ab\xff", {53: b"\1", 61: b"ab"}),
    ("2131 §4.1", "names where no overload is", overloaded(2, file=b"\x0c\2no\xff"), {53: b"\1", 52: b"\2"}),
]  # fmt: skip


@pytest.mark.parametrize(("section", "what", "data", "options"), READ, ids=lambda value: str(value)[:50])
def test_what_is_odd_and_clear_is_read(section: str, what: str, data: bytes, options: dict[int, bytes]) -> None:
    read = decode(data)
    assert isinstance(read, Packet), read
    assert dict(read.options) == options


@pytest.mark.root
def test_a_broken_datagram_is_counted_once_and_changes_nothing(node, book, pool, serving, eventually):
    server = Server(book, pool)
    guest = node.add_guest("52:54:00:00:00:01")
    with serving(node, server):
        node.of_guest(guest, lambda: send(data for _, _, data, _ in REASONS))
        eventually(lambda: sum(server.snapshot().malformed.values()) >= len(REASONS))
        told = server.snapshot()
        expected = Counter(str(reason) for _, _, _, reason in REASONS)
        assert told.malformed == expected
        assert (told.bound, told.offered, told.commits, told.decided) == (0, 0, 0, {})
        node.of_guest(guest, lambda: send([GOOD]))
        eventually(lambda: server.snapshot().offered == 1)


def send(datagrams: Iterable[bytes]) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("eth0", 0x0800))
        for data in datagrams:
            sock.send(broadcast(ALICE, data))


# Fuzzing: bytes into the codec, options into the decisions


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=700))
def test_no_bytes_ever_raise(data: bytes) -> None:
    assert isinstance(decode(data), Packet | Malformed)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([b"", TYPE, b"\x34\1\1", b"\x34\1\3" + TYPE]))
@example(b"\xff", TYPE)
def test_no_options_ever_raise(tail: bytes, head: bytes) -> None:
    assert isinstance(decode(HEAD + head + tail), Packet | Malformed)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_one_changed_octet_never_raises(data: st.DataObject) -> None:
    good = data.draw(st.sampled_from([GOOD, *map(seed, CORPUS)]))
    at = data.draw(st.integers(0, len(good) - 1))
    changed = good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]
    cut = changed[: data.draw(st.integers(0, len(changed)))]
    for one in (changed, cut):
        assert isinstance(decode(one), Packet | Malformed)


addresses = st.one_of(st.integers(0, 2**32 - 1), st.integers(FIRST - 15, FIRST + 30), st.just(SERVER), st.just(0))
values = st.one_of(st.binary(max_size=8), st.binary(min_size=250, max_size=600), addresses.map(lambda a: a.to_bytes(4)))
told = st.dictionaries(st.sampled_from([*map(int, Code), 43, 60, 77, 116, 175, 252, 254]), values, max_size=8)
messages = st.builds(
    lambda kind, options, op, mac, flags, ciaddr, giaddr, port: Packet(
        op, 7, mac, _lawful({**options, 53: bytes((kind,))}), flags, ciaddr, giaddr=giaddr, port=port
    ),
    st.sampled_from([1, 1, 1, 3, 3, 3, 3, 4, 7, 8, 0, 2, 13]),
    told,
    st.sampled_from([1, 1, 1, 1, 1, 2]),
    st.sampled_from([bytes((2, 0, 0, 0, 0, n)) for n in range(4)]),
    st.sampled_from([0, wire.BROADCAST, 0xFFFF]),
    addresses,
    st.sampled_from([0, 0, 0, FIRST + 100, 0x0A000001]),
    st.sampled_from(["", "tap1", "tap2"]),
)


def _lawful(options: dict[int, bytes]) -> dict[int, bytes]:
    """Leave out what ``decode`` would have refused."""
    lengths = {50: 4, 51: 4, 52: 1, 54: 4, 57: 2}
    return {
        code: value for code, value in options.items() if len(value) == lengths.get(code, len(value)) and code != 52
    }


@settings(max_examples=300, deadline=None)
@given(st.lists(messages, max_size=12), st.integers(1, 5))
def test_no_message_ever_raises_and_no_address_has_two_clients(said: list[Packet], size: int) -> None:
    story = Story(make_pool(size))
    for message in said:
        before, offers = dict(story.table.leases), dict(story.table.offers)
        decision = decide(story.table, message, story.now)
        assert (story.table.leases, story.table.offers) == (before, offers), "deciding changes nothing"
        _check(story, message, decision)
        story.do(message)
        story.wait(7)
        bound = [lease for lease in story.table.leases.values() if lease.state is State.BOUND]
        owners = [(lease.mac, lease.client_id) for lease in bound]
        assert len(set(owners)) == len(owners)
        assert story.table.counts[State.BOUND] == len(bound)
        assert {lease.address for lease in bound} <= story.table.pool.members


def _check(story: Story, message: Packet, decision: Decision) -> None:
    """A decision is sound: silence or a reply that can be read, is not too large and promises what is committed."""
    data = render(decision, message, story.table.pool)
    if decision.kind is None:
        assert data == b""
        return
    reply = decode(data)
    assert isinstance(reply, Packet)
    assert (reply.op, reply.xid, reply.chaddr) == (wire.REPLY, message.xid, message.chaddr)
    echoed = sum(len(message.options.get(code, b"")) for code in (61, 82, 118))
    assert len(data) + 28 <= 1500 + echoed
    assert destination(decision, message).address
    assert message.op == wire.REQUEST
    match decision.kind:
        case MessageType.ACK if message.type != MessageType.INFORM:
            assert [lease.address for lease in decision.changes if lease.state is State.BOUND] == [reply.yiaddr]
            assert story.table.pool.holds(reply.yiaddr)
        case MessageType.OFFER:
            assert reply.yiaddr in story.table.pool.members
            assert not decision.changes
        case _:
            assert reply.yiaddr == 0


# The corpus


def seed(path: Path) -> bytes:
    lines = path.read_text().splitlines()
    return bytes.fromhex("".join(line.partition("#")[0] for line in lines))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_what_broke_other_servers_does_not_break_ours(path: Path, pool: records.Pool) -> None:
    story = Story(pool)
    packet = decode(seed(path))
    wanted = next(line.partition("expect:")[2].strip() for line in path.read_text().splitlines() if "expect:" in line)
    if isinstance(packet, Malformed):
        assert str(packet) == wanted
        return
    _check(story, packet, decision := decide(story.table, packet, story.now))
    assert (decision.kind.name.lower() if decision.kind else "silence") == wanted
