"""Addresses that the operator keeps for one client each: written down, and stronger than whoever has them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv4Address
from typing import Any

import pytest

from cocoon_net import records
from cocoon_net.dhcp.book import Book
from cocoon_net.dhcp.decision import Reason
from cocoon_net.dhcp.lease import State
from cocoon_net.dhcp.options import MessageType
from cocoon_net.dhcp.reservation import Reservation
from cocoon_net.dhcp.settings import Settings, Terms
from cocoon_net.errors import SpecError
from tests.dhcp.story import ALICE, BOB, CAROL, FIRST, SERVER, Story

TENTH, ELEVENTH = IPv4Address("172.20.100.10"), IPv4Address("172.20.100.11")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def stocked(book: Book, pool: records.Pool) -> Book:
    book.put_pool(pool, NOW)
    return book


def test_what_is_reserved_is_read_back_with_its_options(stocked: Book) -> None:
    wish = Reservation(ALICE, TENTH, "db", {15: b"example.org", 252: b"http://wpad/wpad.dat"})
    assert stocked.reserve(wish, 1) is None
    assert stocked.reservations() == [wish]


def test_a_client_that_gets_another_address_gives_up_the_first(stocked: Book) -> None:
    stocked.reserve(Reservation(ALICE, TENTH), 1)
    assert stocked.reserve(Reservation(ALICE, ELEVENTH), 2) == Reservation(ALICE, TENTH)
    assert [one.address for one in stocked.reservations()] == [ELEVENTH]


def test_an_address_is_reserved_for_one_client_only(stocked: Book) -> None:
    stocked.reserve(Reservation(ALICE, TENTH), 1)
    with pytest.raises(SpecError, match="reserved for 52:54:00:00:00:01") as refused:
        stocked.reserve(Reservation(BOB, TENTH), 2)
    assert refused.value.hint == "`cocoon-net lease unreserve 52:54:00:00:00:01` gives it up"
    assert stocked.unreserve(ALICE) == Reservation(ALICE, TENTH)
    assert stocked.unreserve(ALICE) is None, "giving up twice is giving up once"
    assert stocked.reserve(Reservation(BOB, TENTH), 3) is None


@pytest.mark.parametrize("address", ["172.20.100.1", "172.20.100.200", "10.0.0.1"])
def test_what_no_interface_carries_cannot_be_reserved(stocked: Book, address: str) -> None:
    with pytest.raises(SpecError, match="is not of the pool"):
        stocked.reserve(Reservation(ALICE, IPv4Address(address)), 1)


def test_without_a_pool_there_is_nothing_to_reserve(book: Book) -> None:
    with pytest.raises(SpecError, match="there is none"):
        book.reserve(Reservation(ALICE, TENTH), 1)


def test_a_teardown_forgets_the_reservations(stocked: Book) -> None:
    stocked.reserve(Reservation(ALICE, TENTH), 1)
    stocked.put_pool(None, NOW)
    assert stocked.reservations() == []


# The table obeys them


KEPT = FIRST + 5


@pytest.fixture
def story(pool: records.Pool) -> Story:
    return Story(pool)


EVE, DAVE = (bytes.fromhex(f"5254000000{number:02x}") for number in (0xEE, 0xDA))


def kept(mac: bytes = ALICE, address: int = KEPT, **more: Any) -> Reservation:
    return Reservation(mac, IPv4Address(address), **more)


def test_a_reserved_address_is_given_to_nobody_else_and_always_to_its_client(
    pool_of: Callable[..., records.Pool],
) -> None:
    story = Story(pool_of(3), reservations=[kept(address=FIRST)])
    assert story.table.free == 2
    assert story.say(MessageType.DISCOVER, BOB, requested=FIRST).address != FIRST
    for mac in (BOB, CAROL):
        story.bind(mac)
    assert story.say(MessageType.DISCOVER, bytes(5) + b"\x02").kind is None, "the pool is full but for one"
    assert story.say(MessageType.REQUEST, CAROL, server=SERVER, requested=FIRST).kind is MessageType.NAK
    assert story.bind(ALICE) == FIRST


def test_its_client_is_confirmed_without_a_record_and_refused_another_address(story: Story) -> None:
    story.reserve(kept())
    assert story.say(MessageType.REQUEST, requested=FIRST).kind is MessageType.NAK, "INIT-REBOOT, the wrong address"
    assert story.say(MessageType.REQUEST, requested=KEPT).address == KEPT, "INIT-REBOOT, the right one"
    assert story.say(MessageType.REQUEST, BOB, requested=KEPT).kind is MessageType.NAK


def test_a_client_with_an_older_lease_is_moved_when_it_renews(story: Story) -> None:
    old = story.bind(ALICE)
    story.reserve(kept())
    refused = story.say(MessageType.REQUEST, ALICE, ciaddr=old)
    assert (refused.kind, refused.reason) == (MessageType.NAK, Reason.RESERVED)
    assert story.bind(ALICE) == KEPT
    assert story.table.counts[State.BOUND] == 1


def test_the_lease_of_somebody_else_ends_when_its_client_renews_and_not_before(story: Story) -> None:
    story.say(MessageType.DISCOVER, BOB, requested=KEPT)
    story.say(MessageType.REQUEST, BOB, server=SERVER, requested=KEPT)
    story.reserve(kept())
    meanwhile = story.bind(ALICE)
    assert meanwhile != KEPT, "never two guests with one address"
    assert story.say(MessageType.REQUEST, ALICE, ciaddr=meanwhile).kind is MessageType.ACK, "it is served meanwhile"
    refused = story.say(MessageType.REQUEST, BOB, ciaddr=KEPT)
    assert (refused.kind, refused.reason) == (MessageType.NAK, Reason.RESERVED)
    assert story.table.at(KEPT).state is State.COOLING
    assert story.say(MessageType.REQUEST, ALICE, ciaddr=meanwhile).kind is MessageType.NAK
    assert story.bind(ALICE) == KEPT, "at once: it need not cool for whom it is kept"
    assert story.bind(BOB) not in (KEPT, 0)


def test_its_client_moves_there_by_asking_anew_too(story: Story) -> None:
    story.say(MessageType.DISCOVER, BOB, requested=KEPT)
    story.say(MessageType.REQUEST, BOB, server=SERVER, requested=KEPT)
    story.reserve(kept())
    story.bind(ALICE)
    story.say(MessageType.RELEASE, BOB, ciaddr=KEPT, server=SERVER)
    assert story.bind(ALICE) == KEPT
    assert story.table.counts[State.BOUND] == 1


def test_it_is_nobody_elses_after_its_lease_has_ended_either(pool_of: Callable[..., records.Pool]) -> None:
    story = Story(pool_of(1), reservations=[kept(address=FIRST)])
    story.bind(ALICE)
    story.wait(3601)
    story.wait(61)
    assert story.table.at(FIRST).state is State.FREE
    assert story.say(MessageType.DISCOVER, BOB).kind is None
    assert story.table.free == 0


def test_an_offer_to_somebody_else_is_given_up(story: Story) -> None:
    story.say(MessageType.DISCOVER, BOB, requested=KEPT)
    story.reserve(kept())
    assert story.say(MessageType.REQUEST, BOB, server=SERVER, requested=KEPT).kind is MessageType.NAK
    assert story.bind(ALICE) == KEPT


def test_a_reserved_address_that_was_declined_is_quarantined_all_the_same(story: Story) -> None:
    story.reserve(kept())
    story.bind(ALICE)
    story.say(MessageType.DECLINE, ALICE, requested=KEPT, server=SERVER)
    meanwhile = story.bind(ALICE)
    assert meanwhile != KEPT
    story.wait(601)
    assert story.say(MessageType.DISCOVER, ALICE).address == KEPT


def test_what_is_reserved_while_it_cools_is_given_to_no_stranger_in_need_until_it_is_given_up(
    pool_of: Callable[..., records.Pool],
) -> None:
    story = Story(pool_of(2))
    bobs, carols = story.bind(BOB), story.bind(CAROL)
    story.say(MessageType.RELEASE, BOB, ciaddr=bobs, server=SERVER)
    story.wait(1)
    story.reserve(kept(address=bobs))
    assert story.say(MessageType.DISCOVER, EVE, requested=bobs).kind is None
    story.say(MessageType.RELEASE, CAROL, ciaddr=carols, server=SERVER)
    story.reserve()
    assert [story.bind(mac) for mac in (EVE, DAVE)] == [carols, bobs]


def test_nobodys_offer_of_a_reserved_address_is_given_on(pool_of: Callable[..., records.Pool]) -> None:
    story = Story(pool_of(2), reservations=[kept(address=FIRST)])
    assert story.say(MessageType.DISCOVER, ALICE).address == FIRST
    assert [story.say(MessageType.DISCOVER, mac).address for mac in (BOB, CAROL)] == [FIRST + 1] * 2


def test_what_is_given_up_is_anybodys_again(pool_of: Callable[..., records.Pool]) -> None:
    story = Story(pool_of(1), reservations=[kept(address=FIRST)])
    assert story.say(MessageType.DISCOVER, BOB).kind is None
    story.reserve()
    assert story.bind(BOB) == FIRST


def test_a_reservation_outside_the_pool_is_as_none(story: Story) -> None:
    story.reserve(kept(address=FIRST + 100))
    assert story.bind(ALICE) == FIRST


def test_its_client_is_told_its_own_options_and_nobody_else_is(pool: records.Pool) -> None:
    settings = Settings(Terms(), {15: b"example.org", 42: b"\x0a\0\0\1"})
    story = Story(pool, settings, [kept(hostname="db", options={15: b"db.example.org"})])
    mine, theirs = (story.hear(MessageType.DISCOVER, mac, asks=[12, 15, 42, 3]) for mac in (ALICE, BOB))
    assert mine is not None
    assert theirs is not None
    assert [mine.options.get(code) for code in (12, 15, 42)] == [b"db", b"db.example.org", b"\x0a\0\0\1"]
    assert [theirs.options.get(code) for code in (12, 15, 42)] == [None, b"example.org", b"\x0a\0\0\1"]
    assert mine.options[3] == theirs.options[3]


def test_a_client_of_another_hardware_type_is_not_the_one_that_is_kept_for(pool: records.Pool) -> None:
    story = Story(pool, reservations=[kept(hostname="db")])
    ours, other = (story.hear(MessageType.DISCOVER, ALICE, htype=htype) for htype in (1, 6))
    assert ours is not None and (ours.yiaddr, ours.options.get(12)) == (KEPT, b"db")
    assert other is not None and other.yiaddr != KEPT and 12 not in other.options
