"""Starting, resuming and abandoning runs: what the commands init, adopt and teardown have in common.

Everything a resumed run needs is in its row: spec, facts, plan. Commands differ only in the workflow they name.
"""

from __future__ import annotations

import os
import pwd
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cocoon_net import __version__, locks
from cocoon_net.clock import Clock, SystemClock
from cocoon_net.engine.history import Deed
from cocoon_net.engine.journal import Journal, Run
from cocoon_net.engine.machine import PLANNED, RunMachine
from cocoon_net.engine.runner import FIRST_PAUSE, GROWTH, LONGEST_PAUSE, Runner
from cocoon_net.engine.workflow import load
from cocoon_net.errors import CloudThrottled, CocoonError, Refused, SpecError, WorkflowError, WorldError
from cocoon_net.events import Bus, StepSettled
from cocoon_net.locks import Holder, locked
from cocoon_net.records import Instance
from cocoon_net.recovery import keep, open_sound
from cocoon_net.site import Site
from cocoon_net.spec import Spec
from cocoon_net.steps import STEPS
from cocoon_net.steps.cloud import size
from cocoon_net.stop import Stop
from cocoon_net.store import is_there, open_copy, open_memory
from cocoon_net.world import World

if TYPE_CHECKING:
    from sqlite_utils import Database

PATIENCE_WHEN_THROTTLED = 600.0
"""Seconds for which it is asked while it only says that it is asked too often: a whole fleet may begin at once."""

PATIENCE_OF_FACTS = 60.0
"""Seconds for which a troubled cloud is asked again for the facts that a run begins with."""

Say = Callable[[str], None]
"""Tells the operator one line."""


@dataclass(frozen=True, slots=True)
class Desk:
    """One command's hold on the node: the site, its open database, the journal, and how to speak."""

    site: Site
    database: Database
    journal: Journal
    bus: Bus
    clock: Clock
    say: Say
    stop: Stop = field(default_factory=Stop)
    _worlds: dict[Spec, World] = field(default_factory=dict)

    def world(self, spec: Spec) -> World:
        """Return the world as ``spec`` names it; one for the whole command, so that its calls are counted together."""
        return self._worlds.setdefault(spec, World(self.site, spec, self.database, self.stop))


@contextmanager
def at(site: Site, workflow: str, *, bus: Bus, say: Say, clock: Clock | None = None) -> Iterator[Desk]:
    """Hold the run lock and the database for a command that acts.

    Raises Refused without root, Locked when another command acts, StoreError when the state directory is unusable.
    """
    require_root(workflow)
    with locked(site.run_lock, what=f"{workflow} cannot start", owner=workflow, say=say, after_audit=True) as lock:
        database = open_sound(site, site.daemon_lock, say, who())
        try:
            yield Desk(site, database, Journal(database, who(), lock.require), bus, clock or SystemClock(), say)
        finally:
            database.close()


def unlock(site: Site, lock: str, *, say: Say) -> Holder:
    """Take the run lock of id ``lock`` away from a command that hangs, and enter that into the history.

    Raises Refused without root, SpecError when nobody holds the lock, or one of another id; and for the daemon's: it
    has the port of DHCP as well, which no other gets before its process has ended.
    """
    require_root("workflow unlock")
    serving = locks.holder(site.daemon_lock)
    if serving is not None and serving.id == lock:
        raise SpecError(
            f"{lock} is the daemon's lock, and goes with it: {serving}",
            hint=f"systemctl stop cocoon-net, or kill -9 {serving.pid}; the next daemon takes a dead one's lock over",
        )
    found = locks.unlock(site.run_lock, lock, by=f"`workflow unlock` ({who()})")
    try:
        with at(site, "workflow unlock", bus=Bus(), say=say) as desk:
            run = desk.journal.unfinished()
            desk.journal.record(Deed.UNLOCKED, desk.clock.now(), run=run, lock=lock, holder=str(found))
    except CocoonError as error:  # it fell asleep in a transaction, or somebody was faster: it is fenced all the same
        say(f"not entered into the history: {error.told}")
    return found


@contextmanager
def glance(site: Site, workflow: str, *, bus: Bus, say: Say) -> Iterator[Desk]:
    """Look at a copy of the database for a command that changes nothing; where there is none, at an empty one."""
    require_root(f"looking ahead at {workflow}", "reads")
    database = open_copy(site.database) if is_there(site.database) else open_memory()
    try:
        yield Desk(site, database, Journal(database), bus, SystemClock(), say)
    finally:
        database.close()


def require_root(what: str, does: str = "changes") -> None:
    """Raise Refused unless we are root: links, rules and kernel settings are root's."""
    if os.geteuid() != 0:
        user = pwd.getpwuid(os.geteuid()).pw_name
        raise Refused(
            f"{what} {does} links, rules and kernel settings and must run as root, not as {user}", hint="sudo"
        )


def carry(desk: Desk, run: Run) -> Run:
    """Carry a run to its end, against the real world; a signal parks it. The backup is kept up to date on the way."""
    unknown = [stage.name for stage in run.plan.stages if stage.name not in STEPS]
    if unknown:
        raise WorkflowError(
            f"{run.id} was begun by cocoon-net {run.version} and has steps unknown to this one: {', '.join(unknown)}",
            hint=f"install that version again, or `cocoon-net run {run.workflow} --abandon`",
        )
    world, stop = desk.world(run.spec), desk.stop
    runner = Runner(
        desk.journal, STEPS, world.inventories, clock=desk.clock, bus=desk.bus, meter=world.calls, stop=stop
    )
    desk.bus.subscribe(StepSettled, lambda step: keep(desk.site.database, desk.say) if step.changes else None)
    with stop.on_signals():
        try:
            return runner.carry(run)
        except CocoonError as error:
            if "--resume" not in error.hint:
                desk.say(f"{run.id} is parked; `cocoon-net run {run.workflow} --resume` goes on with it")
            raise
        finally:
            keep(desk.site.database, desk.say)


def begin(desk: Desk, workflow: str, spec: Spec) -> Run:
    """Return the run to carry: a new one, or the unfinished one of the same spec, which it says.

    Raises SpecError when an unfinished run or a provisioned node asks for something else, CloudQuota when the pool
    does not fit the instance: before anything is written or made.
    """
    if standing(desk.journal, workflow, spec) is not None:
        return resume(desk, workflow)
    instance = describe(desk, spec)
    if workflow == "init":
        size(spec, instance)
    return _start(desk, workflow, spec, instance)


def standing(journal: Journal, workflow: str, spec: Spec) -> Run | None:
    """Return the unfinished run that the same flags go on with; None where they start a new one. Raises SpecError."""
    parked = journal.unfinished()
    if parked is not None and parked.workflow == workflow:
        differences = parked.spec.differences(spec)
        if not differences:
            return parked
        raise SpecError(
            [f"{parked.id} is not finished (it stands in {parked.state!r}) and was asked for:", *differences],
            hint="--resume goes on with it as it was asked for; --abandon gives it up and starts with these flags",
        )
    if parked is not None:
        raise SpecError(
            f"{parked.id} is not finished: it stands in {parked.state!r}",
            hint=f"`cocoon-net run {parked.workflow} --resume` finishes it, "
            f"`cocoon-net run {parked.workflow} --abandon` gives it up",
        )
    _same_node(journal, spec)
    return None


def begin_teardown(desk: Desk) -> Run:
    """Return the teardown of this node: the unfinished one, or a new one with the spec it was provisioned with.

    A teardown gives up an init or adopt that is not finished, and removes what that made.
    """
    parked = desk.journal.unfinished()
    if parked is not None and parked.workflow == "teardown":
        return resume(desk, "teardown")
    last = provisioned(desk.journal)
    if parked is not None:
        desk.say(f"giving up {parked.id}, which stopped in {parked.state!r}; what it made is removed")
        abandon(desk, parked, "a teardown was begun")
    return _start(desk, "teardown", last.spec, facts(desk, last))


def _start(desk: Desk, workflow: str, spec: Spec, instance: Instance | None) -> Run:
    plan = load(workflow, STEPS, desk.site.workflow_dir)
    return desk.journal.start(plan, spec, instance, version=__version__, by=who(), now=desk.clock.now())


def unfinished(desk: Desk, workflow: str = "") -> Run:
    """Return the unfinished run (of ``workflow``, where it is named). Raises SpecError when there is none."""
    run = desk.journal.unfinished()
    if run is None or workflow not in ("", run.workflow):
        raise SpecError(
            f"there is no unfinished {workflow or 'run'} to go on with" + (f"; {run.id} is unfinished" if run else ""),
            hint="`cocoon-net workflow list` shows the runs of this node",
        )
    return run


def resume(desk: Desk, workflow: str = "") -> Run:
    """Return the unfinished run, to go on with it, and enter that into the history. Raises SpecError."""
    run = unfinished(desk, workflow)
    desk.journal.record(Deed.RESUMED if workflow else Deed.RETRIED, desk.clock.now(), run=run)
    if run.state != PLANNED:
        desk.say(f"resuming {run.id}, which stopped in {run.state!r}")
    return run


def skip(desk: Desk, step: str, why: str) -> Run:
    """Move the unfinished run past the step in which it stands, and return it; the ledger keeps the step's rows.

    Raises SpecError for any other step: those before have come to rest, those after may yet.
    """
    run = unfinished(desk)
    if run.state != step:
        where = "has not begun" if run.state == PLANNED else f"stands in {run.state!r}"
        raise SpecError(
            f"{run.id} {where}: {step!r} cannot be skipped, only the state in which a run stands can",
            hint="`cocoon-net workflow steps` shows them",
        )
    now = desk.clock.now()
    machine = RunMachine(run.plan, run.state, lambda state: desk.journal.moved(run.id, state, now))
    with desk.journal.transaction():
        desk.journal.skip(run.id, step, why, who(), now)
        desk.journal.record(Deed.SKIPPED, now, run=run, step=step, why=why)
        machine.skip()
    return desk.journal.run(run.id)


def abandon(desk: Desk, run: Run, why: str = "") -> None:
    """Give a run up. What it made stays, in the ledger and in the same lineage, for the next init or a teardown."""
    machine = RunMachine(run.plan, run.state, lambda state: desk.journal.moved(run.id, state, desk.clock.now(), why))
    machine.abandon()


def provisioned(journal: Journal) -> Run:
    """Return the run that says what this node is: the unfinished one, else the last init or adopt that ended.

    Raises SpecError when the node was never provisioned, or was torn down since.
    """
    run = journal.unfinished() or (journal.runs()[0] if journal.lineage() else None)
    if run is None:
        raise SpecError("this node is not provisioned: there is nothing to tear down", hint="cocoon-net workflow list")
    return run


def facts(desk: Desk, run: Run) -> Instance:
    """Return the facts of this instance as a run has them; a node that was imported has none, so the cloud is asked."""
    return run.instance or describe(desk, run.spec)


def describe(desk: Desk, spec: Spec) -> Instance:
    """Ask for the facts of this instance, again for a while when the cloud is in trouble. Raises WorldError."""
    began = desk.clock.monotonic()
    pause = FIRST_PAUSE
    while True:
        try:
            return desk.world(spec).describe()
        except WorldError as error:
            patience = PATIENCE_WHEN_THROTTLED if isinstance(error, CloudThrottled) else PATIENCE_OF_FACTS
            if not error.retryable or desk.clock.monotonic() + pause > began + patience:
                raise
            desk.say(f"asking again: {error.message}")
        desk.clock.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(pause * GROWTH, LONGEST_PAUSE)


def _same_node(journal: Journal, spec: Spec) -> None:
    """Refuse to provision a second subnet or name over a first one: its things would be forgotten."""
    if not journal.lineage():
        return
    last = provisioned(journal)
    differences = [d for d in last.spec.differences(spec) if d.startswith(("--subnet", "--node-name", "--platform"))]
    if differences:
        raise SpecError(
            [f"this node is provisioned already ({last.id}), with something else:", *differences],
            hint="`cocoon-net teardown` first, or give the flags it was provisioned with",
        )


def who() -> str:
    """Return who acts, for the history: ``alice, pid 71``."""
    login = os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    return f"{login}, pid {os.getpid()}"
