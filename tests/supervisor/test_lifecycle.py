"""The service's machine: every legal move, and no other."""

from __future__ import annotations

import itertools

import pytest
from transitions import MachineError

from cocoon_net.supervisor.lifecycle import MOVES, Lifecycle, Phase

TRIGGERS = ("reconcile", "serve", "degrade", "recover", "reload", "drain", "stop")


def at(phase: Phase) -> Lifecycle:
    life = Lifecycle()
    life.state = phase.value
    return life


@pytest.mark.parametrize(("phase", "trigger"), list(itertools.product(Phase, TRIGGERS)))
def test_only_the_table_is_legal(phase: Phase, trigger: str) -> None:
    life = at(phase)
    targets = [target for name, sources, target in MOVES if name == trigger and phase in sources]
    if targets:
        getattr(life, trigger)()
        assert life.phase is targets[0]
    else:
        with pytest.raises(MachineError):
            getattr(life, trigger)()
        assert life.phase is phase


def test_no_state_can_be_jumped_to() -> None:
    assert not hasattr(Lifecycle(), "to_serving")


def test_every_move_is_told_with_its_reason() -> None:
    told: list[tuple[Phase, str]] = []
    life = Lifecycle(lambda phase, reason: told.append((phase, reason)))
    life.reconcile("looking")
    life.serve()
    life.degrade("eth1 is down")
    life.degrade("eth2 is down")
    assert life.reason == "eth2 is down"
    life.recover()
    life.drain("SIGTERM")
    life.stop()
    assert told == [
        (Phase.RECONCILING, "looking"),
        (Phase.SERVING, ""),
        (Phase.DEGRADED, "eth1 is down"),
        (Phase.DEGRADED, "eth2 is down"),
        (Phase.SERVING, ""),
        (Phase.DRAINING, "SIGTERM"),
        (Phase.STOPPED, ""),
    ]


@pytest.mark.parametrize("phase", [p for p in Phase if p not in (Phase.DRAINING, Phase.STOPPED)])
def test_it_can_be_stopped_from_anywhere(phase: Phase) -> None:
    life = at(phase)
    life.drain()
    life.stop()
    assert life.phase is Phase.STOPPED
