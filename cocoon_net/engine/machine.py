"""RunMachine: where a run stands. The table is the machine.

::

    planned ──advance──▶ subnet ──advance──▶ ... ──advance──▶ dhcp ──advance──▶ done
       │                   ├──────skip────▶        ├───────────┴───────skip─────▶
       └───────────────────┴─── abandon ──▶ abandoned

``advance`` is the runner's, after a step came to rest. ``skip`` is the operator's: past a step that did not.

Failing is an annotation of the run (its reason), not a place: resuming is a machine whose initial state is the one in
the run's row. The only callback persists.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from cocoon_net.engine.workflow import Plan

PLANNED, DONE, ABANDONED = "planned", "done", "abandoned"


def table(plan: Plan) -> list[dict[str, Any]]:
    """Return every legal move of a run of ``plan`` as ``transitions`` wants them."""
    path = [PLANNED, *(stage.name for stage in plan.stages), DONE]
    moves = [{"trigger": "advance", "source": here, "dest": there} for here, there in pairwise(path)]
    skips = [{"trigger": "skip", "source": here, "dest": there} for here, there in pairwise(path) if here != PLANNED]
    return [*moves, *skips, {"trigger": "abandon", "source": path[:-1], "dest": ABANDONED}]


def definition(plan: Plan, state: str) -> dict[str, Any]:
    """Return the machine of a run of ``plan`` that stands at ``state``, in the words of ``transitions``."""
    states = [PLANNED, *(stage.name for stage in plan.stages), DONE, ABANDONED]
    return {"states": states, "transitions": table(plan), "initial": state, "auto_transitions": False}


class RunMachine:
    """The place of one run; ``advance``, ``skip`` and ``abandon`` move it and call ``persist`` with the new state."""

    state: str
    advance: Callable[[], bool]
    skip: Callable[[], bool]
    abandon: Callable[[], bool]

    def __init__(self, plan: Plan, state: str, persist: Callable[[str], None]) -> None:
        from transitions import Machine

        self._persist = persist
        Machine(self, **definition(plan, state), after_state_change="moved")

    def moved(self) -> None:
        """Write the new state down; called by the machine after each move."""
        self._persist(self.state)

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do."""
        return self.state in (DONE, ABANDONED)


def mermaid(plan: Plan, state: str) -> str:
    """Draw the machine as Mermaid, the current state marked."""
    from transitions.extensions import GraphMachine

    class Drawn:
        """A model for the drawing only."""

    model = Drawn()
    graph = GraphMachine(
        model,
        **definition(plan, state),
        graph_engine="mermaid",
        title=plan.title or plan.name,
        show_conditions=False,
    )
    return str(graph.get_graph().draw(None))
