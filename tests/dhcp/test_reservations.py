"""Addresses that the operator keeps for one client each: written down, and stronger than whoever has them."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import IPv4Address

import pytest

from cocoon_net import records
from cocoon_net.dhcp.book import Book
from cocoon_net.dhcp.reservation import Reservation
from cocoon_net.errors import SpecError

ALICE, BOB = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
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
