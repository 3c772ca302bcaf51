"""Lifecycle: where the service stands. The table is the machine; its callbacks persist and tell, they never work.

::

    starting ─reconcile─▶ reconciling ─serve─▶ serving ◀─recover─┐
        │                      │                  ├──degrade──▶ degraded
        │                      │                  └──reload──▶ reloading (then either again)
        └──────────────────────┴───── drain ──────┴──▶ draining ─stop─▶ stopped

Degraded means: DHCP is served, and something that an operator should look at is wrong; ``reason`` says what.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any


class Phase(StrEnum):
    """Where the service stands."""

    STARTING = "starting"
    RECONCILING = "reconciling"
    SERVING = "serving"
    DEGRADED = "degraded"
    RELOADING = "reloading"
    DRAINING = "draining"
    STOPPED = "stopped"


ANSWERING = (Phase.SERVING, Phase.DEGRADED, Phase.RELOADING)
"""DHCP is served: a reload takes nothing away while it reads."""

MOVES: tuple[tuple[str, tuple[Phase, ...], Phase], ...] = (
    ("reconcile", (Phase.STARTING,), Phase.RECONCILING),
    ("serve", (Phase.RECONCILING,), Phase.SERVING),
    ("degrade", ANSWERING, Phase.DEGRADED),
    ("recover", (Phase.DEGRADED, Phase.RELOADING), Phase.SERVING),
    ("reload", (Phase.SERVING, Phase.DEGRADED), Phase.RELOADING),
    ("drain", (Phase.STARTING, Phase.RECONCILING, *ANSWERING), Phase.DRAINING),
    ("stop", (Phase.DRAINING,), Phase.STOPPED),
)
"""(trigger, from, to): every legal move; ``degrade`` while degraded changes the reason."""


class Lifecycle:
    """One service's place; each move calls every listener with the new phase and the reason given to the trigger.

    Only the service's main thread moves it.
    """

    state: str
    reconcile: Callable[..., bool]
    serve: Callable[..., bool]
    degrade: Callable[..., bool]
    recover: Callable[..., bool]
    reload: Callable[..., bool]
    drain: Callable[..., bool]
    stop: Callable[..., bool]

    def __init__(self, *listeners: Callable[[Phase, str], None]) -> None:
        from transitions import Machine

        self.reason = ""
        self._listeners = listeners
        table: list[Any] = [[trigger, [s.value for s in sources], target.value] for trigger, sources, target in MOVES]
        Machine(
            self,
            states=[phase.value for phase in Phase],
            transitions=table,
            initial=Phase.STARTING.value,
            auto_transitions=False,
            after_state_change="tell",
        )

    @property
    def phase(self) -> Phase:
        """Where the service stands now."""
        return Phase(self.state)

    def tell(self, reason: str = "") -> None:
        """Keep the reason and call the listeners; called by the machine after each move."""
        self.reason = reason
        for listener in self._listeners:
            listener(self.phase, reason)


def announce(phase: Phase, reason: str) -> None:
    """Tell systemd: READY once the service serves, RELOADING, STOPPING when it drains, STATUS always (sd_notify(3))."""
    from cocoon_net.supervisor.notify import notify

    status = f"STATUS={phase}: {reason}" if reason else f"STATUS={phase}"
    match phase:
        case Phase.SERVING | Phase.DEGRADED:
            notify("READY=1", status)
        case Phase.RELOADING:
            notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", status)
        case Phase.DRAINING:
            notify("STOPPING=1", status)
        case _:
            notify(status)
