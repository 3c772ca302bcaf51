"""Events for whoever watches: bounded, and nobody waits for a slow one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from ipaddress import IPv4Address

from cocoon_net.events import LeaseBound
from cocoon_net.supervisor import feed
from cocoon_net.supervisor.feed import Feed, lines

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def bound(number: int) -> LeaseBound:
    return LeaseBound(NOW, IPv4Address(number), "02:00:00:00:00:01", NOW, "web-1")


def test_an_event_is_its_kind_and_its_fields_as_text() -> None:
    assert feed.as_document(bound(0x0A000009)) == {
        "event": "LeaseBound",
        "at": "2026-01-01T00:00:00Z",
        "address": "10.0.0.9",
        "mac": "02:00:00:00:00:01",
        "expires": "2026-01-01T00:00:00Z",
        "hostname": "web-1",
    }


def test_a_newcomer_is_shown_the_latest_ones() -> None:
    told = Feed()
    for number in range(feed.KEPT + 10):
        told.publish(bound(number))
    latest = told.latest()
    assert len(latest) == feed.KEPT
    assert latest[-1]["address"] == str(IPv4Address(feed.KEPT + 9))


def test_a_slow_reader_is_dropped_and_told_so_and_the_others_lose_nothing() -> None:
    told = Feed()
    slow, quick = told.listen(), told.listen()
    assert slow and quick
    heard = 0
    for number in range(feed.WAITING + 1):
        told.publish(bound(number))
        heard += len(quick.next(0))
    assert heard == feed.WAITING + 1
    rest = [line for line in b"".join(lines(slow, 0)).splitlines() if line]
    assert [json.loads(line) for line in rest] == [
        {"event": "End", "why": f"dropped: {feed.WAITING} events were not read in time"}
    ]
    assert told.heard  # the quick one
    quick.close()
    assert not told.heard


def test_only_so_many_listen_at_once() -> None:
    told = Feed()
    listeners = [told.listen() for _ in range(feed.LISTENERS)]
    assert all(listeners)
    assert told.listen() is None
    assert listeners[0] is not None
    listeners[0].close()
    assert told.listen() is not None


def test_a_stop_ends_every_stream() -> None:
    told = Feed()
    listener = told.listen()
    assert listener
    told.publish(bound(1))
    told.close()
    text = b"".join(lines(listener, 5)).decode()
    assert '"LeaseBound"' in text and text.rstrip().endswith('"why": "the service stops"}')
    assert told.listen() is None
