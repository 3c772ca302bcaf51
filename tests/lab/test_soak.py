"""What hours of a node's life are judged by: what grows is told, what breathes is not. They are ``scripts/soak``."""

from __future__ import annotations

from dataclasses import replace

from cocoon_net.lab.soak import Reading, grown, longest

FLAT = Reading(resident=56.0, descriptors=24, threads=9, database=1.0)


def test_what_has_not_settled_yet_or_breathes_is_flat() -> None:
    hours = [replace(FLAT, resident=size) for size in (40.0, 50.0, 56.0, 57.0, 56.5, 58.0, 57.0, 57.4)]
    assert grown(hours) == []
    assert grown([replace(FLAT, descriptors=24 + (at == 6)) for at in range(8)]) == [], "one hour alone"
    assert grown([FLAT, replace(FLAT, resident=500.0)]) == [], "too short to tell"


def test_what_grows_a_little_all_the_time_is_told_in_the_end() -> None:
    hours = [replace(FLAT, resident=50.0 + 0.1 * at) for at in range(24)]
    assert grown(hours[:12]) == [] and grown(hours) == ["memory grew from 50.3 to 52.2 MB"]


def test_what_grows_all_the_time_is_told() -> None:
    told = grown([replace(FLAT, resident=50.0 + 2 * at, descriptors=24 + at, threads=9 + at // 4) for at in range(8)])
    assert [line.split()[0] for line in told] == ["memory", "descriptors", "threads"]


def test_pings_that_are_missing_in_a_row_are_counted() -> None:
    assert longest([]) == 0
    assert longest([3]) == 1
    assert longest([1, 2, 7, 8, 9, 20]) == 3
