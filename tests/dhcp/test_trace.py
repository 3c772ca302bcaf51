"""The ring of decisions: bounded, by client, to be followed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from cocoon_net.dhcp import book as module
from cocoon_net.dhcp.book import Book, Note
from cocoon_net.dhcp.decision import Decision, Reason, silence
from cocoon_net.dhcp.options import MessageType
from cocoon_net.dhcp.trace import Trace
from cocoon_net.dhcp.wire import Packet
from cocoon_net.store import open_database

A, B = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"


def discover(mac: bytes) -> Packet:
    return Packet(1, 7, mac, {53: bytes((MessageType.DISCOVER,))}, port="p1")


def test_each_client_has_its_own_and_the_oldest_go_first() -> None:
    trace = Trace(kept=4)
    for number in range(6):
        trace.note(discover(A), Decision(Reason.OFFERED, MessageType.OFFER, number), 100 + number)
    trace.note(discover(B), silence(Reason.CROWDED), 106)
    found, number = trace.of(A)
    assert [one.address for one in found] == [3, 4, 5]
    assert number == 7
    (one,) = trace.of(B)[0]
    assert (one.port, one.asked, one.said, one.reason) == ("p1", MessageType.DISCOVER, 0, Reason.CROWDED)


def test_other_hardware_has_its_own_and_what_timers_did_to_it() -> None:
    trace = Trace()
    packet = discover(A)._replace(htype=6)
    trace.note(discover(A), silence(Reason.EXHAUSTED), 100)
    trace.note(packet, silence(Reason.EXHAUSTED), 101)
    trace.change(packet.hardware, 9, 102, Reason.EXPIRED)
    assert [one.at for one in trace.of(packet.hardware)[0]] == [101, 102]
    assert [one.at for one in trace.of(A)[0]] == [100]


def test_who_follows_gets_only_what_is_new_also_after_a_restart() -> None:
    trace = Trace()
    trace.note(discover(A), silence(Reason.EXHAUSTED), 100)
    _, number = trace.of(A)
    assert trace.of(A, number) == ([], number)
    trace.change(A, 9, 101, Reason.EXPIRED)
    found, number = trace.of(A, number)
    assert [one.reason for one in found] == [Reason.EXPIRED]
    again = Trace()
    again.note(discover(A), silence(Reason.EXHAUSTED), 102)
    assert len(again.of(A, number)[0]) == 1


def test_what_was_decided_and_could_not_be_kept_shows_as_silence() -> None:
    trace = Trace()
    trace.note(discover(A), Decision(Reason.BOUND, MessageType.ACK, 5), 100, Reason.UNKEPT)
    (one,) = trace.of(A)[0]
    assert (one.said, one.address, one.reason) == (0, 5, Reason.UNKEPT)


def rows(book: Book) -> tuple[int, int]:
    """How many rows the history has, and the time of the newest."""
    count, newest = book._connection.execute("SELECT count(*), max(at) FROM history").fetchone()
    return count, newest


def note(book: Book, begin: int, count: int) -> None:
    book.commit([], [Note(at, 1, "02:00:00:00:00:01", "bound", "renewed") for at in range(begin, begin + count)])


def test_guests_that_renew_all_day_do_not_fill_the_disk(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HISTORY", 5_000)
    for begin in range(0, 30_000, 300):
        note(book, begin, 300)
        assert rows(book)[0] <= 5_000 + module.FORGET_AFTER + 300
    assert rows(book) == (pytest.approx(5_500, abs=1_000), 29_999)


def test_a_history_that_is_far_too_long_gets_shorter_without_holding_anybody_up(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(book, 0, 20_000)
    monkeypatch.setattr(module, "HISTORY", 5_000)
    before = rows(book)[0]
    for begin in range(20_000, 25_000, 1_000):
        note(book, begin, 1_000)
        now = rows(book)[0]
        assert before - 1_000 <= now + 1 <= before + 1, "twice as many as came, at the most"
        before = now


def test_lives_that_end_before_they_cut_any_do_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HISTORY", 5_000)
    with closing(open_database(tmp_path / "restarted.db")) as database:
        for life in range(20):
            book = Book(database)
            for begin in range(0, 900, 300):
                note(book, 900 * life + begin, 300)
        assert rows(book)[0] <= 5_000 + module.FORGET_AFTER
