"""The runner: it carries a run from where it stands to its end, and is the only one that acts or waits.

::

    for each step:  observe → want → diff → [ intent → apply → outcome ]* → look again … → settle → advance

Retrying is looking again: an ``apply`` that failed in passing is not repeated, the world is observed anew. Changes of
one step have different keys and are independent; they are applied side by side, all intents committed first.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import timedelta

from cocoon_net.clock import Clock
from cocoon_net.engine.forecast import Outlook, Planned
from cocoon_net.engine.journal import Journal, Run
from cocoon_net.engine.machine import PLANNED, RunMachine
from cocoon_net.engine.model import Busy, Change, Context, Inventory, Origin, Row, Seen, Step, Verb, Wanted
from cocoon_net.engine.operations import NotBegun, verdict
from cocoon_net.engine.plan import Difference, diff, foreseen, kept, spared, token
from cocoon_net.engine.workflow import Plan, Stage, Wish
from cocoon_net.errors import CloudThrottled, CocoonError, InvariantError, NotSettled, StoreError, WorldError
from cocoon_net.events import Bus, ChangeApplied, StepEntered, StepSettled, StepWaiting
from cocoon_net.records import Record
from cocoon_net.stop import TICK, Stop

SIDE_BY_SIDE = 8
"""Changes of one step applied at the same time: seven interfaces take as long as one."""

FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.05, 5.0, 1.6
"""Seconds between two looks at a step that is not at rest; the jitter takes up to half of a pause away."""

PATIENCE = 10.0
"""Seconds that a change which was answered with success is given to become visible before it is asked for again."""

ENOUGH = 7
"""Looks after which a listing is believed that does not show what an earlier run did, however long ago that was."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at one stage: what was seen, what is wanted, what differs."""

    stage: Stage
    seen: Seen
    wanted: Wanted
    difference: Difference


class Runner:
    """Acts on the world through inventories and remembers through the journal. One at a time per node."""

    def __init__(
        self,
        journal: Journal,
        steps: Mapping[str, Step],
        inventories: Mapping[str, Inventory],
        *,
        clock: Clock,
        bus: Bus,
        meter: Callable[[], Mapping[tuple[str, str], int]] = dict,
        rng: random.Random | None = None,
        stop: Stop | None = None,
    ) -> None:
        """``meter`` returns how many calls were made since it was last asked, by name and code.

        Once ``stop`` was asked, nothing new is begun and the run is parked.
        """
        self._journal = journal
        self._steps = steps
        self._inventories = inventories
        self._clock = clock
        self._bus = bus
        self._meter = meter
        self._rng = rng or random.Random()
        self._stop = stop or Stop()

    def carry(self, run: Run) -> Run:
        """Carry ``run`` to its end. Raises what stopped it, after noting it in the run's row."""
        machine = RunMachine(run.plan, run.state, lambda state: self._journal.moved(run.id, state, self._clock.now()))
        if machine.state == PLANNED:
            machine.advance()
        while not machine.ended:
            stage = run.plan.stage(machine.state)
            began = self._clock.monotonic()
            try:
                look, changes = self._converge(run, stage)
                seconds = self._clock.monotonic() - began
                with self._journal.transaction():
                    rows = self._rows(run, look)
                    self._journal.settle(run.id, stage.name, rows, self._meter(), seconds, self._clock.now())
                    machine.advance()
            except CocoonError as error:
                if isinstance(error, WorldError):
                    error.step = stage.name
                self._park(run, stage, error, began)
                raise
            except KeyboardInterrupt:
                stopped = NotSettled(f"stopped in {stage.name!r} by a signal", hint=_go_on(run))
                self._park(run, stage, stopped, began)
                raise stopped from None
            except Exception as error:
                bug = InvariantError(f"{stage.name!r} failed by a bug: {type(error).__name__}: {error}")
                self._park(run, stage, bug, began)
                raise bug from error
            self._bus.publish([StepSettled(self._clock.now(), run.id, stage.name, changes, seconds)])
        return self._journal.run(run.id)

    def _park(self, run: Run, stage: Stage, error: CocoonError, began: float) -> None:
        seconds = self._clock.monotonic() - began
        self._journal.park(run.id, stage.name, error, self._meter(), seconds, self._clock.now())

    def compare(self, plan: Plan, cx: Context) -> tuple[Outlook, ...]:
        """Look at every stage once and change nothing: what a plan, a dry run and an audit report.

        A later stage is shown the ledger as it would be once the earlier ones were as wanted. A look that failed in
        passing is repeated for a while, nothing is waited for. Raises WorldError.
        """
        return tuple(self._outlooks(plan, cx))

    def _outlooks(self, plan: Plan, cx: Context) -> Iterator[Outlook]:
        for stage in plan.stages:
            name = stage.name
            look = self._look_again(stage, cx)
            changes = tuple(self._foretell(change, cx) for change in look.difference.changes)
            spare: Mapping[str, str] = {}
            if stage.wish is Wish.NOTHING:
                spare = kept(self._steps[name], _at_rest(look.seen), cx.ledger)
            else:
                others = {place: row for place, row in cx.ledger.items() if row.step != name}
                rows = {
                    (name, key): foreseen(cx.ledger.get((name, key)), name, key, want, look.seen.get(key))
                    for key, want in look.wanted.items()
                }
                cx = replace(cx, ledger={**others, **rows})
            yield Outlook(name, look.seen, look.wanted, changes, look.difference.waiting, spare)

    def _look_again(self, stage: Stage, cx: Context) -> Look:
        deadline = self._clock.monotonic() + PATIENCE
        pause = FIRST_PAUSE
        while True:
            try:
                return self._look(stage, cx)
            except WorldError as error:
                error.step = stage.name
                if not error.retryable or self._clock.monotonic() + pause > deadline:
                    raise
            self._clock.sleep(pause * self._rng.uniform(0.5, 1.0))
            pause *= GROWTH

    def _foretell(self, change: Change, cx: Context) -> Planned:
        try:
            return Planned(change, self._inventories[change.step].calls(change, cx))
        except WorldError as error:
            return Planned(change, (), error.message)

    def reassert(self, plan: Plan, cx: Context, only: Collection[str]) -> list[Change]:
        """Apply what differs in the stages named ``only``, once and without a journal, and return it.

        For the node's own kernel after a reboot: nothing there outlives us, nothing is created in the cloud.
        Raises WorldError of the first change that failed.
        """
        applied: list[Change] = []
        for stage in plan.stages:
            if stage.name in only:
                look = self._look(stage, cx)
                for change in look.difference.changes:
                    self._inventories[stage.name].apply(change, "", cx)
                    applied.append(change)
        return applied

    # One stage

    def _converge(self, run: Run, stage: Stage) -> tuple[Look, int]:
        """Look and apply until nothing differs or the deadline has passed; returns the last look."""
        self._journal.enter(run.id, stage.name, self._clock.now())
        self._bus.publish([StepEntered(self._clock.now(), run.id, stage.name)])
        deadline = self._clock.monotonic() + stage.deadline
        pause, made = FIRST_PAUSE, 0
        answered: dict[str, float] = {}  # token -> when its change was answered with success
        why, looks = "", 0
        while True:
            self._heed(run, stage, why)
            progress, unseen, least = False, set[str](), 0.5
            try:
                cx = self._context(run)
                look = self._look(stage, cx)
                looks += 1
                late = self._late(run, look, looks)
                if look.difference.settled and not late:
                    return look, made
                due, unseen, why = self._due(run, look.difference, answered)
                why = why or late
                if due:
                    self._heed(run, stage, "")
                    done, passing = self._apply(run, cx, due)
                    answered.update(dict.fromkeys(done, self._clock.monotonic()))
                    made += len(done)
                    progress, why = not passing, passing or why
            except WorldError as error:
                if not error.retryable:
                    raise
                why = error.message
                # Throttled, all of a pause is left to chance: many nodes were refused at this moment.
                least = 0.0 if isinstance(error, CloudThrottled) else 0.5
            rest = 0.0 if progress else min(pause, LONGEST_PAUSE) * self._rng.uniform(least, 1.0)
            again = self._clock.now() + timedelta(seconds=rest)
            self._journal.looked(run.id, stage.name, why, self._meter(), again)
            if self._clock.monotonic() >= deadline:
                self._journal.doubt(run, stage.name, unseen)
                what = f"{stage.name!r} did not come to rest within {stage.deadline:g} s"
                raise NotSettled(
                    f"{what}; still waiting for {why or 'it to stop changing'}",
                    hint=_go_on(run) + ("; `cocoon-net workflow pending` tells what was never seen" if unseen else ""),
                )
            if progress:
                pause = FIRST_PAUSE
                continue
            self._bus.publish([StepWaiting(self._clock.now(), run.id, stage.name, why)])
            self._pause(rest)
            pause *= GROWTH

    def _pause(self, seconds: float) -> None:
        """Wait, in small pieces: a run that waits stops at once."""
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0 and not self._stop.asked:
            self._clock.sleep(min(TICK, left))

    def _heed(self, run: Run, stage: Stage, why: str) -> None:
        """Raise NotSettled if we were asked to stop: nothing is under way at this point."""
        if self._stop.asked:
            waited = f", which waits for {why}" if why else ""
            raise NotSettled(f"stopped by {self._stop.asked} in {stage.name!r}{waited}", hint=_go_on(run))

    def _late(self, run: Run, look: Look, looks: int) -> str:
        """Say what must still be waited for although all looks as wanted; empty when nothing must.

        The cloud's listings lag: an init that was killed or given up a moment ago may have made what a teardown does
        not see yet, and a teardown have removed what an init still sees. An answer may be old because nobody has asked
        since; so the first of the ``looks`` at a step does not count as the last word even after a long time.
        """
        late: list[str] = []
        for key, verb, want, at in self._journal.unsettled(run, look.stage.name):
            match verb:
                case Verb.DELETE:
                    shown = look.stage.wish is Wish.NOTHING or key not in look.seen
                case Verb.UPDATE:
                    shown = want in (look.wanted.get(key), look.seen.get(key))
                case Verb.CREATE:
                    shown = look.stage.wish is not Wish.NOTHING or key in look.seen
            if not shown and (looks < ENOUGH or (self._clock.now() - at).total_seconds() < PATIENCE):
                late.append(f"{key} to show the {verb} of an earlier run")
        return ", ".join(late)

    def _due(
        self, run: Run, found: Difference, answered: Mapping[str, float]
    ) -> tuple[dict[str, Change], set[str], str]:
        """Return the changes to make now, by token, those answered but not to be seen, and what is waited for.

        A change that was answered with success and is not to be seen yet is not asked for again at once: the cloud's
        listings lag behind its answers.
        """
        due: dict[str, Change] = {}
        unseen: set[str] = set()
        waiting = list(found.waiting)
        for change in found.changes:
            wish = token(run.lineage, change, self._journal.incarnation(run.lineage, change.step, change.key))
            if wish in answered:
                unseen.add(wish)
                waiting.append(f"{change.key} to show its {change.verb}")
            if self._clock.monotonic() - answered.get(wish, -PATIENCE) >= PATIENCE:
                due[wish] = change
        return due, unseen, ", ".join(waiting)

    def _look(self, stage: Stage, cx: Context) -> Look:
        step = self._steps[stage.name]
        seen = self._inventories[stage.name].observe(cx)
        records = _at_rest(seen)
        match stage.wish:
            case Wish.SPEC:
                wanted, prune = step.want(cx, records), step.prune
            case Wish.SEEN:
                wanted, prune = records, False
            case Wish.NOTHING:
                wanted, prune = spared(step, records, cx.ledger), True
        if step.prune and stage.wish is Wish.SPEC:
            wanted = {**spared(step, records, cx.ledger), **wanted}
        return Look(stage, seen, wanted, diff(stage.name, wanted, seen, prune=prune))

    def _apply(self, run: Run, cx: Context, changes: Mapping[str, Change]) -> tuple[list[str], str]:
        """Make the changes (by token) side by side. Returns the tokens of those made, and a passing error.

        Raises the first lasting error, whatever it is, after every other change has ended and its outcome is written.
        """
        stage = next(iter(changes.values())).step
        inventory, permanent = self._inventories[stage], self._steps[stage].permanent
        operations = self._journal.intend(run, changes, self._clock.now(), permanent=permanent)
        made: list[str] = []
        passing: dict[str, str] = {}
        lasting: list[BaseException] = []
        left: dict[Future[Mapping[str, str]], str] = {}

        def reap(call: Future[Mapping[str, str]]) -> None:
            wish = left.pop(call)
            change, error, now = changes[wish], call.exception(), self._clock.now()
            outcome = verdict(error)
            if isinstance(error, WorldError):
                error.key = error.key or change.key
            if isinstance(error, WorldError) and error.retryable:
                passing[wish] = error.message
            elif error is not None and not isinstance(error, NotBegun):
                lasting.append(error)
            try:
                details = call.result() if error is None else {}
                self._journal.conclude(operations[wish], outcome, now, error=error, details=details)
            except StoreError as full:
                lasting.append(full)  # its outcome stays pending; those of the others may still find room
            if error is None:
                made.append(wish)
                self._bus.publish([ChangeApplied(now, run.id, change.step, change.key, change.verb.value)])

        try:
            with ThreadPoolExecutor(min(SIDE_BY_SIDE, len(changes)), thread_name_prefix="apply") as pool:
                left |= {pool.submit(self._act, inventory, change, wish, cx): wish for wish, change in changes.items()}
                for call in as_completed(list(left)):
                    reap(call)
        except KeyboardInterrupt:
            for call in list(left):  # the pool has waited for them: their outcomes are known
                reap(call)
            raise
        if lasting:
            raise lasting[0]
        # By their order, not by who was first to fail: what a run waits for has the same name at each look.
        return made, next((passing[wish] for wish in changes if wish in passing), "")

    def _act(self, inventory: Inventory, change: Change, wish: str, cx: Context) -> Mapping[str, str]:
        """Make one change, unless we were asked to stop while it stood in line."""
        if self._stop.asked:
            raise NotBegun(f"not begun: {self._stop.asked} came first")
        self._journal.guard()
        return inventory.apply(change, wish, cx)

    def _rows(self, run: Run, look: Look) -> list[Row]:
        """Return what the ledger is to say of a stage at rest."""
        if look.stage.wish is Wish.NOTHING:
            return []
        ledger = self._journal.ledger()
        rows: list[Row] = []
        for key in look.wanted:
            record = look.seen[key]
            if isinstance(record, Busy):
                raise InvariantError(f"{look.stage.name} settled while {key} was busy: {record.why}")
            row = ledger.get((look.stage.name, key))
            if look.stage.wish is Wish.SEEN:
                row = Row(look.stage.name, key, Origin.ADOPTED, record)
            elif row is None:
                row = Row(look.stage.name, key, Origin.CREATED if record.ours else Origin.FOUND, record)
            rows.append(replace(row, record=record))
        return rows

    def _context(self, run: Run) -> Context:
        ledger, undertaken = self._journal.ledger(), self._journal.open(run.lineage)
        skipped = self._journal.skipped(run.id)
        return Context(run.spec, run.instance, ledger, run.lineage, self._clock.now(), undertaken, skipped)


def _at_rest(seen: Seen) -> dict[str, Record]:
    return {key: record for key, record in seen.items() if not isinstance(record, Busy)}


def describe(change: Change) -> str:
    """Say a change in one line: ``create eni-3 (Interface)``."""
    record: Record | None = change.want or change.seen
    return f"{change.verb} {change.key} ({type(record).__name__})"


def _go_on(run: Run) -> str:
    return f"`cocoon-net run {run.workflow} --resume` goes on from here; `cocoon-net workflow show` tells more"
