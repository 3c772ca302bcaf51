"""The whole daemon killed under load. The thousand deaths are ``scripts/dhcp-kill``; here a few of each kind."""

from __future__ import annotations

import pytest

from cocoon_net.lab.arena import Fault, Row
from cocoon_net.lab.durability import missing, ordeal, overlapping
from cocoon_net.lab.load import Heard

A, B, X = "02:10:00:00:00:01", "02:10:00:00:00:02", 0xAC140100


def test_one_address_for_two_at_a_time_is_found() -> None:
    first, second = Heard(A, X, 60, 100.0, 100.0), Heard(B, X, 60, 130.0, 130.0)
    assert len(overlapping([second, first])) == 1
    assert overlapping([first, second._replace(asked=160.0)]) == []
    assert overlapping([first, Heard(A, X, 60, 150.0, 151.0), Heard(B, X, 60, 210.5, 210.5)]) != [], (
        "a renewal runs longer, from when it was heard"
    )


def test_a_promise_that_the_book_does_not_know_is_found() -> None:
    ack = Heard(A, X, 60, 100.0, 100.0)
    assert missing([ack], {X: Row("bound", 160, A)}, 101.0) == []
    assert missing([ack._replace(asked=100.9)], {X: Row("bound", 160, A)}, 101.0) == [], "whole seconds, and one more"
    for row in (None, Row("bound", 160, B), Row("bound", 158, A), Row("cooling", 160, A)):
        assert len(missing([ack], {X: row} if row else {}, 101.0)) == 1
    assert missing([ack], {}, 161.0) == [], "what has ended need not be known"
    assert missing([ack, Heard(A, X + 1, 60, 110.0, 110.0)], {X + 1: Row("bound", 170, A)}, 111.0) == []


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("fault", "deaths"), [(Fault.NONE, 20), (Fault.DISK, 6), (Fault.BRIDGE, 6)])
def test_no_promise_is_broken_by_dying(fault: Fault, deaths: int) -> None:
    verdict = ordeal(deaths, fault)
    assert verdict.broken == []
    assert verdict.deaths >= deaths
    assert verdict.acks > 50 * deaths, "it died under load"
    if fault is Fault.DISK:
        assert verdict.refused, "the disk was really full"
