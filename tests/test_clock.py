"""The wall clock and the monotonic one, and how a jump of the one against the other is noticed."""

from __future__ import annotations

import pytest

from cocoon_net.clock import JUMP, Jumps, ManualClock

YEAR = 365 * 86_400.0


@pytest.mark.parametrize("by", [10 * YEAR, -10 * YEAR, JUMP + 1, -JUMP - 1])
def test_a_jump_is_told_of_until_it_is_accepted(by: float) -> None:
    clock = ManualClock()
    jumps = Jumps(clock)
    clock.advance(3 * YEAR)
    assert jumps.look() == 0, "time that passes is no jump, however much"
    clock.jump(by)
    clock.advance(1)
    assert jumps.look() == jumps.look() == pytest.approx(by)
    jumps.accept()
    assert jumps.look() == 0


def test_slewing_is_no_jump() -> None:
    clock = ManualClock()
    jumps = Jumps(clock)
    for _ in range(100):
        clock.advance(1)
        clock.jump(0.5)
        assert jumps.look() == 0


def test_a_jump_between_a_look_and_its_acceptance_is_left_for_the_next_look() -> None:
    clock = ManualClock()
    jumps = Jumps(clock)
    clock.jump(YEAR)
    assert jumps.look() == YEAR
    clock.jump(-YEAR)
    jumps.accept()
    assert jumps.look() == -YEAR


def test_no_time_is_over_because_of_a_jump_that_was_not_accepted() -> None:
    clock = ManualClock()
    jumps = Jumps(clock)
    began = jumps.now()
    assert began == clock.now().timestamp()
    jumps.look()
    clock.jump(YEAR)
    clock.advance(5)
    assert jumps.now() == began + 5
    jumps.look()
    jumps.accept()
    assert jumps.now() == began + 5 + YEAR == clock.now().timestamp()
