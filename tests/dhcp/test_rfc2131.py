"""What the server answers, paragraph by paragraph of RFC 2131: pure decisions over a table, no socket.

The options themselves are in test_rfc2132, relays in test_relays, who is a client in test_clients, nonsense in
test_malformed.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import pytest

from cocoon_net import records
from cocoon_net.dhcp import wire
from cocoon_net.dhcp.book import Book, Note
from cocoon_net.dhcp.decision import Reason, promised, release
from cocoon_net.dhcp.lease import Client, State
from cocoon_net.dhcp.options import Code, MessageType
from cocoon_net.dhcp.reply import EVERYONE, Way, decide, destination, render
from cocoon_net.dhcp.settings import Settings, Terms
from cocoon_net.dhcp.table import Table
from cocoon_net.events import LeaseBound, LeaseDeclined, LeaseReleased, LeaseRenewed, PoolExhausted
from tests.dhcp.story import ALICE, BOB, CAROL, FIRST, NOW, OTHER_SERVER, SERVER, Story, packet

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = MessageType


@pytest.fixture
def story(pool: records.Pool) -> Story:
    return Story(pool)


# §4.3.2: each state of a client that requests x each state of our record of it; a DHCPACK, n DHCPNAK, - silence.

MINE, BOBS, FREE, NOT_POOLED, ELSEWHERE = "mine", "bob's", "free", "not pooled", "elsewhere"
RECORDS = ("none", "offered", "bound", "released", "expired")
SELECTING, OTHERS, REBOOT, RENEWING = "selecting", "selecting another server", "init-reboot", "renewing"
ANSWERS = {
    # The client took an offer of ours: confirmed if it can have the address, refused if it cannot.
    (SELECTING, MINE): "aaaaa",
    (SELECTING, BOBS): "nnnnn",
    (SELECTING, FREE): "aaaaa",  # "unable to satisfy" is what a NAK is for
    (SELECTING, NOT_POOLED): "nnnnn",
    (SELECTING, ELSEWHERE): "nnnnn",
    # "the server identifier ... is not that of this server": it declined our offer, and that is all it says to us.
    (OTHERS, MINE): "-----",
    # "If the DHCP server has no record of this client, then it MUST remain silent"; but what another client of ours
    # has is known to be wrong, and so is another network.
    (REBOOT, MINE): "-aaaa",
    (REBOOT, BOBS): "nnnnn",
    (REBOOT, FREE): "--nnn",
    (REBOOT, NOT_POOLED): "--nnn",
    (REBOOT, ELSEWHERE): "nnnnn",
    # RENEWING and REBINDING: only we can have leased an address of our pool, so a lost record is taken up again; one
    # that we do not serve was another node's, where the guest is no more.
    (RENEWING, MINE): "aaaaa",
    (RENEWING, BOBS): "nnnnn",
    (RENEWING, FREE): "aannn",
    (RENEWING, NOT_POOLED): "nnnnn",
    (RENEWING, ELSEWHERE): "nnnnn",
}


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize(("state", "address"), ANSWERS)
def test_4_3_2_each_request_has_its_answer(story: Story, state: str, address: str, record: str) -> None:
    bobs = story.bind(BOB)
    mine = bobs + 1
    match record:
        case "offered":
            assert story.say(DISCOVER).address == mine
        case "bound" | "released" | "expired":
            assert story.bind() == mine
            if record == "released":
                story.say(RELEASE, ciaddr=mine, server=SERVER)
            if record == "expired":
                story.wait(1800)
                story.say(REQUEST, BOB, ciaddr=bobs)
                story.wait(1801)
                story.wait(61)
    wished = {
        MINE: mine,
        BOBS: bobs,
        FREE: FIRST + 15,
        NOT_POOLED: FIRST + 150,
        ELSEWHERE: int(IPv4Address("10.0.0.9")),
    }[address]
    how: dict[str, Any] = {
        SELECTING: {"server": SERVER, "requested": wished},
        OTHERS: {"server": OTHER_SERVER, "requested": wished},
        REBOOT: {"requested": wished},
        RENEWING: {"ciaddr": wished},
    }[state]
    decision = story.say(REQUEST, **how)
    answer = {ACK: "a", NAK: "n", None: "-"}[decision.kind]
    assert answer == ANSWERS[state, address][RECORDS.index(record)], decision.reason
    assert decision.address == (wished if answer == "a" else 0)
    assert story.table.at(bobs).mac == BOB, "nobody else's lease is ever touched"


@pytest.mark.parametrize(
    "how",
    [{}, {"server": SERVER}, {"server": 0}],
    ids=str,
)
def test_4_3_2_a_request_that_names_no_address_is_not_answered(story: Story, how: dict[str, int]) -> None:
    story.bind()
    assert story.say(REQUEST, **how).reason is Reason.NO_ADDRESS


@pytest.mark.parametrize("how", [{}, {"server": SERVER}], ids=str)
def test_4_3_2_a_request_for_no_address_at_all_is_for_one_of_another_network(story: Story, how: dict[str, int]) -> None:
    decision = story.say(REQUEST, requested=0, **how)
    assert (decision.kind, decision.reason) == (NAK, Reason.WRONG_SUBNET)


def test_4_3_2_a_renewal_of_what_we_do_not_serve_is_refused_unless_a_relay_brings_it(story: Story) -> None:
    """There is no other server on the bridge; behind a relay there may be one, and the address its."""
    assert story.say(REQUEST, ciaddr=FIRST + 150).reason is Reason.NOT_IN_POOL
    assert story.say(REQUEST, ciaddr=FIRST + 150, giaddr=FIRST + 100).reason is Reason.NO_RECORD
    assert story.say(REQUEST, ciaddr=FIRST + 15, giaddr=FIRST + 100).kind is ACK
    offered = story.say(DISCOVER, BOB).address
    story.say(DECLINE, BOB, requested=offered, server=SERVER)
    assert story.say(REQUEST, CAROL, ciaddr=offered).reason is Reason.TAKEN, "somebody uses it"


MIXED = [  # what no client should say (table 5), and what is understood: the server, option 50, ciaddr -> the answer
    (SERVER, "mine", "mine", "ack mine"),
    (SERVER, "mine", "bob's", "ack mine"),  # with a server identifier it is SELECTING: option 50 counts
    (SERVER, "mine", "elsewhere", "ack mine"),
    (SERVER, "bob's", "mine", "nak"),
    (SERVER, None, "mine", "ack mine"),
    (SERVER, None, "bob's", "nak"),
    (OTHER_SERVER, "mine", "mine", "-"),  # renewing with another server: not ours to say
    (OTHER_SERVER, None, "mine", "-"),
    (OTHER_SERVER, "bob's", None, "-"),
    (OTHER_SERVER, "elsewhere", None, "-"),
    (None, "mine", "mine", "ack mine"),
    (None, "bob's", "mine", "ack mine"),  # without one it is RENEWING: ciaddr counts
    (None, "mine", "bob's", "nak"),
    (None, "mine", "elsewhere", "nak"),
    (0, "mine", None, "ack mine"),  # a server identifier of 0 is as none
    (0, None, "mine", "ack mine"),
]


@pytest.mark.parametrize(("server", "requested", "ciaddr", "answer"), MIXED)
def test_4_3_2_what_names_two_addresses_is_read_by_its_server_identifier(
    story: Story, server: int | None, requested: str | None, ciaddr: str | None, answer: str
) -> None:
    bobs, mine = story.bind(BOB), story.bind(ALICE)
    where = {"mine": mine, "bob's": bobs, "elsewhere": int(IPv4Address("10.0.0.9")), None: 0}
    wished = None if requested is None else where[requested]
    decision = story.say(REQUEST, server=server, requested=wished, ciaddr=where[ciaddr])
    told = {ACK: "ack", NAK: "nak", None: "-"}[decision.kind]
    assert told + (" mine" if decision.address == mine else "") == answer, decision.reason
    assert (story.table.at(mine).mac, story.table.at(bobs).mac) == (ALICE, BOB)


@pytest.mark.parametrize(
    "fields",
    [
        {"secs": 0xFFFF},
        {"hops": 255},
        {"ciaddr": FIRST + 9},
        {"yiaddr": FIRST + 9, "siaddr": OTHER_SERVER},
        {"server": SERVER},
        {"server": OTHER_SERVER},
        {"requested": 0},
        {"requested": 0xFFFFFFFF},
        {"requested": SERVER},
        {"requested": FIRST - 10},
        {"requested": FIRST + 245},
        {"requested": int(IPv4Address("10.0.0.9"))},
        {"options": {12: b""}},
        {"options": {43: b"", 60: b"", 77: b"", 81: b"", 116: b"\1", 254: b"x"}},
        {"options": {57: b"\0\0"}},
        {"options": {57: b"\xff\xff"}},
    ],
    ids=str,
)
def test_4_3_1_whatever_a_discover_says_besides_it_is_offered_an_address_that_is_free(
    story: Story, fields: dict[str, Any]
) -> None:
    reply = story.hear(DISCOVER, **fields)
    assert reply is not None
    assert (reply.type, reply.yiaddr) == (OFFER, FIRST)
    assert (reply.siaddr, reply.ciaddr, reply.secs, reply.hops) == (0, 0, 0, 0)


def test_4_3_2_selecting_by_ciaddr_alone_is_understood(story: Story) -> None:
    mine = story.bind()
    assert story.say(REQUEST, server=SERVER, ciaddr=mine).address == mine, "clients that renew with option 54 exist"


def test_a_discover_without_a_free_address_gets_silence_and_is_told_to_us(pool_of: Callable[..., records.Pool]) -> None:
    story = Story(pool_of(1))
    story.bind(ALICE)
    decision = story.say(DISCOVER, BOB)
    assert decision.kind is None
    assert isinstance(decision.events[0], PoolExhausted)


def test_a_discover_is_offered_the_address_it_has_then_had_then_asks_for_then_the_longest_unused(story: Story) -> None:
    wished = FIRST + 7
    assert story.say(DISCOVER, BOB, requested=FIRST + 3).address == FIRST + 3
    assert story.say(DISCOVER, BOB, requested=wished).address == wished, "it may change its mind"
    mine = story.bind(ALICE)
    assert mine == FIRST
    assert story.say(DISCOVER, ALICE, requested=FIRST + 9).address == mine, "its own goes before its wish"
    story.say(RELEASE, ALICE, ciaddr=mine, server=SERVER)
    assert story.say(DISCOVER, ALICE).address == mine, "also while it cools"
    assert story.say(DISCOVER, BOB).address != mine, "who does not ask for it gets another one"


def test_an_offer_is_kept_for_its_client_and_given_up_after_a_while(story: Story) -> None:
    offered = story.say(DISCOVER, ALICE).address
    assert story.say(DISCOVER, ALICE).address == offered, "asking again is offered the same"
    assert story.say(DISCOVER, BOB, requested=offered).address != offered
    story.wait(31)
    assert story.table.offered(Client(ALICE)) is None


def test_selecting_another_server_is_answered_by_silence_and_frees_our_offer(story: Story) -> None:
    offered = story.say(DISCOVER).address
    decision = story.say(REQUEST, server=OTHER_SERVER, requested=offered)
    assert decision.kind is None
    assert story.table.offered(Client(ALICE)) is None


def test_selecting_binds_what_was_offered(story: Story) -> None:
    offered = story.say(DISCOVER).address
    decision = story.say(REQUEST, server=SERVER, requested=offered)
    assert (decision.kind, decision.address, decision.seconds) == (ACK, offered, 3600)
    assert [lease.state for lease in decision.changes] == [State.BOUND], "there is something to commit first"
    assert isinstance(promised(decision, story.now), LeaseBound)


@pytest.mark.parametrize("state", ["renewing", "rebinding"])
def test_renewing_and_rebinding_extend_the_lease(story: Story, state: str) -> None:
    mine = story.bind()
    story.wait(1800)
    decision = story.say(REQUEST, ciaddr=mine)
    assert (decision.kind, decision.address) == (ACK, mine)
    assert decision.changes[0].ends == story.now + 3600
    assert isinstance(promised(decision, story.now), LeaseRenewed)


def test_renewing_an_address_that_went_to_somebody_else_is_refused(pool_of: Callable[..., records.Pool]) -> None:
    story = Story(pool_of(1))
    mine = story.bind(ALICE)
    story.wait(3601)
    story.wait(61)
    assert story.bind(BOB) == mine
    assert story.say(REQUEST, ALICE, ciaddr=mine).kind is NAK


def test_who_has_a_lease_has_no_offer_any_more(story: Story) -> None:
    assert story.say(DISCOVER).address == FIRST
    assert story.say(REQUEST, ciaddr=FIRST + 5).address == FIRST + 5
    assert story.table.offered(Client(ALICE)) is None
    assert story.say(DISCOVER, BOB, requested=FIRST).address == FIRST


# §4.3.1 DHCPDISCOVER


def test_what_has_not_been_used_for_the_longest_time_is_offered_first(pool_of: Callable[..., records.Pool]) -> None:
    story = Story(pool_of(3))
    addresses = [story.bind(mac) for mac in (ALICE, BOB, CAROL)]
    for mac, address in ((BOB, addresses[1]), (ALICE, addresses[0]), (CAROL, addresses[2])):
        story.say(RELEASE, mac, ciaddr=address, server=SERVER)
        story.wait(1)
    for _ in range(60):
        story.wait(1)
    strangers = (bytes((2, 0, 0, 0, 0, n)) for n in range(3))
    assert [story.bind(mac) for mac in strangers] == [addresses[1], addresses[0], addresses[2]]


def test_a_restart_does_not_forget_what_was_used_last(pool_of: Callable[..., records.Pool]) -> None:
    story = Story(pool_of(3))
    addresses = [story.bind(mac) for mac in (ALICE, BOB)]
    for mac, address in ((BOB, addresses[1]), (ALICE, addresses[0])):
        story.say(RELEASE, mac, ciaddr=address, server=SERVER)
        story.wait(1)
    for _ in range(70):
        story.wait(1)
    again = Story(pool_of(3))
    again.table = Table(again.table.pool, story.table.leases.values())
    strangers = (bytes((2, 0, 0, 0, 0, n)) for n in range(3))
    (never,) = {int(one) for one in pool_of(3).addresses} - set(addresses)
    assert [again.bind(mac) for mac in strangers] == [never, addresses[1], addresses[0]]


def test_a_released_client_finds_its_address_again_until_it_was_needed(pool_of: Callable[..., records.Pool]) -> None:
    story = Story(pool_of(2))
    mine = story.bind(ALICE)
    story.say(RELEASE, ALICE, ciaddr=mine, server=SERVER)
    story.wait(86_400)
    assert story.say(DISCOVER, ALICE).address == mine, "a VM that slept for a day has its address"
    story.wait(31)
    for mac in (BOB, CAROL):
        story.bind(mac)
    assert story.say(DISCOVER, ALICE).kind is None


def test_a_scattered_pool_is_served_to_the_last_address_and_nothing_else(pool: records.Pool) -> None:
    network = pool.subnet
    scattered = tuple(network[n] for n in (0, 1, 7, 99, 200, 255))
    elsewhere = IPv4Address("172.20.101.7")
    story = Story(records.Pool(network, network[1], (), (*scattered, elsewhere), 1500))
    got = {story.bind(bytes((2, 0, 0, 0, 0, n))) for n in range(3)}
    assert got == {int(network[n]) for n in (7, 99, 200)}, "never the network, the gateway, the broadcast address"
    assert story.say(DISCOVER, CAROL).reason is Reason.EXHAUSTED


@pytest.mark.parametrize(
    ("wished", "granted"),
    [
        (None, 3600),  # "ELSE ... the locally configured default lease time"
        (1800, 1800),
        (3600, 3600),
        (7200, 3600),
        (0xFFFF_FFFF, 3600),
        (10, 10),
        (1, 10),  # "the server may choose ... another lease"
        (0, 10),
    ],
)
def test_a_lease_time_is_granted_up_to_ours(story: Story, wished: int | None, granted: int) -> None:
    options = {} if wished is None else {int(Code.LEASE_TIME): wished.to_bytes(4)}
    offer = story.hear(DISCOVER, options=options)
    assert offer is not None
    ack = story.hear(REQUEST, server=SERVER, requested=offer.yiaddr, options=options)
    assert ack is not None
    for reply in (offer, ack):
        times = [int.from_bytes(reply.options[code]) for code in (51, 58, 59)]
        assert times == [granted, granted // 2, granted * 7 // 8], "§4.4.5: T1 0.5, T2 0.875"


def test_4_3_2_an_ack_does_not_conflict_with_the_offer_before_it(story: Story) -> None:
    offered = story.say(DISCOVER, options={int(Code.LEASE_TIME): (600).to_bytes(4)})
    assert story.say(REQUEST, server=SERVER, requested=offered.address).seconds == 600
    assert story.say(REQUEST, ciaddr=offered.address).seconds == 3600, "a renewal is not bound by it"


def test_a_lease_may_be_for_ever(pool: records.Pool) -> None:
    story = Story(pool, Settings(Terms(lease=0xFFFF_FFFF)))
    offer = story.hear(DISCOVER, options={int(Code.LEASE_TIME): b"\xff" * 4})
    assert offer is not None
    assert {offer.options[code] for code in (51, 58, 59)} == {b"\xff" * 4}, "§3.3: infinity, its T1 and T2 too"


def test_a_renewal_can_shorten_a_lease(story: Story) -> None:
    mine = story.bind()
    renewed = story.say(REQUEST, ciaddr=mine, options={int(Code.LEASE_TIME): (600).to_bytes(4)})
    assert renewed.changes[0].ends == story.now + 600


# §4.3.3 DHCPDECLINE, §4.3.4 DHCPRELEASE, §4.3.5 DHCPINFORM


def test_a_declined_address_is_not_offered_again_until_its_quarantine_ends(
    pool_of: Callable[..., records.Pool],
) -> None:
    story = Story(pool_of(2))
    bad = story.bind()
    assert story.say(DECLINE, requested=bad, server=SERVER).kind is None
    other = story.bind()
    assert other != bad
    assert story.say(DISCOVER, BOB, requested=bad).kind is None, "nothing else is free"
    story.wait(601)
    assert story.say(DISCOVER, BOB).address == bad


def test_nobody_declines_or_releases_the_address_of_another(story: Story) -> None:
    mine = story.bind(ALICE)
    assert not story.say(DECLINE, BOB, requested=mine, server=SERVER).changes
    assert not story.say(RELEASE, BOB, ciaddr=mine, server=SERVER).changes
    assert not story.say(RELEASE, ALICE, ciaddr=mine, server=OTHER_SERVER).changes
    assert story.table.at(mine).state is State.BOUND


def test_4_3_1_a_released_address_is_given_to_who_asks_for_it_and_last_to_who_does_not(
    pool_of: Callable[..., records.Pool],
) -> None:
    """It is "valid and not already allocated"; but no stranger gets it unasked while it may have old connections."""
    story = Story(pool_of(3))
    mine = story.bind(ALICE)
    decision = story.say(RELEASE, ALICE, ciaddr=mine, server=SERVER)
    assert (decision.kind, type(decision.events[0])) == (None, LeaseReleased)
    assert story.say(DISCOVER, BOB).address == FIRST + 1
    assert story.say(DISCOVER, CAROL).address == FIRST + 2
    story.wait(31)
    assert story.say(DISCOVER, CAROL, requested=mine).address == mine
    assert story.say(DISCOVER, BOB, requested=mine).address != mine, "one of them"
    assert story.say(DISCOVER, ALICE).address != mine, "it is on offer"
    bound = story.say(REQUEST, CAROL, server=SERVER, requested=mine)
    assert (bound.kind, bound.changes[-1].mac) == (ACK, CAROL)
    assert story.say(REQUEST, ALICE, ciaddr=mine).kind is NAK


def test_a_released_address_is_confirmed_to_who_selects_it_without_an_offer(story: Story) -> None:
    mine = story.bind(ALICE)
    story.say(RELEASE, ALICE, ciaddr=mine, server=SERVER)
    assert story.say(REQUEST, BOB, requested=mine).kind is NAK, "in INIT-REBOOT it is wrong: it was another client's"
    assert story.say(REQUEST, BOB, server=SERVER, requested=mine).kind is ACK


def test_after_a_restart_a_released_address_is_still_given_to_who_asks_for_it(story: Story, book: Book) -> None:
    released, ended = story.bind(ALICE), story.bind(CAROL)
    story.say(RELEASE, ALICE, ciaddr=released, server=SERVER)
    story.table.put(story.table.leases[ended]._replace(state=State.COOLING))
    leases = story.table.leases.values()
    notes = [Note(NOW, released, "", "cooling", "released"), Note(NOW, ended, "", "cooling", "released")]
    book.commit(leases, [*notes, Note(NOW, ended, "", "bound", "bound"), Note(NOW, ended, "", "cooling", "expired")])
    assert book.returned() == {released}
    story.table = Table(story.table.pool, leases, book.returned())
    assert story.say(DISCOVER, BOB, requested=ended).address != ended, "it had a client again, whose lease ran out"
    assert story.say(DISCOVER, BOB, requested=released).address == released
    book.commit([story.table.leases[released]._replace(state=State.BOUND)], [])
    assert book.returned() == set(), "it is leased"


def test_4_3_2_a_clone_does_not_renew_what_its_original_had_while_that_one_sleeps(story: Story) -> None:
    """What nobody is known to have had is confirmed: a lost record costs no guest its address."""
    mine = story.bind(ALICE)
    story.table.put(release(story.table, story.table.leases[mine], story.now, "control").changes[0])
    story.wait(3600)
    assert story.table.at(mine).state is State.FREE
    assert story.say(REQUEST, BOB, ciaddr=mine).reason is Reason.TAKEN
    assert story.say(REQUEST, BOB, requested=mine).kind is None, "in INIT-REBOOT another server may know it"
    assert story.say(REQUEST, BOB, ciaddr=mine + 1).kind is ACK
    assert story.say(REQUEST, ALICE, ciaddr=mine).kind is ACK


@pytest.mark.parametrize("how", ["its lease ran out", "it moved", "nobody wrote it down", "it came back and ran out"])
def test_an_address_that_its_client_did_not_give_back_cools_before_another_client_gets_it(
    story: Story, how: str
) -> None:
    """Nobody knows whether the last client has stopped using it: a VM that sleeps, a clone of it."""
    mine = story.bind(ALICE)
    match how:
        case "its lease ran out":
            story.wait(3601)
        case "it moved":
            assert story.say(REQUEST, ALICE, server=SERVER, requested=FIRST + 9).kind is ACK
        case "nobody wrote it down":
            story.say(RELEASE, ALICE, ciaddr=mine, server=SERVER)
            story.table = Table(story.table.pool, story.table.leases.values())
        case _:
            story.say(RELEASE, ALICE, ciaddr=mine, server=SERVER)
            assert story.bind(ALICE) == mine
            story.wait(3601)
    assert story.table.at(mine).state is State.COOLING
    assert story.say(DISCOVER, BOB, requested=mine).address != mine, "another one is free"
    assert story.say(REQUEST, BOB, server=SERVER, requested=mine).kind is NAK
    story.wait(61)
    assert story.say(DISCOVER, BOB, requested=mine).address == mine


# §2.2, §3.1: "servers need not reserve the offered network address"


def test_3_1_offers_that_nobody_takes_do_not_fill_the_pool(pool_of: Callable[..., records.Pool]) -> None:
    story = Story(pool_of(2))
    alices, bobs = (story.say(DISCOVER, mac).address for mac in (ALICE, BOB))
    assert story.say(DISCOVER, CAROL).address == alices, "that which was offered longest ago"
    assert story.say(DISCOVER, CAROL).address == alices, "and from now on it is hers"
    assert story.say(REQUEST, ALICE, server=SERVER, requested=alices).kind is NAK
    assert story.say(REQUEST, CAROL, server=SERVER, requested=alices).kind is ACK
    assert story.say(DISCOVER, ALICE).address == bobs
    assert story.say(REQUEST, ALICE, server=SERVER, requested=bobs).kind is ACK
    assert story.say(DISCOVER, BOB).reason is Reason.EXHAUSTED, "what is leased is leased"


def test_3_1_who_asks_again_is_not_the_one_that_was_offered_longest_ago(pool_of: Callable[..., records.Pool]) -> None:
    story = Story(pool_of(2))
    alices, bobs = (story.say(DISCOVER, mac).address for mac in (ALICE, BOB))
    assert story.say(DISCOVER, ALICE).address == alices
    assert story.say(DISCOVER, CAROL).address == bobs


def test_an_offer_at_another_port_is_left_alone_until_its_client_should_have_answered(
    pool_of: Callable[..., records.Pool],
) -> None:
    story = Story(pool_of(1))
    mine = story.say(DISCOVER, ALICE, port="tap1").address
    assert story.say(DISCOVER, BOB, port="tap2").reason is Reason.EXHAUSTED
    story.wait(2)
    assert story.say(DISCOVER, BOB, port="tap2").reason is Reason.EXHAUSTED
    story.wait(1)
    assert story.say(DISCOVER, BOB, port="tap2").address == mine


def test_an_offer_that_is_given_on_is_an_offer_also_by_rapid_commit(pool_of: Callable[..., records.Pool]) -> None:
    story = Story(pool_of(1), Settings(Terms(rapid_commit=True)))
    mine = story.say(DISCOVER, ALICE).address
    decision = story.say(DISCOVER, BOB, options={Code.RAPID_COMMIT: b""})
    assert (decision.kind, decision.address) == (OFFER, mine)


@pytest.mark.parametrize("rapid", [False, True])
def test_when_nothing_else_is_free_the_address_that_has_cooled_longest_is_given(
    pool_of: Callable[..., records.Pool], rapid: bool
) -> None:
    story = Story(pool_of(2), Settings(Terms(cooling=60, rapid_commit=rapid)))
    first, second = story.bind(ALICE), story.bind(BOB)
    assert story.say(DISCOVER, CAROL).reason is Reason.EXHAUSTED
    story.say(RELEASE, BOB, ciaddr=second, server=SERVER)
    story.wait(1)
    story.say(RELEASE, ALICE, ciaddr=first, server=SERVER)
    options = {Code.RAPID_COMMIT: b""} if rapid else {}
    given = story.say(DISCOVER, CAROL, options=options)
    assert (given.kind, given.address) == (ACK if rapid else OFFER, second)
    assert story.say(DISCOVER, BOB).address == first, "its own is on offer, and Alice is not here"
    story.wait(25)
    assert story.say(DISCOVER, CAROL, requested=second).address == second, "kept for her as any other offer"
    story.wait(25)
    story.say(DISCOVER, CAROL)
    story.wait(15)
    assert story.say(REQUEST, CAROL, server=SERVER, requested=second).kind is ACK, "also when its rest ends meanwhile"
    assert story.table.at(second).mac == CAROL
    assert [lease.address for lease in story.table.of_mac(BOB)] == []


def test_a_restart_between_offer_and_request_keeps_nobody_from_the_last_address(
    pool_of: Callable[..., records.Pool],
) -> None:
    story = Story(pool_of(1))
    mine = story.bind(ALICE)
    story.say(RELEASE, ALICE, ciaddr=mine, server=SERVER)
    assert story.say(DISCOVER, BOB).address == mine
    story.table = Table(story.table.pool, story.table.leases.values())
    assert story.say(REQUEST, BOB, server=SERVER, requested=mine).kind is ACK
    assert story.say(REQUEST, ALICE, requested=mine).kind is NAK, "and it is Bob's"


def test_a_decline_is_told_to_the_operator_and_an_offer_can_be_declined(story: Story) -> None:
    offered = story.say(DISCOVER).address
    decision = story.say(DECLINE, requested=offered, server=SERVER)
    assert decision.kind is None
    assert isinstance(decision.events[0], LeaseDeclined), "§4.3.3: SHOULD notify the local system administrator"
    assert story.table.at(offered).state is State.QUARANTINED
    assert story.say(REQUEST, requested=offered, server=SERVER).kind is NAK


@pytest.mark.parametrize("server", [None, SERVER])
@pytest.mark.parametrize("kind", [DECLINE, RELEASE])
def test_a_goodbye_counts_with_and_without_a_server_identifier(story: Story, kind: MessageType, server: int) -> None:
    mine = story.bind()
    assert story.say(kind, requested=mine, ciaddr=mine, server=server).changes


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        (DECLINE, {"ciaddr": FIRST}),  # table 5: the address is in option 50
        (DECLINE, {"requested": FIRST, "server": OTHER_SERVER}),
        (DECLINE, {"requested": FIRST + 3}),
        (RELEASE, {"requested": FIRST}),  # table 5: the address is in ciaddr
        (RELEASE, {"ciaddr": FIRST, "server": OTHER_SERVER}),
        (RELEASE, {"ciaddr": FIRST + 3}),
        (RELEASE, {}),
    ],
    ids=str,
)
def test_a_goodbye_that_is_not_meant_for_us_or_names_no_lease_changes_nothing(
    story: Story, kind: MessageType, how: dict[str, int]
) -> None:
    assert story.bind() == FIRST
    decision = story.say(kind, **how)
    assert (decision.kind, decision.changes) == (None, ())
    assert story.table.at(FIRST).state is State.BOUND


def test_releasing_twice_is_releasing_once(story: Story) -> None:
    mine = story.bind()
    first = story.say(RELEASE, ciaddr=mine, server=SERVER)
    assert isinstance(first.events[0], LeaseReleased)
    assert story.say(RELEASE, ciaddr=mine, server=SERVER).changes == ()


@pytest.mark.parametrize("known", [False, True])
def test_4_3_5_an_inform_is_acknowledged_without_address_and_lease(story: Story, known: bool) -> None:
    mine = story.bind() if known else FIRST + 100
    before = dict(story.table.leases)
    ask = packet(INFORM, ciaddr=mine, flags=wire.BROADCAST)
    reply = story.answer(ask)
    assert reply is not None
    assert (reply.type, reply.yiaddr, reply.ciaddr) == (ACK, 0, mine)
    assert not {51, 58, 59} & set(reply.options), "MUST NOT send a lease expiration time"
    assert reply.options[Code.ROUTER] == SERVER.to_bytes(4)
    assert destination(story.do(ask), ask) == (Way.DIRECT, mine), "directly to the address in ciaddr"
    assert story.table.leases == before, "MUST NOT check for an existing lease, nor make one"


@pytest.mark.parametrize("ciaddr", [0, int(IPv4Address("10.0.0.9"))])
def test_4_3_5_an_inform_from_no_address_or_another_network_is_not_answered(story: Story, ciaddr: int) -> None:
    assert story.say(INFORM, ciaddr=ciaddr).kind is None, "SHOULD check the network address for consistency"


@pytest.mark.parametrize(
    ("source", "giaddr", "to"),
    [
        (FIRST + 90, 0, (Way.DIRECT, FIRST + 90)),
        (int(IPv4Address("10.0.0.9")), 0, None),
        (0, 0, None),
        (SERVER, 0, None),  # RFC 1122 §3.2.1.3: our own, everybody's
        (SERVER + 254, 0, None),
        (SERVER - 1, 0, None),
        (FIRST + 150, FIRST + 150, (Way.RELAY, FIRST + 150)),  # the source is the relay's own
    ],
)
def test_4_3_5_an_inform_that_names_no_address_is_answered_where_it_came_from(
    story: Story, source: int, giaddr: int, to: tuple[Way, int] | None
) -> None:
    ask = packet(INFORM, source=source, giaddr=giaddr)
    decision = decide(story.table, ask, story.now)
    assert decision.kind is (ACK if to else None)
    if to:
        assert destination(decision, ask) == to
        reply = story.answer(ask)
        assert reply is not None
        assert (reply.ciaddr, reply.yiaddr) == (0, 0), "table 3: as the client's, and none"


@pytest.mark.parametrize("address", [SERVER, SERVER + 254, SERVER - 1])
@pytest.mark.parametrize("giaddr", [0, FIRST + 100])
def test_4_3_5_an_inform_that_names_no_hosts_address_is_not_answered(story: Story, address: int, giaddr: int) -> None:
    assert story.say(INFORM, ciaddr=address, giaddr=giaddr).reason is Reason.NO_ADDRESS


@pytest.mark.parametrize("kind", [OFFER, ACK, NAK, 9, 10, 13, 0, 255])
def test_what_a_client_does_not_say_is_not_answered(story: Story, kind: int) -> None:
    mine = story.bind()
    assert story.do(packet(kind, ciaddr=mine, requested=mine)).reason is Reason.NOT_A_REQUEST


def test_a_reply_is_not_answered(story: Story) -> None:
    assert story.do(packet(DISCOVER)._replace(op=wire.REPLY)).reason is Reason.NOT_A_REQUEST


# Table 3: the fields of a reply; RFC 1542 §2.1 its size


@pytest.mark.parametrize("kind", [OFFER, ACK, NAK])
@pytest.mark.parametrize(("flags", "giaddr"), [(0, 0), (wire.BROADCAST, 0), (0, FIRST + 100), (0x7FFF, 0)])
def test_table_3_the_fields_of_a_reply(story: Story, kind: MessageType, flags: int, giaddr: int) -> None:
    header = {"flags": flags, "giaddr": giaddr, "xid": 0xDEADBEEF, "secs": 77, "hops": 3, "siaddr": 5, "yiaddr": 6}
    header |= {"htype": 6}
    mine = story.bind(htype=6)
    ask = {
        OFFER: packet(DISCOVER, **header),
        ACK: packet(REQUEST, ciaddr=mine, **header),
        NAK: packet(REQUEST, ciaddr=mine + 1, **header),
    }[kind]._replace(padding=bytes(range(10)))
    reply = story.answer(ask)
    assert reply is not None
    assert reply == wire.Packet(
        op=wire.REPLY,
        htype=6,
        hlen=6,
        padding=bytes(range(10)),
        hops=0,
        xid=0xDEADBEEF,
        secs=0,
        ciaddr=mine if kind is ACK else 0,
        yiaddr=0 if kind is NAK else mine,
        siaddr=0,
        flags=flags | wire.BROADCAST if kind is NAK and giaddr else flags,
        giaddr=giaddr,
        chaddr=ALICE,
        options=reply.options,
    )
    assert reply.type == kind


@pytest.mark.parametrize(
    ("ask", "has", "has_not"),
    [
        (packet(DISCOVER), {51, 53, 54}, {50, 52, 55, 57, 61, 82}),
        (packet(DISCOVER, asks=[1]), {1, 51, 53, 54}, {3, 6, 26, 28, 50, 55, 57, 61}),
        (packet(REQUEST, requested=FIRST, server=SERVER, asks=[50, 55, 57, 61]), {51, 53, 54}, {50, 55, 57, 61}),
        (packet(REQUEST, ciaddr=FIRST + 1, asks=[1, 3, 51]), {53, 54, 56}, {1, 3, 6, 26, 28, 51, 58, 59}),
        (packet(INFORM, ciaddr=FIRST, asks=[1, 51, 58]), {1, 53, 54}, {51, 58, 59}),
    ],
    ids=["offer", "offer to a list", "ack", "nak", "ack to an inform"],
)
def test_table_3_the_options_that_a_reply_must_and_must_not_have(
    story: Story, ask: wire.Packet, has: set[int], has_not: set[int]
) -> None:
    story.bind(BOB)
    story.bind(ALICE)
    if ask.options.get(50) == FIRST.to_bytes(4):
        ask = ask._replace(options={**ask.options, 50: (FIRST + 1).to_bytes(4)})
    elif ask.ciaddr == FIRST + 1:
        ask = ask._replace(ciaddr=FIRST)
    reply = story.answer(ask)
    assert reply is not None
    assert has <= set(reply.options)
    assert not has_not & set(reply.options)


def test_a_nak_says_why_and_nothing_else(story: Story) -> None:
    reply = story.hear(REQUEST, ciaddr=int(IPv4Address("10.0.0.9")), asks=[1, 3, 6])
    assert reply is not None
    assert reply.options == {
        53: bytes((NAK,)),
        54: SERVER.to_bytes(4),
        56: b"the address is not in this subnet",
    }


@pytest.mark.parametrize(("name", "relay", "why"), [(100, 100, True), (130, 138, False), (255, 255, True)])
def test_table_3_a_nak_leaves_out_its_reason_rather_than_use_other_fields(
    story: Story, name: int, relay: int, why: bool
) -> None:
    ask = packet(REQUEST, requested=1, client_id=b"n" * name, options={82: b"r" * relay}, giaddr=FIRST + 100)
    data = render(story.do(ask), ask, story.table.pool)
    assert len(data) <= 548
    assert not any(data[44:236])
    reply = wire.decode(data)
    assert isinstance(reply, wire.Packet)
    assert (reply.type, len(reply.options[82])) == (NAK, relay)
    assert (56 in reply.options, 52 in reply.options) == (why, False)
    assert (61 in reply.options) == (name + relay <= 270), "what does not fit is left out, but for what a relay needs"


@pytest.mark.parametrize("kind", [OFFER, ACK, NAK])
def test_every_reply_is_long_enough_for_bootp(story: Story, kind: MessageType) -> None:
    mine = story.bind()
    ask = {OFFER: packet(DISCOVER), ACK: packet(REQUEST, ciaddr=mine), NAK: packet(REQUEST, ciaddr=mine + 1)}[kind]
    data = render(decide(story.table, ask, story.now), ask, story.table.pool)
    assert len(data) >= 300
    assert data[236:240] == bytes((99, 130, 83, 99)), "§3: the magic cookie"
    assert 255 in data[240:], "§4.1: the last option is the end option"
    assert data[44:236] == bytes(192), "no sname, no file"


HARDWARE = [(1, 16), (1, 1), (15, 2), (32, 16), (27, 8), (255, 16)]
"""htype, hlen: an Ethernet address of another length, Frame Relay, InfiniBand, EUI-64, none that is known."""


@pytest.mark.parametrize(("htype", "hlen"), HARDWARE)
def test_table_3_whatever_hardware_asks_has_its_lease_and_its_own_words_back(
    story: Story, htype: int, hlen: int
) -> None:
    assert story.bind() == FIRST
    field = ALICE + bytes(range(10, 20))  # the same first octets, and no zeros behind them
    for kind, fields in ((DISCOVER, {}), (REQUEST, {"server": SERVER, "requested": FIRST + 1})):
        header = bytearray(wire.encode(packet(kind, **fields)))
        header[1:3], header[28:44] = bytes((htype, hlen)), field
        ask = wire.decode(bytes(header))
        assert isinstance(ask, wire.Packet)
        decision = story.do(ask)
        data = render(decision, ask, story.table.pool)
        assert (data[1:3], data[28:44]) == (bytes((htype, hlen)), field)
        assert decision.address == FIRST + 1
        assert destination(decision, ask) == EVERYONE, "§4.1: no frame can be sent to its address"
        assert destination(decision, ask._replace(ciaddr=FIRST + 1)) == (Way.ROUTED, FIRST + 1)
    address = field[:hlen] if htype == wire.ETHERNET else bytes((htype,)) + field[:hlen].ljust(16, b"\0")
    assert {lease.mac for lease in story.table.leases.values()} >= {address}


def test_rfc_4390_hardware_without_an_address_is_known_by_its_identifier(story: Story) -> None:
    offered = {}
    for name in (b"\xffone", b"\xfftwo"):
        header = bytearray(wire.encode(packet(DISCOVER, client_id=name)))
        header[1:3], header[28:44] = b"\x20\0", bytes(16)
        ask = wire.decode(bytes(header))
        assert isinstance(ask, wire.Packet)
        decision = story.do(ask)
        offered[name] = decision.address
        data = render(decision, ask, story.table.pool)
        assert (data[1:3], data[28:44]) == (b"\x20\0", bytes(16)), "§2.1: hlen and chaddr are 0"
        assert destination(decision, ask) == EVERYONE
        taken = ask._replace(
            options={**ask.options, 53: b"\3", 50: decision.address.to_bytes(4), 54: SERVER.to_bytes(4)}
        )
        assert story.do(taken).kind is ACK
        assert story.do(ask).address == decision.address, "its own, from now on"
    assert len(set(offered.values())) == 2


def test_2_1_a_hardware_address_is_typed(story: Story) -> None:
    """IEEE 802 is sent to by its MAC, and is another client than Ethernet: addresses may be there twice."""
    mine = story.bind()
    ask = packet(DISCOVER, htype=6)
    decision = story.do(ask)
    assert decision.address != mine
    assert destination(decision, ask) == (Way.DIRECT, decision.address)
    other = story.bind(htype=6)
    assert other == decision.address
    assert story.say(REQUEST, ciaddr=mine).kind is ACK
    assert story.say(REQUEST, ciaddr=other).kind is NAK
    assert story.say(REQUEST, ciaddr=other, htype=6).kind is ACK
    story.say(RELEASE, ciaddr=mine, server=SERVER, htype=6)
    assert story.table.at(mine).state is State.BOUND
    spelled = story.say(DISCOVER, bytes((6, *ALICE)), hlen=7)
    assert spelled.address not in (mine, other), "nor is it a longer address that is spelled like it"


def test_an_address_and_an_identifier_are_not_the_longer_address_that_they_spell_together(story: Story) -> None:
    mine = story.bind(ALICE, client_id=b"\0\1")
    assert story.say(DISCOVER, ALICE + b"\0\1", hlen=8).address != mine


# §4.1: where a reply goes


@pytest.mark.parametrize(
    ("kind", "fields", "way", "address"),
    [
        (OFFER, {}, Way.DIRECT, FIRST),
        (OFFER, {"flags": wire.BROADCAST}, Way.BROADCAST, 0xFFFFFFFF),
        (OFFER, {"flags": 0x7FFF}, Way.DIRECT, FIRST),  # the other bits MUST be ignored
        (OFFER, {"giaddr": FIRST + 100}, Way.RELAY, FIRST + 100),
        (OFFER, {"giaddr": FIRST + 100, "flags": wire.BROADCAST}, Way.RELAY, FIRST + 100),
        (ACK, {}, Way.DIRECT, FIRST),
        (ACK, {"flags": wire.BROADCAST}, Way.DIRECT, FIRST),  # ciaddr goes before the flag
        (ACK, {"giaddr": FIRST + 100}, Way.RELAY, FIRST + 100),
        (NAK, {}, Way.BROADCAST, 0xFFFFFFFF),
        (NAK, {"giaddr": FIRST + 100}, Way.RELAY, FIRST + 100),
    ],
)
def test_4_1_a_reply_goes_where_it_is_sent(
    story: Story, kind: MessageType, fields: dict[str, int], way: Way, address: int
) -> None:
    mine = story.bind()
    ask = {
        OFFER: packet(DISCOVER, **fields),
        ACK: packet(REQUEST, ciaddr=mine, **fields),
        NAK: packet(REQUEST, ciaddr=mine + 1, **fields),
    }[kind]
    assert destination(decide(story.table, ask, story.now), ask) == (way, address)


def test_4_1_selecting_is_answered_at_the_new_address_or_by_broadcast(story: Story) -> None:
    offered = story.say(DISCOVER).address
    ask = packet(REQUEST, server=SERVER, requested=offered)
    assert destination(decide(story.table, ask, story.now), ask) == (Way.DIRECT, offered)
    ask = ask._replace(flags=wire.BROADCAST)
    assert destination(decide(story.table, ask, story.now), ask) == EVERYONE


# RFC 4039: rapid commit


@pytest.mark.parametrize(("switched_on", "asked"), [(False, True), (True, False), (False, False), (True, True)])
def test_rfc_4039_two_messages_do_only_where_both_want_it(pool: records.Pool, switched_on: bool, asked: bool) -> None:
    story = Story(pool, Settings(Terms(rapid_commit=switched_on)))
    ask = packet(DISCOVER, options={80: b""} if asked else {})
    decision = decide(story.table, ask, story.now)
    reply = story.answer(ask)
    assert reply is not None
    if switched_on and asked:
        assert (reply.type, reply.options[80]) == (ACK, b"")
        assert [lease.state for lease in decision.changes] == [State.BOUND], "committed like any other promise"
    else:
        assert reply.type == OFFER
        assert 80 not in reply.options, "MUST NOT include it in an offer"
    assert reply.options[Code.LEASE_TIME]


def test_no_address_is_ever_held_by_two_clients(pool_of: Callable[..., records.Pool]) -> None:
    story = Story(pool_of(8))
    macs = [bytes((2, 0, 0, 0, 0, n)) for n in range(20)]
    for turn in range(400):
        mac = macs[(turn * 7) % len(macs)]
        offer = story.say(DISCOVER, mac)
        if offer.kind is not None:
            story.say(REQUEST, mac, server=SERVER, requested=offer.address)
        if turn % 3 == 0 and (held := story.table.held(Client(mac))) is not None:
            story.say(RELEASE, mac, ciaddr=held.address, server=SERVER)
        story.wait(turn % 40)
        bound = [lease for lease in story.table.leases.values() if lease.state is State.BOUND]
        assert len({lease.mac for lease in bound}) == len(bound) == len({lease.address for lease in bound})
        assert story.table.counts[State.BOUND] == len(bound)


def test_without_a_cooling_time_a_released_address_is_anybodys_within_a_second(
    pool_of: Callable[..., records.Pool],
) -> None:
    story = Story(pool_of(1), Settings(Terms(cooling=0)))
    mine = story.bind(ALICE)
    story.say(RELEASE, ALICE, ciaddr=mine, server=SERVER)
    story.wait(1)
    assert story.bind(BOB) == mine
