"""The options of a reply: form, order, size (RFC 2132, 3396, 3397, 3442, 6842, and Microsoft's 249)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from scapy.layers.dhcp import BOOTP, DHCP

from cocoon_net import records
from cocoon_net.dhcp import wire
from cocoon_net.dhcp.options import Code, MessageType, classless, domains
from cocoon_net.dhcp.reply import decide, render
from cocoon_net.dhcp.settings import Settings
from cocoon_net.dhcp.wire import Packet
from tests.dhcp.story import FIRST, SERVER, TERMS, Story, packet

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = MessageType

GATEWAY = SERVER.to_bytes(4)
FAR = classless([(IPv4Network("10.0.0.0/8"), IPv4Address("172.20.100.1"))])
DEFAULT_ROUTE = b"\0" + GATEWAY
RICH = Settings(
    TERMS,
    {
        15: b"vms.example.org",
        42: bytes((172, 20, 0, 5)),
        43: bytes((1, 4, 0, 0, 0, 2)),
        66: b"tftp.example.org",
        67: b"boot.ipxe",
        108: (1800).to_bytes(4),
        119: domains(["vms.example.org", "example.org"]),
        121: FAR,
        252: b"http://wpad.example.org/wpad.dat",
    },
)


@pytest.fixture
def story(pool: records.Pool) -> Story:
    return Story(pool, RICH)


FORMS = {  # RFC 2132 unless another is named: code -> the whole value
    1: bytes((255, 255, 255, 0)),  # §3.3
    3: GATEWAY,  # §3.5
    6: bytes((8, 8, 8, 8, 1, 1, 1, 1)),  # §3.8
    15: b"vms.example.org",  # §3.17, without a trailing null (§2)
    26: (1500).to_bytes(2),  # §5.1
    28: bytes((172, 20, 100, 255)),  # §5.3
    42: bytes((172, 20, 0, 5)),  # §8.3
    43: bytes((1, 4, 0, 0, 0, 2)),  # §8.4
    51: (3600).to_bytes(4),  # §9.2
    53: b"\x02",  # §9.6
    54: GATEWAY,  # §9.7
    58: (1800).to_bytes(4),  # §9.11
    59: (3150).to_bytes(4),  # §9.12
    66: b"tftp.example.org",  # §9.4
    67: b"boot.ipxe",  # §9.5
    108: (1800).to_bytes(4),  # RFC 8925 §3.2
    119: b"\x03vms\x07example\x03org\x00\xc0\x04",  # RFC 3397 §2
    121: DEFAULT_ROUTE + FAR,  # RFC 3442: the default route inside, for option 3 is ignored
    249: DEFAULT_ROUTE + FAR,
    252: b"http://wpad.example.org/wpad.dat",
}


@pytest.mark.parametrize("code", FORMS)
def test_an_option_that_is_asked_for_has_its_form(story: Story, code: int) -> None:
    reply = story.hear(DISCOVER, asks=[code])
    assert reply is not None
    assert reply.options[code] == FORMS[code]


@pytest.mark.parametrize("code", sorted(set(FORMS) - {51, 53, 54, 58, 59}))
def test_an_option_that_is_not_asked_for_is_not_sent_to_who_has_a_list(story: Story, code: int) -> None:
    reply = story.hear(DISCOVER, asks=[7] if code != 7 else [9])
    assert reply is not None
    assert set(reply.options) == {51, 53, 54, 58, 59}


@pytest.mark.parametrize("asks", [None, []], ids=["no list", "an empty list"])
def test_who_has_no_list_is_told_all_but_what_only_its_asking_makes_right(story: Story, asks: list[int] | None) -> None:
    reply = story.hear(DISCOVER, asks=asks, options={57: (1500).to_bytes(2)})
    assert reply is not None
    assert set(reply.options) == set(FORMS) - {108, 121, 249}


def test_without_settings_there_is_the_default_route_for_who_asks(pool: records.Pool) -> None:
    reply = Story(pool).hear(DISCOVER, asks=[1, 3, 6, 12, 15, 42, 119, 121, 249])
    assert reply is not None
    assert set(reply.options) == {1, 3, 6, 121, 249, 51, 53, 54, 58, 59}
    assert reply.options[121] == reply.options[249] == DEFAULT_ROUTE


def test_a_pool_without_dns_servers_sends_no_empty_option(pool: records.Pool) -> None:
    reply = Story(records.Pool(pool.subnet, pool.gateway, (), pool.addresses, 1500)).hear(DISCOVER, asks=[6, 3])
    assert reply is not None
    assert 6 not in reply.options


@pytest.mark.parametrize("asks", [[121], [249], [3, 121], [121, 249, 3], [33, 121]], ids=str)
def test_rfc_3442_who_asks_for_classless_routes_has_the_default_route_there(story: Story, asks: list[int]) -> None:
    reply = story.hear(DISCOVER, asks=asks)
    assert reply is not None
    for code in (121, 249):
        assert (reply.options.get(code) == DEFAULT_ROUTE + FAR) == (code in asks)
    assert (Code.ROUTER in reply.options) == (3 in asks), "a client that takes 121 ignores it, another one needs it"
    assert 33 not in reply.options, "classful routes: nothing that 121 does not say better"


def test_a_route_to_everywhere_by_another_router_is_the_default_route_of_who_asks_for_it(pool: records.Pool) -> None:
    other = classless([(IPv4Network("0.0.0.0/0"), IPv4Address("172.20.100.9"))])
    reply = Story(pool, Settings(TERMS, {121: FAR + other})).hear(DISCOVER, asks=[121, 249])
    assert reply is not None
    assert reply.options[121] == reply.options[249] == FAR + other


ORDERS = [  # what is asked for, and the order of the reply's options after the type
    ([1, 3, 6], [54, 51, 58, 59, 1, 3, 6]),
    ([6, 15, 1, 3, 42], [54, 51, 58, 59, 6, 15, 1, 3, 42]),
    ([121, 249, 3, 33, 6, 1], [54, 51, 58, 59, 121, 249, 1, 3, 6]),  # §3.3: the mask MUST be before the router
    ([3, 6, 1], [54, 51, 58, 59, 1, 3, 6]),
    ([3, 1, 6, 1, 3, 3], [54, 51, 58, 59, 1, 3, 6]),  # once each
    ([1, 51, 3, 59, 54, 58], [1, 51, 3, 59, 54, 58]),  # where it asks for them
    ([53, 1, 54, 51, 58, 59], [1, 54, 51, 58, 59]),
    ([200, 201, 255, 0, 1], [54, 51, 58, 59, 1]),  # nothing for what we do not have
    (list(range(256)), [1, 3, 6, 15, 26, 28, 42, 43, 51, 54, 58, 59, 66, 67, 108, 119, 121, 249, 252]),
]


@pytest.mark.parametrize(("asks", "order"), ORDERS, ids=str)
def test_9_8_options_come_in_the_order_asked_for(story: Story, asks: list[int], order: list[int]) -> None:
    reply = story.hear(DISCOVER, asks=asks, options={57: (1500).to_bytes(2)})
    assert reply is not None
    assert list(reply.options) == [53, *order]


@pytest.mark.parametrize("name", [b"\x01\x52\x54\0\0\0\1", b"\0client", b"\xff\0\0\0\1\0\2\0\0\xab\x11" + b"x" * 8])
@pytest.mark.parametrize("kind", [OFFER, ACK, NAK, INFORM])
def test_rfc_6842_the_client_identifier_is_in_every_reply(story: Story, kind: MessageType, name: bytes) -> None:
    mine = story.bind(client_id=name)
    reply = {
        OFFER: lambda: story.hear(DISCOVER, client_id=name),
        ACK: lambda: story.hear(REQUEST, client_id=name, ciaddr=mine),
        NAK: lambda: story.hear(REQUEST, client_id=name, ciaddr=mine + 1),
        INFORM: lambda: story.hear(INFORM, client_id=name, ciaddr=mine),
    }[kind]()
    assert reply is not None
    assert reply.options[Code.CLIENT_ID] == name


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (b"guest-1", "guest-1"),
        (b"guest.example.org", "guest.example.org"),
        (b"guest\0", "guest"),  # §2: no trailing NUL, and a receiver lives with one
        (b"a\0b", "ab"),
        (b"", ""),
        (b"\xff\xfe\n\x1b[31m", "31m"),
        (b"<b>&\"'", "b"),
        (b"x" * 255, "x" * 255),
    ],
)
def test_3_14_a_host_name_is_written_down_as_far_as_it_is_one(story: Story, said: bytes, name: str) -> None:
    mine = story.bind(options={12: said})
    assert story.table.at(mine).hostname == name


@pytest.mark.parametrize("size", [2, 7, 64, 128, 254, 255])
def test_9_14_an_identifier_of_any_length_is_echoed_in_the_least_room(story: Story, size: int) -> None:
    reply = story.hear(DISCOVER, client_id=b"i" * size, asks=list(range(1, 255)))
    assert reply is not None
    assert reply.options[Code.CLIENT_ID] == b"i" * size
    assert {51, 53, 54} <= set(reply.options)


# Size: option 57 (§9.10), overload (§9.3), long options (RFC 3396)


def octets(story: Story, ask: Packet) -> bytes:
    return render(decide(story.table, ask, story.now), ask, story.table.pool)


@pytest.mark.parametrize("limit", [None, 0, 300, 576, 577, 600, 700, 1000, 1500, 9000, 65535])
def test_9_10_a_reply_is_no_larger_than_its_client_takes(pool: records.Pool, limit: int | None) -> None:
    bulk = {code: bytes((code,)) * 60 for code in range(200, 230)}
    story = Story(pool, Settings(TERMS, bulk))
    options = {} if limit is None else {57: limit.to_bytes(2)}
    ask = packet(DISCOVER, asks=[1, 3, *bulk], options=options, client_id=b"\0me")
    data = octets(story, ask)
    most = min(max(limit or 576, 576), 1500)
    assert len(data) + 28 <= most
    assert len(data) + 28 > most - 62, "and as full as it can be"
    reply = wire.decode(data)
    assert isinstance(reply, Packet)
    assert {51, 53, 54, 61, 1, 3} <= set(reply.options)
    for code, value in bulk.items():
        assert reply.options.get(code, value) == value, "none is cut"
    if limit is None:
        assert reply.options[52] == b"\x03", "both fields are used before an option is left out"


def test_the_limit_is_never_more_than_the_links_mtu(pool: records.Pool) -> None:
    small = records.Pool(pool.subnet, pool.gateway, pool.dns, pool.addresses, 1400)
    bulk = {code: bytes(60) for code in range(200, 230)}
    story = Story(small, Settings(TERMS, bulk))
    size = len(octets(story, packet(DISCOVER, asks=[*bulk], options={57: (1500).to_bytes(2)}))) + 28
    assert 1400 - 62 < size <= 1400


def test_what_a_lease_cannot_do_without_goes_before_what_is_asked_for_first(pool: records.Pool) -> None:
    bulk = {code: bytes(4) for code in range(130, 249)}
    reply = Story(pool, Settings(TERMS, bulk)).hear(DISCOVER, asks=[*bulk, 51, 54, 53], client_id=b"\0me")
    assert reply is not None
    assert {51, 53, 54, 61} <= set(reply.options)


@pytest.mark.parametrize(
    ("sizes", "overload", "left_out"),
    [
        ((100, 100), None, ()),
        ((200, 100), b"\x01", ()),  # the second one into file
        ((230, 120, 50), b"\x03", ()),  # and the third into sname
        ((230, 125, 61), b"\x03", ()),  # each to the last octet, which is END
        ((230, 125, 62), b"\x01", (202,)),
        ((230, 126), None, (201,)),
        ((255,), None, ()),
        ((280,), None, (200,)),  # in two pieces, and one octet too long
        ((300, 10), None, (200,)),
        ((300, 300), None, (200, 201)),
    ],
)
def test_9_3_file_then_sname_take_what_the_options_field_cannot(
    pool: records.Pool, sizes: tuple[int, ...], overload: bytes | None, left_out: tuple[int, ...]
) -> None:
    bulk = {200 + number: bytes((number + 1,)) * size for number, size in enumerate(sizes)}
    story = Story(pool, Settings(TERMS, bulk))
    data = octets(story, packet(DISCOVER, asks=[*bulk]))
    reply = wire.decode(data)
    assert isinstance(reply, Packet)
    assert reply.options.get(52) == overload
    assert {code for code in bulk if code not in reply.options} == set(left_out)
    fields = {"options": data[240:], "file": data[108:236], "sname": data[44:108]}
    assert 255 in fields["options"]
    for bit, field in ((1, "file"), (2, "sname")):
        used = bool(overload and overload[0] & bit)
        assert any(fields[field]) == used
        assert (b"\xff" in fields[field]) == used, "each field that is used ends with END"


def test_rfc_3396_what_is_longer_than_255_is_split_and_joined(pool: records.Pool) -> None:
    long = bytes(range(256)) * 3
    story = Story(pool, Settings(TERMS, {43: long}))
    data = octets(story, packet(DISCOVER, asks=[43, 3], options={57: (1500).to_bytes(2)}))
    reply = wire.decode(data)
    assert isinstance(reply, Packet)
    assert reply.options[43] == long
    theirs = [option for option in BOOTP(data)[DHCP].options if option[0] == "vendor_specific"]
    assert b"".join(value for _, value in theirs) == long
    assert [len(value) for _, value in theirs] == [255, 255, 255, 3]


@pytest.mark.parametrize("asks", [[1, 3, 6], [*FORMS], [121, 119, 15]], ids=str)
def test_scapy_reads_every_reply_as_we_meant_it(story: Story, asks: list[int]) -> None:
    data = octets(story, packet(DISCOVER, asks=asks, options={57: (1500).to_bytes(2)}))
    theirs = {option[0]: option[1] for option in BOOTP(data)[DHCP].options if isinstance(option, tuple)}
    assert theirs["message-type"] == 2
    assert theirs["server_id"] == "172.20.100.1"
    assert theirs["lease_time"] == 3600
    assert BOOTP(data).yiaddr == str(IPv4Address(FIRST))
    if 1 in asks:
        assert theirs["subnet_mask"] == "255.255.255.0"
