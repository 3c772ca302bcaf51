"""Through relays: BOOTP's rules, and what option 82 adds (RFC 1542, 3046, 3527, 5107); and option 118 (RFC 3011)."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest

from cocoon_net import records
from cocoon_net.dhcp import wire
from cocoon_net.dhcp.decision import Reason
from cocoon_net.dhcp.lease import Client
from cocoon_net.dhcp.options import MessageType
from cocoon_net.dhcp.reply import Way, decide, destination, render
from cocoon_net.dhcp.wire import Packet
from tests.dhcp.story import ALICE, BOB, FIRST, SERVER, Story, packet

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = MessageType

RELAY = int(IPv4Address("172.20.100.200"))
FAR_RELAY = int(IPv4Address("192.168.1.1"))
FAR = int(IPv4Address("192.168.1.0"))
HERE = int(IPv4Address("172.20.100.0"))
OVERRIDE = int(IPv4Address("192.168.1.254"))
CIRCUIT = b"\x01\x04eth1\x02\x06\x00\x01\x02\x03\x04\x05"


def sub(code: int, value: int) -> bytes:
    return bytes((code, 4)) + value.to_bytes(4)


@pytest.fixture
def story(pool: records.Pool) -> Story:
    return Story(pool)


def ask_for(kind: MessageType, mine: int, **more: Any) -> Packet:
    return {
        OFFER: lambda: packet(DISCOVER, **more),
        ACK: lambda: packet(REQUEST, ciaddr=mine, **more),
        NAK: lambda: packet(REQUEST, ciaddr=mine + 1, **more),
        INFORM: lambda: packet(INFORM, ciaddr=mine, **more),
    }[kind]()


@pytest.mark.parametrize("kind", [OFFER, ACK, NAK])
@pytest.mark.parametrize("flags", [0, wire.BROADCAST])
def test_rfc_1542_4_1_2_a_reply_goes_back_to_the_relays_server_port(
    story: Story, kind: MessageType, flags: int
) -> None:
    ask = ask_for(kind, story.bind(), giaddr=RELAY, hops=3, flags=flags)
    assert destination(decide(story.table, ask, story.now), ask) == (Way.RELAY, RELAY)
    reply = story.answer(ask)
    assert reply is not None
    assert (reply.giaddr, reply.hops) == (RELAY, 0)
    # RFC 2131 §4.3.2: "the server MUST set the broadcast bit in the DHCPNAK, so that the relay agent will broadcast it"
    assert reply.flags == (wire.BROADCAST if kind is NAK else flags)


def test_4_3_5_an_inform_is_answered_at_its_clients_address_by_whatever_way_it_came(story: Story) -> None:
    ask = packet(INFORM, ciaddr=FIRST + 99, giaddr=RELAY)
    assert destination(decide(story.table, ask, story.now), ask) == (Way.ROUTED, FIRST + 99)


def test_4_1_an_inform_that_names_no_address_is_answered_at_its_relay(story: Story) -> None:
    ask = packet(INFORM, giaddr=RELAY)
    decision = decide(story.table, ask, story.now)
    assert (decision.kind, decision.address, decision.seconds) == (ACK, 0, 0)
    assert destination(decision, ask) == (Way.RELAY, RELAY)


@pytest.mark.parametrize("kind", [DISCOVER, REQUEST, INFORM, RELEASE, DECLINE])
def test_who_is_behind_a_relay_of_another_subnet_is_not_served(story: Story, kind: MessageType) -> None:
    mine = story.bind()
    decision = story.say(kind, giaddr=FAR_RELAY, ciaddr=mine, requested=mine)
    assert decision == (Reason.OTHER_SUBNET, None, 0, 0, (), None, 0, ())


@pytest.mark.parametrize("giaddr", [0, RELAY])
@pytest.mark.parametrize("kind", [OFFER, ACK, NAK, INFORM])
@pytest.mark.parametrize("told", [CIRCUIT, b"", b"\x01", b"\x05\xff\x00"], ids=repr)
def test_rfc_3046_2_2_option_82_is_echoed_as_it_was_and_last(
    story: Story, kind: MessageType, giaddr: int, told: bytes
) -> None:
    ask = ask_for(kind, story.bind(), giaddr=giaddr, options={82: told, 61: b"\0name"}, asks=[1, 3, 6])
    decision = decide(story.table, ask, story.now)
    data = render(decision, ask, story.table.pool)
    reply = wire.decode(data)
    assert isinstance(reply, Packet)
    assert reply.options[82] == told
    assert list(reply.options)[-1] == 82


def test_option_82_is_not_sent_to_who_did_not_send_it(story: Story) -> None:
    reply = story.hear(DISCOVER, giaddr=RELAY, asks=[1, 82])
    assert reply is not None
    assert 82 not in reply.options


def test_option_82_is_last_in_a_reply_that_needs_every_field(story: Story) -> None:
    ask = packet(DISCOVER, giaddr=RELAY, options={82: b"x" * 200, 61: b"y" * 100}, asks=list(range(1, 60)))
    data = render(decide(story.table, ask, story.now), ask, story.table.pool)
    assert len(data) <= 548
    reply = wire.decode(data)
    assert isinstance(reply, Packet)
    assert (reply.options[82], reply.options[61]) == (b"x" * 200, b"y" * 100)
    main = data[240:].rstrip(b"\0")
    assert main.endswith(b"\x52\xc8" + b"x" * 200 + b"\xff"), "the last of the options field"


LINKS = [  # giaddr, sub-option 5, option 118 -> whether it is our subnet
    (0, None, None, True),
    (0, None, HERE, True),
    (0, None, FIRST, True),
    (0, None, FAR, False),
    (0, HERE, FAR, False),  # without giaddr a client wrote option 82 itself
    (0, FAR, None, True),
    (RELAY, None, None, True),
    (RELAY, FAR, None, False),
    (FAR_RELAY, None, None, False),
    (FAR_RELAY, HERE, None, True),
    (FAR_RELAY, None, HERE, True),  # RFC 3011 §2: the client's subnet, whatever the relay's
    (RELAY, None, FAR, False),
    (FAR_RELAY, HERE, FAR, True),  # RFC 3527 §4: the relay's word goes before the client's
    (RELAY, FAR, HERE, False),
]


@pytest.mark.parametrize(("giaddr", "link", "subnet", "served"), LINKS)
def test_rfc_3527_and_3011_which_link_a_client_is_on(
    story: Story, giaddr: int, link: int | None, subnet: int | None, served: bool
) -> None:
    options = {} if link is None else {82: CIRCUIT + sub(5, link)}
    options |= {} if subnet is None else {118: subnet.to_bytes(4)}
    ask = packet(DISCOVER, giaddr=giaddr, options=options)
    decision = decide(story.table, ask, story.now)
    assert (decision.kind is OFFER) == served, decision.reason
    if served:
        assert destination(decision, ask).address == (giaddr or decision.address), "still answered at giaddr"
        reply = story.answer(ask)
        assert reply is not None
        assert (reply.giaddr, reply.options.get(82)) == (giaddr, options.get(82))
        assert reply.options.get(118) == options.get(118), "RFC 3011 §2: the option is in the reply, too"


@pytest.mark.parametrize("value", [b"", b"\x01\x02\x03", bytes(5)])
def test_a_subnet_selection_of_the_wrong_length_is_as_none(story: Story, value: bytes) -> None:
    assert story.say(DISCOVER, giaddr=RELAY, options={118: value}).kind is OFFER


# RFC 5107: the relay stands in for us, so that renewals come through it, too


def test_rfc_5107_a_client_knows_us_by_the_name_that_its_relay_gives_us(story: Story) -> None:
    via: dict[str, Any] = {"giaddr": RELAY, "options": {82: sub(11, OVERRIDE) + CIRCUIT}}
    offer = story.hear(DISCOVER, asks=[1, 54, 3], **via)
    assert offer is not None
    assert offer.options[54] == OVERRIDE.to_bytes(4)
    assert offer.options[82] == via["options"][82]
    bound = story.hear(REQUEST, server=OVERRIDE, requested=offer.yiaddr, **via)
    assert bound is not None
    assert (bound.type, bound.options[54]) == (ACK, OVERRIDE.to_bytes(4))
    refused = story.hear(REQUEST, ciaddr=offer.yiaddr + 1, **via)
    assert refused is not None
    assert (refused.type, refused.options[54]) == (NAK, OVERRIDE.to_bytes(4))
    assert story.say(RELEASE, ciaddr=offer.yiaddr, server=OVERRIDE, **via).changes


def test_rfc_5107_our_own_name_is_ours_all_the_same_and_another_ones_is_not(story: Story) -> None:
    via: dict[str, Any] = {"giaddr": RELAY, "options": {82: sub(11, OVERRIDE)}}
    offered = story.say(DISCOVER, **via).address
    assert story.say(REQUEST, server=SERVER, requested=offered, **via).kind is ACK
    assert story.say(REQUEST, server=SERVER + 1, requested=offered, **via).reason is Reason.OTHER_SERVER


@pytest.mark.parametrize("told", [sub(11, OVERRIDE), b"\x0b\x03abc", b"\x0b\x08" + bytes(4)])
def test_rfc_5107_counts_only_from_a_relay_and_whole(story: Story, told: bytes) -> None:
    giaddr = 0 if told == sub(11, OVERRIDE) else RELAY
    reply = story.hear(DISCOVER, giaddr=giaddr, options={82: told})
    assert reply is not None
    assert reply.options[54] == SERVER.to_bytes(4)


def test_clients_of_one_relay_get_an_address_each(story: Story) -> None:
    mine, bobs = (story.bind(mac, giaddr=RELAY, port="relay") for mac in (ALICE, BOB))
    assert mine != bobs
    assert story.table.held(Client(ALICE)).address == mine  # type: ignore[union-attr]
