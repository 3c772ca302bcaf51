"""What the matrix plays and how it judges, without playing it; tests/crash/test_matrix.py plays it."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from cocoon_net.errors import SpecError
from cocoon_net.lab import matrix
from cocoon_net.lab.case import CHAPTERS, Case, Tally, Verdict, cycles, judge, second, spread
from cocoon_net.lab.death import Moment
from cocoon_net.lab.photograph import Photograph
from cocoon_net.lab.stage import Ended

EMPTY = Photograph({"interfaces": ("theirs",)}, {"links": ("eth0",)}, {"ledger": ()})
LEFT = Photograph({"interfaces": ("eni-1", "theirs")}, {"links": ("eth0", "eth1", "eth2")}, {"ledger": ()})
KILLED = Ended(-signal.SIGKILL, ("write-1-before commit",), "")


def case(chapter: str, number: int) -> Case:
    return Case(chapter, Moment("write", number, "before"))


@pytest.mark.parametrize("text", ["", "init", "init:", "init:write-1", "status:write-1-before", "init:nap-1-before"])
def test_what_is_no_case_is_told_with_an_example(text: str) -> None:
    with pytest.raises(SpecError) as raised:
        Case.parse(text)
    assert "init:write-12-before" in raised.value.hint


def test_a_case_is_repeated_from_its_text() -> None:
    for chapter in CHAPTERS:
        assert Case.parse(str(case(chapter, 7))) == case(chapter, 7)


def test_a_sample_is_spread_over_all_and_never_takes_one_twice() -> None:
    every = [case("init", number) for number in range(1, 101)]
    assert spread(every, None) == spread(every, 1000) == every
    numbers = [one.moment.number for one in spread(every, 4)]
    assert numbers == [13, 38, 63, 88]
    assert len(set(spread(every, 99))) == 99


def test_each_cycle_carries_one_death_of_each_run_and_no_case_is_forgotten() -> None:
    chosen = [case("init", 1), case("init", 2), case("teardown", 9), case("adopt", 3)]
    first, second = cycles("init", chosen)
    assert (first.first, first.last) == (case("init", 1), case("teardown", 9))
    assert (second.first, second.last) == (case("init", 2), None)
    (adopted,) = cycles("adopt", chosen)
    assert (adopted.first, adopted.last) == (case("adopt", 3), None)


def test_the_second_death_is_told_by_the_first_and_lies_within_what_a_resumed_run_passes() -> None:
    for number in range(1, 300):
        moment = second(Moment("call", number, "after"))
        assert (moment.kind, moment.side) == ("call", "after")
        assert 1 <= moment.number <= 29
    assert len({second(Moment("call", number, "after")) for number in range(1, 30)}) == 29


def test_what_is_left_over_is_a_difference_and_a_leak() -> None:
    verdict = judge(case("init", 1), KILLED, Ended(0, (), "done"), LEFT, EMPTY)
    assert verdict.reached and not verdict.equal
    assert verdict.leaked == (1, 2)
    assert verdict.differences == ("+ cloud interfaces: eni-1", "+ node links: eth1", "+ node links: eth2")
    assert "done" in verdict.said


def test_what_is_missing_is_a_difference_and_no_leak() -> None:
    verdict = judge(case("init", 1), KILLED, Ended(75, (), "parked"), EMPTY, LEFT)
    assert not verdict.equal
    assert verdict.leaked == (0, 0)
    assert "- cloud interfaces: eni-1" in verdict.differences
    assert "exit code 75" in verdict.said


def test_a_run_that_ended_in_another_way_than_by_its_death_is_no_success() -> None:
    """Neither killed at its moment, nor at its end before it: the product itself failed."""
    failed = Ended(70, ("write-1-before commit",), "a bug")
    verdict = judge(case("init", 9), failed, failed, EMPTY, EMPTY)
    assert not verdict.reached and not verdict.equal
    parked = judge(case("init", 9), KILLED, Ended(75, (), "parked"), EMPTY, EMPTY)
    assert parked.reached and parked.differences == ("the resumed run ended with 75",)
    whole = Ended(0, (), "done")
    assert judge(case("init", 9), whole, whole, EMPTY, EMPTY).equal


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (Verdict(case("init", 1), reached=True), 0),
        (Verdict(case("init", 1), reached=True, differences=("+ node links: eth1",)), 1),
        (None, 1),
    ],
)
def test_the_exit_code_is_0_only_when_something_was_tried_and_all_was_equal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verdict: Verdict | None, code: int
) -> None:
    def run(product: Any, *, tell: Any, **options: Any) -> dict[str, Tally]:
        if verdict is not None:
            tell(verdict)
        return {"init": Tally(7, [verdict] if verdict else [])}

    monkeypatch.setattr(matrix, "run", run)
    assert matrix.main(lambda words: 0, ["--only", "init", "--fault", "describe-lag=2"]) == code
    out = capsys.readouterr().out
    assert ("scripts/crash-matrix --case init:write-1-before --fault describe-lag=2" in out) is ("DIFFERENT" in out)
    assert "leaked: 0 objects of the cloud, 0 of the node" in out


def test_a_wrong_case_or_knob_is_one_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert matrix.main(lambda words: 0, ["--case", "init:nap-1-before"]) == 78
    assert matrix.main(lambda words: 0, ["--fault", "rain=1"]) == 78
    said = capsys.readouterr().err
    assert "for example init:write-12-before" in said and "no such knob: rain" in said
    with pytest.raises(SystemExit):
        matrix.main(lambda words: 0, ["--sample", "0"])
