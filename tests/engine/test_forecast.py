"""A plan as a value: what it says, how it is kept, and what counts as moved. Pure, but for the bench's shelves."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from cocoon_net.engine.forecast import Forecast, document, moved, parse
from cocoon_net.engine.model import Busy, Change, Context, Verb, Via
from cocoon_net.errors import CloudError, CloudTransient, SpecError, Unsupported
from cocoon_net.records import Instance, Sysctl


def foresee(bench: Any, want: str = "spec", name: str = "init") -> Forecast:
    """Look ahead on the bench."""
    journal = bench.journal()
    now = bench.clock.now()
    spec = bench.start().spec if not journal.runs() else journal.runs()[0].spec
    cx = Context(spec, None, journal.ledger(), "line", now)
    return Forecast(name, "", spec, None, "0", now, bench.runner(journal).compare(bench.plan(want, name), cx))


def test_a_plan_counts_objects_and_calls_and_applies_nothing(bench: Any) -> None:
    bench.tools.things["tool-1"] = Sysctl("tool-1", "0")
    found = foresee(bench)
    assert found.verbs() == {Verb.CREATE: 3, Verb.UPDATE: 1, Verb.DELETE: 0}
    assert found.calls()[Via.KERNEL] == 4
    assert not found.settled
    assert bench.tools.applied == bench.lamps.applied == []
    bench.init()
    assert foresee(bench).settled


def test_what_is_busy_is_waited_for_and_no_plan_calls_that_settled(bench: Any) -> None:
    bench.init()
    bench.tools.busy = {"tool-2": 9}
    found = foresee(bench)
    assert [step.waiting for step in found.steps] == [("tool-2 to rest",), ()]
    assert not found.settled
    assert document(found)["counts"]["waiting"] == 1


def test_a_change_that_would_be_refused_says_so(bench: Any) -> None:
    def refuse(change: Change, cx: Context) -> Any:
        raise Unsupported("the lamp is in another zone")

    bench.lamps.calls = refuse
    (lamp,) = foresee(bench).steps[1].changes
    assert (lamp.calls, lamp.refused) == ((), "the lamp is in another zone")
    assert foresee(bench).stop == "lamps"


def test_a_look_that_fails_in_passing_is_repeated_and_a_lasting_error_names_its_step(bench: Any) -> None:
    observe, failures = bench.tools.observe, iter([CloudTransient("throttled")])

    def stumble(cx: Context) -> Any:
        if error := next(failures, None):
            raise error
        return observe(cx)

    bench.tools.observe = stumble
    assert len(foresee(bench).steps) == 2

    def fail(cx: Context) -> Any:
        raise CloudError("denied")

    bench.lamps.observe = fail
    with pytest.raises(CloudError) as raised:
        foresee(bench)
    assert raised.value.step == "lamps"


# The document


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not a plan"),
        ("[]", "is not a plan of cocoon-net"),
        ('{"format": 99}', "format 99; this version reads 1"),
        ('{"format": 1, "workflow": "init"}', "damaged"),
    ],
)
def test_a_file_that_is_no_plan_of_ours_is_refused(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says) as raised:
        parse(text, "p.json")
    assert raised.value.exit_code == 78


def test_a_plan_that_was_edited_is_refused(bench: Any) -> None:
    data = document(foresee(bench))
    assert parse(json.dumps(data, indent=2), "p") == {k: v for k, v in data.items() if k != "sha256"}
    data["spec"]["pool_size"] = 999
    with pytest.raises(SpecError, match="was edited"):
        parse(json.dumps(data), "p")


# What moved


def test_nothing_moves_by_looking_twice(bench: Any) -> None:
    bench.tools.things["tool-1"] = Sysctl("tool-1", "0")
    then = parse(json.dumps(document(foresee(bench))), "p")
    assert moved(then, document(foresee(bench))) == []


def test_an_object_that_the_plan_would_touch_must_be_as_it_was(bench: Any) -> None:
    bench.tools.things["tool-1"] = Sysctl("tool-1", "0")
    then = document(foresee(bench))
    bench.tools.things["tool-1"] = Sysctl("tool-1", "7")
    assert [str(each) for each in moved(then, document(foresee(bench)))] == ["tools tool-1: value was 0, is 7"]
    bench.tools.things["tool-1"] = Sysctl("tool-1", "1")
    assert [str(each) for each in moved(then, document(foresee(bench)))] == ["tools tool-1: value was 0, is 1"]
    del bench.tools.things["tool-1"]
    assert [str(each) for each in moved(then, document(foresee(bench)))] == [
        "tools tool-1: the object was there (Sysctl), is absent"
    ]


def test_a_thing_that_appears_or_becomes_busy_has_moved(bench: Any) -> None:
    then = document(foresee(bench))
    bench.tools.things["tool-2"] = Sysctl("tool-2", "1")
    assert "tools tool-2: the object was absent, is there (Sysctl)" in map(str, moved(then, document(foresee(bench))))
    bench.tools.busy = {"tool-2": 99}
    assert "tools tool-2: the object was absent, is waiting for tool-2 to rest" in map(
        str, moved(then, document(foresee(bench)))
    )


def test_what_the_plan_does_not_touch_may_change_as_it_likes(bench: Any) -> None:
    then = document(foresee(bench))
    bench.tools.things["somebody-else"] = Sysctl("x", "1")
    assert moved(then, document(foresee(bench))) == []


def test_other_calls_for_the_same_objects_are_another_plan(bench: Any) -> None:
    found = foresee(bench)
    step = found.steps[1]
    silent = replace(step, changes=tuple(replace(planned, calls=()) for planned in step.changes))
    other = replace(found, steps=(found.steps[0], silent))
    assert [str(each) for each in moved(document(found), document(other))] == [
        "lamps lamp: what is to be done was create create lamp, is create"
    ]


def test_another_unfinished_run_has_moved(bench: Any) -> None:
    found = foresee(bench)
    assert [str(each) for each in moved(document(found), document(replace(found, run="init-1")))] == [
        "run: the unfinished one was none, is init-1"
    ]


def test_another_instance_under_the_same_name_has_moved(bench: Any) -> None:
    found = foresee(bench)
    vpc, address = IPv4Network("172.20.0.0/16"), IPv4Address("172.20.0.9")
    here = Instance(
        "volcengine", "i-1", "ecs.g3", "cn-hongkong", "cn-hongkong-a", "vpc-1", vpc, "00:16:3e:00:00:01", address,
        "eni-0", ("sg-1",), 4, 10,
    )  # fmt: skip
    then, now = replace(found, instance=here), replace(found, instance=replace(here, zone="cn-hongkong-b"))
    assert [str(each) for each in moved(document(then), document(now))] == [
        "instance: zone was cn-hongkong-a, is cn-hongkong-b"
    ]


def test_what_was_waited_for_has_moved_when_it_came_to_rest(bench: Any) -> None:
    bench.init()
    bench.tools.busy = {"tool-2": 1}
    then = document(foresee(bench))
    assert [str(each) for each in moved(then, document(foresee(bench)))] == [
        "tools tool-2: the object was waiting for tool-2 to rest, is there (Sysctl)"
    ]


def test_what_the_plan_promises_to_leave_must_be_as_it_was(bench: Any) -> None:
    bench.init()
    bench.tools.things["tool-9"] = Sysctl("tool-9", "1")
    then = document(foresee(bench, "nothing", "teardown"))
    assert "not ours" in next(step for step in then["steps"] if step["step"] == "tools")["kept"]["tool-9"]
    bench.tools.things["tool-9"] = Sysctl("tool-9", "2")
    found = map(str, moved(then, document(foresee(bench, "nothing", "teardown"))))
    assert "tools tool-9: value was 1, is 2" in found


def test_a_thing_in_between_is_its_own_state(bench: Any) -> None:
    found = foresee(bench)
    seen = {**found.steps[1].seen, "lamp": Busy("lamp to rest")}
    busy = replace(found, steps=(found.steps[0], replace(found.steps[1], seen=seen, waiting=("lamp to rest",))))
    assert any("waiting for lamp to rest" in each.now for each in moved(document(found), document(busy)))
