"""What the server answers, paragraph by paragraph of RFC 2131: pure decisions over a table, no socket."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import pytest

from cocoon_net import records
from cocoon_net.dhcp import wire
from cocoon_net.dhcp.allocator import Allocator
from cocoon_net.dhcp.decision import Decision, end
from cocoon_net.dhcp.lease import Client, State
from cocoon_net.dhcp.options import Code, MessageType
from cocoon_net.dhcp.pool import Pool
from cocoon_net.dhcp.reply import EVERYONE, Way, decide, destination, render
from cocoon_net.dhcp.settings import Settings, Terms
from cocoon_net.dhcp.wire import Packet
from cocoon_net.events import LeaseBound, LeaseReleased, LeaseRenewed

ALICE, BOB = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
SERVER = int(IPv4Address("172.20.100.1"))
FIRST = int(IPv4Address("172.20.100.10"))
OTHER_SERVER = int(IPv4Address("172.20.100.2"))
NOW = 1_800_000_000


class Story:
    """A table, and messages to it; what is decided is done, as the server's batch does it."""

    def __init__(self, pool: records.Pool) -> None:
        self.table = Allocator(Pool.of(pool, Settings(Terms(lease=3600, cooling=60, offer=30, quarantine=600))))
        self.now = NOW

    def say(self, kind: MessageType, mac: bytes = ALICE, **fields: Any) -> Decision:
        decision = decide(self.table, packet(kind, mac, **fields), self.now)
        if decision.withdrawn:
            self.table.withdraw(decision.withdrawn)
        if decision.offer is not None:
            self.table.offer(decision.offer)
        for lease in decision.changes:
            self.table.put(lease)
        return decision

    def bind(self, mac: bytes = ALICE) -> int:
        address = self.say(MessageType.DISCOVER, mac).address
        bound = self.say(MessageType.REQUEST, mac, server=SERVER, requested=address)
        assert bound.kind is MessageType.ACK
        return bound.address

    def wait(self, seconds: int) -> None:
        self.now += seconds
        for lease in self.table.due(self.now, 1000):
            done = end(self.table, lease, self.now)
            if done.withdrawn:
                self.table.withdraw(done.withdrawn)
            for change in done.changes:
                self.table.put(change)


def packet(kind: MessageType, mac: bytes = ALICE, **fields: Any) -> Packet:
    options = {int(Code.MESSAGE_TYPE): bytes((kind,))}
    for name, code in (("server", Code.SERVER_ID), ("requested", Code.REQUESTED_ADDRESS)):
        if name in fields:
            options[int(code)] = fields.pop(name).to_bytes(4)
    options.update(fields.pop("options", {}))
    return Packet(wire.REQUEST, 7, mac, options, **fields)


@pytest.fixture
def story(pool: records.Pool) -> Story:
    return Story(pool)


# 4.3.1 DISCOVER


def test_a_discover_without_a_free_address_gets_silence_and_is_told_to_us(pool_of: Callable[..., records.Pool]) -> None:
    story = Story(pool_of(1))
    story.bind(ALICE)
    decision = story.say(MessageType.DISCOVER, BOB)
    assert decision.kind is None
    assert [type(event).__name__ for event in decision.events] == ["PoolExhausted"]


def test_a_discover_is_offered_the_address_it_has_then_had_then_asks_for_then_the_longest_unused(story: Story) -> None:
    wished = FIRST + 7
    assert story.say(MessageType.DISCOVER, BOB, requested=wished).address == wished
    mine = story.bind(ALICE)
    assert mine == FIRST
    assert story.say(MessageType.DISCOVER, ALICE, requested=FIRST + 9).address == mine, "its own goes before its wish"
    story.say(MessageType.RELEASE, ALICE, ciaddr=mine, server=SERVER)
    assert story.say(MessageType.DISCOVER, ALICE).address == mine, "also while it cools"
    assert story.say(MessageType.DISCOVER, BOB, requested=mine).address != mine, "nobody else gets it meanwhile"


def test_an_offer_is_kept_for_its_client_and_given_up_after_a_while(story: Story) -> None:
    offered = story.say(MessageType.DISCOVER, ALICE).address
    assert story.say(MessageType.DISCOVER, ALICE).address == offered, "asking again is offered the same"
    assert story.say(MessageType.DISCOVER, BOB, requested=offered).address != offered
    story.wait(31)
    assert story.table.offered(Client(ALICE)) is None


# 4.3.2 REQUEST


def test_selecting_another_server_is_answered_by_silence_and_frees_our_offer(story: Story) -> None:
    offered = story.say(MessageType.DISCOVER).address
    decision = story.say(MessageType.REQUEST, server=OTHER_SERVER, requested=offered)
    assert decision.kind is None
    assert story.table.offered(Client(ALICE)) is None


def test_selecting_binds_what_was_offered(story: Story) -> None:
    offered = story.say(MessageType.DISCOVER).address
    decision = story.say(MessageType.REQUEST, server=SERVER, requested=offered)
    assert (decision.kind, decision.address, decision.seconds) == (MessageType.ACK, offered, 3600)
    assert [lease.state for lease in decision.changes] == [State.BOUND], "there is something to commit first"
    assert isinstance(decision.events[0], LeaseBound)


def test_selecting_an_address_of_somebody_else_is_refused(story: Story) -> None:
    taken = story.bind(BOB)
    assert story.say(MessageType.REQUEST, ALICE, server=SERVER, requested=taken).kind is MessageType.NAK


def test_init_reboot_on_the_wrong_network_is_refused(story: Story) -> None:
    elsewhere = int(IPv4Address("10.0.0.9"))
    assert story.say(MessageType.REQUEST, requested=elsewhere).kind is MessageType.NAK


def test_init_reboot_of_a_client_without_a_record_is_answered_by_silence(story: Story) -> None:
    assert story.say(MessageType.REQUEST, requested=FIRST).kind is None


def test_init_reboot_with_the_right_address_is_confirmed(story: Story) -> None:
    mine = story.bind()
    decision = story.say(MessageType.REQUEST, requested=mine)
    assert (decision.kind, decision.address) == (MessageType.ACK, mine)


def test_init_reboot_with_another_address_than_its_own_is_refused(story: Story) -> None:
    mine = story.bind()
    assert story.say(MessageType.REQUEST, requested=mine + 3).kind is MessageType.NAK


@pytest.mark.parametrize("state", ["renewing", "rebinding"])
def test_renewing_and_rebinding_extend_the_lease(story: Story, state: str) -> None:
    mine = story.bind()
    story.wait(1800)
    decision = story.say(MessageType.REQUEST, ciaddr=mine)
    assert (decision.kind, decision.address) == (MessageType.ACK, mine)
    assert decision.changes[0].ends == story.now + 3600
    assert isinstance(decision.events[0], LeaseRenewed)


def test_renewing_an_address_that_went_to_somebody_else_is_refused(pool_of: Callable[..., records.Pool]) -> None:
    story = Story(pool_of(1))
    mine = story.bind(ALICE)
    story.wait(3601)
    story.wait(61)
    assert story.bind(BOB) == mine
    assert story.say(MessageType.REQUEST, ALICE, ciaddr=mine).kind is MessageType.NAK


# 4.3.3 DECLINE, 4.3.4 RELEASE, 4.3.5 INFORM


def test_a_declined_address_is_not_offered_again_until_its_quarantine_ends(
    pool_of: Callable[..., records.Pool],
) -> None:
    story = Story(pool_of(2))
    bad = story.bind()
    assert story.say(MessageType.DECLINE, requested=bad, server=SERVER).kind is None
    other = story.say(MessageType.DISCOVER).address
    assert other not in (0, bad)
    assert story.say(MessageType.DISCOVER, BOB).kind is None, "nothing else is free"
    story.wait(601)
    assert story.say(MessageType.DISCOVER, BOB).address == bad


def test_nobody_declines_or_releases_the_address_of_another(story: Story) -> None:
    mine = story.bind(ALICE)
    assert not story.say(MessageType.DECLINE, BOB, requested=mine, server=SERVER).changes
    assert not story.say(MessageType.RELEASE, BOB, ciaddr=mine, server=SERVER).changes
    assert not story.say(MessageType.RELEASE, ALICE, ciaddr=mine, server=OTHER_SERVER).changes
    assert story.table.at(mine).state is State.BOUND


def test_a_released_address_cools_before_another_client_gets_it(pool_of: Callable[..., records.Pool]) -> None:
    story = Story(pool_of(1))
    mine = story.bind(ALICE)
    decision = story.say(MessageType.RELEASE, ALICE, ciaddr=mine, server=SERVER)
    assert decision.kind is None
    assert isinstance(decision.events[0], LeaseReleased)
    assert story.say(MessageType.DISCOVER, BOB).kind is None
    story.wait(61)
    assert story.say(MessageType.DISCOVER, BOB).address == mine


def test_an_inform_is_acknowledged_without_address_and_lease_time(story: Story) -> None:
    ask = packet(MessageType.INFORM, ciaddr=FIRST + 15)
    decision = decide(story.table, ask, NOW)
    assert (decision.kind, decision.address, decision.seconds, decision.changes) == (MessageType.ACK, 0, 0, ())
    said = wire.decode(render(decision, ask, story.table.pool))
    assert isinstance(said, Packet)
    assert (said.yiaddr, said.ciaddr) == (0, FIRST + 15)
    assert not {Code.LEASE_TIME, Code.RENEWAL_TIME, Code.REBINDING_TIME} & set(said.options)
    assert destination(decision, ask).address == FIRST + 15


# Replies: table 3, RFC 2132, RFC 6842, 4.1


def test_a_reply_carries_what_was_asked_for_in_that_order_and_echoes_the_client(story: Story) -> None:
    wanted = bytes((Code.ROUTER, Code.DNS, Code.SUBNET_MASK, 252))
    ask = packet(MessageType.DISCOVER, options={int(Code.PARAMETER_LIST): wanted, int(Code.CLIENT_ID): b"\x01" + ALICE})
    said = wire.decode(render(decide(story.table, ask, NOW), ask, story.table.pool))
    assert isinstance(said, Packet)
    assert (said.op, said.xid, said.chaddr, said.yiaddr) == (wire.REPLY, 7, ALICE, FIRST)
    assert said.options[Code.ROUTER] == said.options[Code.SERVER_ID] == SERVER.to_bytes(4)
    assert said.options[Code.DNS] == bytes((8, 8, 8, 8, 1, 1, 1, 1))
    assert said.options[Code.LEASE_TIME] == (3600).to_bytes(4)
    assert said.options[Code.CLIENT_ID] == b"\x01" + ALICE
    assert Code.MTU not in said.options, "it was not asked for"
    order = [code for code in said.options if code in wanted]
    assert order == [Code.SUBNET_MASK, Code.ROUTER, Code.DNS], "the mask before the router (RFC 2132 3.3)"


def test_without_a_list_everything_is_told(story: Story) -> None:
    ask = packet(MessageType.DISCOVER)
    said = wire.decode(render(decide(story.table, ask, NOW), ask, story.table.pool))
    assert isinstance(said, Packet)
    assert {1, 3, 6, 26, 28, 51, 53, 54, 58, 59} <= set(said.options)
    assert said.options[Code.MTU] == (1500).to_bytes(2)


def test_a_nak_is_broadcast_and_says_why(story: Story) -> None:
    ask = packet(MessageType.REQUEST, ciaddr=int(IPv4Address("10.0.0.9")))
    decision = decide(story.table, ask, NOW)
    assert destination(decision, ask) == EVERYONE
    said = wire.decode(render(decision, ask, story.table.pool))
    assert isinstance(said, Packet)
    assert (said.yiaddr, said.ciaddr) == (0, 0)
    assert said.options[Code.MESSAGE] == b"the address is not in this subnet"
    assert set(said.options) == {Code.MESSAGE_TYPE, Code.SERVER_ID, Code.MESSAGE}


@pytest.mark.parametrize(
    ("fields", "way", "address"),
    [
        ({}, Way.DIRECT, FIRST),
        ({"flags": wire.BROADCAST}, Way.BROADCAST, 0xFFFFFFFF),
        ({"giaddr": FIRST + 100}, Way.RELAY, FIRST + 100),
        ({"giaddr": FIRST + 100, "flags": wire.BROADCAST}, Way.RELAY, FIRST + 100),
    ],
)
def test_a_reply_goes_where_4_1_sends_it(story: Story, fields: dict[str, int], way: Way, address: int) -> None:
    ask = packet(MessageType.DISCOVER, **fields)
    assert destination(decide(story.table, ask, NOW), ask) == (way, address)


def test_the_gateway_and_what_is_outside_the_subnet_never_enter_the_pool(pool_of: Callable[..., records.Pool]) -> None:
    story = Story(pool_of(3, first="172.20.100.1"))
    assert SERVER not in story.table.pool.members
    assert {story.bind(bytes((2, 0, 0, 0, 0, n))) for n in range(2)} == {SERVER + 1, SERVER + 2}


def test_no_address_is_ever_held_by_two_clients(pool_of: Callable[..., records.Pool]) -> None:
    story = Story(pool_of(8))
    macs = [bytes((2, 0, 0, 0, 0, n)) for n in range(20)]
    for turn in range(400):
        mac = macs[(turn * 7) % len(macs)]
        offer = story.say(MessageType.DISCOVER, mac)
        if offer.kind is not None:
            story.say(MessageType.REQUEST, mac, server=SERVER, requested=offer.address)
        if turn % 3 == 0 and (held := story.table.held(Client(mac))) is not None:
            story.say(MessageType.RELEASE, mac, ciaddr=held.address, server=SERVER)
        story.wait(turn % 40)
        bound = [lease for lease in story.table.leases.values() if lease.state is State.BOUND]
        assert len({lease.mac for lease in bound}) == len(bound) == len({lease.address for lease in bound})
        assert story.table.counts[State.BOUND] == len(bound)
