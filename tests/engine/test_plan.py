"""The diff, what a teardown spares, and tokens: pure, so told as tables."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from cocoon_net.engine.model import Busy, Change, Origin, Row, Step, Verb
from cocoon_net.engine.plan import diff, foreseen, kept, natural, removable, spared, token
from cocoon_net.records import Interface, Subnet, Sysctl

ONE, TWO = Sysctl("a", "1"), Sysctl("a", "2")


def step(**options: object) -> Step:
    return Step("s", lambda cx, seen: {}, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "seen", "prune", "verbs", "waiting"),
    [
        ({}, {}, True, [], []),
        ({"a": ONE}, {}, False, [Verb.CREATE], []),
        ({"a": ONE}, {"a": ONE}, True, [], []),
        ({"a": ONE}, {"a": replace(ONE, ours=False)}, True, [], []),
        ({"a": ONE}, {"a": TWO}, False, [Verb.UPDATE], []),
        ({}, {"a": ONE}, False, [], []),
        ({}, {"a": ONE}, True, [Verb.DELETE], []),
        ({"a": ONE}, {"a": Busy("a to rest")}, False, [], ["a to rest"]),
        ({}, {"a": Busy("a to go")}, True, [], ["a to go"]),
        ({}, {"a": Busy("a to go")}, False, [], []),
    ],
)
def test_a_key_is_created_changed_deleted_waited_for_or_left(
    wanted: dict[str, Sysctl],
    seen: dict[str, Sysctl | Busy],
    prune: bool,
    verbs: list[Verb],
    waiting: list[str],
) -> None:
    difference = diff("s", wanted, seen, prune=prune)
    assert [change.verb for change in difference.changes] == verbs
    assert list(difference.waiting) == waiting
    assert difference.settled is (not verbs and not waiting)


@pytest.mark.parametrize(
    ("mark", "origin", "expected"),
    [
        (None, None, False),
        (None, Origin.CREATED, True),
        (None, Origin.FOUND, False),
        (None, Origin.ADOPTED, False),
        (True, None, True),
        (True, Origin.FOUND, True),
        (True, Origin.ADOPTED, False),
        (False, Origin.CREATED, False),
        (False, None, False),
    ],
)
def test_the_mark_decides_and_without_one_the_ledger(mark: bool | None, origin: Origin | None, expected: bool) -> None:
    row = None if origin is None else Row("s", "a", origin, ONE)
    assert removable(replace(ONE, ours=mark), row) is expected


def test_a_found_thing_is_put_back_as_it_was() -> None:
    ledger = {("s", "a"): Row("s", "a", Origin.FOUND, ONE, before=TWO)}
    assert spared(step(), {"a": ONE}, ledger) == {"a": TWO}


def test_a_thing_that_ours_is_a_part_of_is_left_without_ours() -> None:
    part = step(leaves=lambda record: TWO if record == ONE else None)
    assert spared(part, {"a": ONE}, {}) == {"a": TWO}
    assert spared(part, {"a": TWO}, {}) == {}, "nothing of others in it: it goes"
    adopted = {("s", "a"): Row("s", "a", Origin.ADOPTED, ONE)}
    assert spared(part, {"a": ONE}, adopted) == {"a": ONE}


def test_a_part_goes_with_its_whole() -> None:
    whole = Row("w", "a", Origin.CREATED, ONE)
    part = Row("s", "a", Origin.CREATED, ONE)
    ledger = {("w", "a"): whole, ("s", "a"): part}
    assert spared(step(part_of="w"), {"a": ONE}, ledger) == {"a": ONE}, "no call of its own"
    kept = {**ledger, ("w", "a"): replace(whole, origin=Origin.FOUND)}
    assert spared(step(part_of="w"), {"a": ONE}, kept) == {}, "the whole stays, so the part goes by itself"


def test_tokens_tell_wishes_apart_and_nothing_else() -> None:
    change = Change("s", "a", Verb.CREATE, ONE, None)
    same = token("line", change, 0)
    assert same == token("line", replace(change, want=replace(ONE, ours=True)), 0)
    others = {
        token("other", change, 0),
        token("line", replace(change, key="b"), 0),
        token("line", replace(change, want=TWO), 0),
        token("line", replace(change, seen=TWO), 0),
        token("line", change, 1),
    }
    assert same not in others
    assert len(others) == 5
    assert len(same) <= 64, "the API takes at most 64 ASCII characters"
    assert same.isascii()


def test_keys_sort_as_people_count() -> None:
    keys = ["eni-10", "eni-9", "172.20.100.17/32", "172.20.100.4/32", "cni0"]
    assert sorted(keys, key=natural) == ["172.20.100.4/32", "172.20.100.17/32", "cni0", "eni-9", "eni-10"]


@pytest.mark.parametrize(
    ("record", "row", "reason"),
    [
        (ONE, None, "not ours: it carries no mark, and the ledger does not know it"),
        (replace(ONE, ours=False), None, "not ours"),
        (ONE, Row("s", "a", Origin.FOUND, ONE), "was there before us"),
        (ONE, Row("s", "a", Origin.FOUND, ONE, before=ONE), "as it was before us"),
        (replace(ONE, ours=True), Row("s", "a", Origin.ADOPTED, ONE), "adopted: it stays"),
    ],
)
def test_what_a_teardown_leaves_says_why(record: Sysctl, row: Row | None, reason: str) -> None:
    assert kept(step(), {"a": record}, {("s", "a"): row} if row else {}) == {"a": reason}


def test_what_a_teardown_removes_or_puts_back_is_not_kept() -> None:
    assert kept(step(), {"a": replace(ONE, ours=True)}, {}) == {}
    assert kept(step(), {"a": ONE}, {("s", "a"): Row("s", "a", Origin.FOUND, ONE, before=TWO)}) == {}


def test_a_thing_of_another_node_is_kept_by_name_and_a_part_by_its_whole() -> None:
    net = IPv4Network("172.20.100.0/24")
    theirs = Subnet(net, "zone", owner="node2", ours=False)
    assert kept(step(permanent=True), {"a": ONE}, {}) == {"a": "we never changed it"}
    assert kept(step(), {"a": theirs}, {}) == {"a": "not ours: it belongs to node2"}
    whole = {("w", "a"): Row("w", "a", Origin.CREATED, ONE)}
    assert kept(step(part_of="w"), {"a": replace(ONE, ours=False)}, whole) == {"a": "goes with w"}


def test_a_thing_that_would_be_changed_keeps_what_only_the_world_knows() -> None:
    net = IPv4Network("172.20.100.0/24")
    seen = Interface(net, ("sg-a",), id="eni-x", mac="00:16:3e:00:00:01")
    want = Interface(net, ("sg-b",))
    row = foreseen(None, "enis", "eni-1", want, seen)
    assert row.record == want
    assert (row.record.id, row.record.mac) == ("eni-x", "00:16:3e:00:00:01")
    stale = Row("enis", "eni-1", Origin.CREATED, seen)
    assert foreseen(stale, "enis", "eni-1", want, None).record.id == "", "it is gone, and its id with it"
    assert foreseen(stale, "enis", "eni-1", want, Busy("eni-1 to attach")) == stale
