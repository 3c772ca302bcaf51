"""Plans: what a command would find and do, and runs that do just what a plan foretold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from cocoon_net import __version__, runs
from cocoon_net.engine.forecast import Forecast, document, moved
from cocoon_net.engine.history import Deed
from cocoon_net.engine.journal import Journal, Run
from cocoon_net.engine.machine import PLANNED
from cocoon_net.engine.model import Context, Later
from cocoon_net.engine.runner import Runner
from cocoon_net.engine.workflow import Plan, load
from cocoon_net.errors import DriftFound, SpecError
from cocoon_net.runs import Desk
from cocoon_net.spec import Spec
from cocoon_net.steps import STEPS
from cocoon_net.steps.cloud import size

SHOWN = 20
"""Lines that a refused plan lists of what moved."""


def due(journal: Journal) -> str:
    """Return the workflow that comes next: the unfinished run's, else what the node was provisioned with, else init."""
    unfinished = journal.unfinished()
    if unfinished is not None:
        return unfinished.workflow
    last = journal.latest("init", "adopt") if journal.lineage() else None
    return last.workflow if last is not None else "init"


def foresee(desk: Desk, workflow: str, spec: Spec | None, *, now: datetime | None = None, here: str = "") -> Forecast:
    """Look at every step that a command would pass, and change nothing.

    ``spec`` None takes that of the unfinished or of the last run. ``now`` is the time that texts carry, ``here`` the
    instance that it must be. Raises SpecError as the command itself would, WorldError.
    """
    now = now or desk.clock.now()
    run: Run | None
    if workflow == "teardown":
        last = runs.provisioned(desk.journal)
        run = last if last.workflow == workflow and not last.ended else None
        spec, instance = last.spec, runs.facts(desk, last)
        if run is None and not last.ended:
            desk.say(f"a teardown gives {last.id} up, which stands in {last.state!r}")
    else:
        spec = spec or _last_spec(desk.journal, workflow)
        run = runs.standing(desk.journal, workflow, spec)
        instance = runs.facts(desk, run) if run is not None else runs.describe(desk, spec)
    if here and instance.instance_id != here:
        raise SpecError(f"the plan is of another node: of {here}, and this is {instance.instance_id}")
    if workflow == "init":
        size(spec, instance)
    plan = _rest(run) if run is not None else load(workflow, STEPS, desk.site.workflow_dir)
    lineage = desk.journal.lineage()
    ledger, open_ = desk.journal.ledger(), desk.journal.open(lineage)
    cx = Context(spec, instance, ledger, lineage or Later("(of the run)"), now, open_)
    runner = Runner(desk.journal, STEPS, desk.world(spec).inventories, clock=desk.clock, bus=desk.bus)
    stands = run.id if run is not None else ""
    return Forecast(workflow, stands, spec, instance, __version__, now, runner.compare(plan, cx))


def begin(desk: Desk, then: Mapping[str, Any]) -> Run:
    """Return the run that a plan asks for, if nothing has moved since; between this look and the act is a moment.

    Raises DriftFound that lists what moved, SpecError for a plan of another node or beside another unfinished run.
    """
    workflow, spec = then["workflow"], Spec.from_json(then["spec"])
    here = (then["instance"] or {}).get("instance_id", "")
    forecast = foresee(desk, workflow, spec, now=datetime.fromisoformat(then["made_at"]), here=here)
    if differences := forecast.spec.differences(spec):
        raise SpecError(["this node was provisioned with something else than the plan says:", *differences])
    if found := moved(then, document(forecast)):
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        raise DriftFound(
            "\n".join((f"the world has moved since the plan of {then['made_at']}:", *map(str, found[:SHOWN]), *more)),
            hint=f"`cocoon-net plan {workflow} --out FILE` looks again; nothing was changed",
        )
    run = runs.begin_teardown(desk) if workflow == "teardown" else runs.begin(desk, workflow, spec)
    desk.journal.record(Deed.APPLIED, desk.clock.now(), run=run, made_at=then["made_at"], counts=then["counts"])
    return run


def _last_spec(journal: Journal, workflow: str) -> Spec:
    """Return what the node was asked for last. Raises SpecError where it never was."""
    if not journal.lineage():
        raise SpecError(
            f"this node is not provisioned, so {workflow} must be told what to plan for",
            hint=f"cocoon-net plan {workflow} --node-name NAME --subnet CIDR",
        )
    return runs.provisioned(journal).spec


def _rest(run: Run) -> Plan:
    """Return the workflow of an unfinished run from where it stands."""
    names = [stage.name for stage in run.plan.stages]
    start = 0 if run.state == PLANNED else names.index(run.state)
    return replace(run.plan, stages=run.plan.stages[start:])
