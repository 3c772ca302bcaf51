"""One pass of the audit: look at every inventory, compare, and, where asked, repair what the workflow marks ``auto``.

It is the want / observe / apply of every other command: the engine compares each step with the ledger as it is (not as
earlier steps would make it), and repairs by the same ``apply``. The cloud's steps are only ever reported. A step that
fails is unknown, and the next ones are looked at all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from cocoon_net.audit import checks, comparison
from cocoon_net.audit.comparison import Others
from cocoon_net.audit.finding import Kind, Pass, Sighting
from cocoon_net.clock import Clock
from cocoon_net.cloud.platform import Witness
from cocoon_net.dhcp.book import Book
from cocoon_net.dhcp.lease import State
from cocoon_net.engine.forecast import Outlook
from cocoon_net.engine.journal import Journal, Run
from cocoon_net.engine.model import Context, Step, Verb
from cocoon_net.engine.plan import diff, natural
from cocoon_net.engine.runner import Runner, describe
from cocoon_net.engine.workflow import Plan, Repair, Stage, Wish
from cocoon_net.errors import CloudTransient, CocoonError, SpecError
from cocoon_net.events import Bus
from cocoon_net.formats import conflist
from cocoon_net.records import BRIDGE, Route
from cocoon_net.site import CONFLIST, Site
from cocoon_net.steps import STEPS
from cocoon_net.steps.node import renamed, settled_links
from cocoon_net.store import open_copy
from cocoon_net.world import World

if TYPE_CHECKING:
    from sqlite_utils import Database

CLOUD = ("subnet", "enis", "ingress", "attach", "addresses")
SETTLING = 0.3
"""Seconds that a lease may be on its way between the book, the kernel and leases.json."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a pass is to do besides looking."""

    repair: bool = False
    skip_firewall: bool = False
    as_found: bool = False
    """Whether the node stays as the Go cocoon-net left it."""
    daemon: int | None = None
    """Of the live daemon, which keeps the routes and leases.json itself."""


@dataclass(slots=True)
class _Notes:
    looked: set[str] = field(default_factory=set)
    sightings: list[Sighting] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    repaired: list[str] = field(default_factory=list)

    @contextmanager
    def area(self, name: str) -> Iterator[list[Sighting]]:
        """Look at one area: what is put into the list counts if nothing fails."""
        found: list[Sighting] = []
        try:
            yield found
        except (CocoonError, OSError) as error:
            self.unknown[name] = getattr(error, "message", str(error))
            return
        self.looked.add(name)
        self.sightings += found


class Audit:
    """The parts that one pass needs. Raises SpecError for a node that was never provisioned."""

    def __init__(self, site: Site, database: Database, clock: Clock, wishes: Wishes) -> None:
        self._site, self._database, self._clock, self._wishes = site, database, clock, wishes
        self._journal = Journal(database)
        self._run = _provisioned(self._journal)
        self._world = World(site, self._run.spec, database)
        ledger = self._journal.ledger()
        self._cx = Context(self._run.spec, self._run.instance, ledger, self._run.lineage, clock.now())
        self._notes = _Notes()

    def carry_out(self) -> Pass:
        """Look at everything once; returns what was seen, before any repair."""
        began, at = time.monotonic(), self._clock.now()
        if (open_run := self._journal.unfinished()) is not None:
            why = f"{open_run.id} is not finished: `cocoon-net run {open_run.workflow} --resume`"
            return Pass(at, 0.0, frozenset(), (), {"run": why})
        self._notes.looked.add("run")
        if self._run.instance is not None:
            self._look_at_cloud(self._ask_witness(self._run.instance.instance_id))
        self._look_at_node()
        self._look_at_others()
        notes = self._notes
        seconds = time.monotonic() - began
        return Pass(
            at,
            seconds,
            frozenset(notes.looked),
            tuple(notes.sightings),
            notes.unknown,
            tuple(notes.repaired),
            self._world.calls(),
        )

    # The cloud: looked at and reported, never changed

    def _ask_witness(self, here: str) -> Witness | None:
        """Ask the instance metadata; None, and unknown, when it does not answer or is another instance's."""
        witness: Witness | None = None
        with self._notes.area("metadata"), self._notes.area("clock") as clock:
            answer = self._world.platform.witness()
            clock += checks.clock_is_off(self._clock.now(), answer.clock)
            if answer.instance_id != here:
                raise SpecError(f"this is {answer.instance_id}, and the ledger is of {here}")
            witness = answer
        if "clock" in self._notes.unknown:
            self._notes.looked.discard("metadata")
            self._notes.unknown["metadata"] = self._notes.unknown.pop("clock")
        return witness

    def _look_at_cloud(self, witness: Witness | None) -> None:
        mend = comparison.command(self._run.workflow, self._cx.spec)
        others = Others(witness.attached if witness else None, self._macs())
        away, there = "", frozenset[str]()
        for stage in self._stages(CLOUD):
            with self._notes.area(stage.name) as found:
                if away:
                    raise CloudTransient(away)
                try:
                    outlook = self._compare(stage)
                except CloudTransient as error:
                    away = error.message
                    raise
                self._refuse_doubtful(outlook)
                if stage.name == "enis":
                    there = frozenset(outlook.seen)
                found += comparison.of_cloud(outlook, self._cx, there, others, mend)

    def _refuse_doubtful(self, outlook: Outlook) -> None:
        """Raise CloudTransient where the answer cannot be judged: in between, or empty where something should be.

        Of subnets and interfaces there are listings; all else is read off a thing that is there, and may be nothing.
        """
        if outlook.waiting:
            raise CloudTransient(f"waiting for {', '.join(outlook.waiting)}")
        if outlook.step in ("attach", "addresses"):
            if "enis" in self._notes.unknown:
                raise CloudTransient(self._notes.unknown["enis"])
        elif outlook.step != "ingress" and not outlook.seen and self._cx.records(outlook.step):
            raise CloudTransient("the cloud's answer is empty, which is no proof that all is gone")

    def _macs(self) -> frozenset[str] | None:
        from cocoon_net.node import netlink

        try:
            return frozenset(link.mac for link in netlink.links())
        except CocoonError:
            return None

    # The node: what is marked auto is repaired where asked

    def _look_at_node(self) -> None:
        from cocoon_net.node import netlink

        for stage in self._stages(("links", *(() if self._wishes.as_found else comparison.STEPS))):
            auto = stage.repair is Repair.AUTO
            if stage.name == "firewall" and self._wishes.skip_firewall:
                continue
            if stage.name == "dhcp" and not self._cx.records("addresses"):
                continue
            with self._notes.area(stage.name) as found:
                outlook = self._compare(stage)
                if stage.name == "links":
                    names = {link.name: link.mac for link in netlink.links()}
                    found += comparison.of_links(outlook, self._cx, names, repaired=auto)
                    self._cx = renamed(self._cx, outlook.seen)
                else:
                    found += comparison.of_node(comparison.STEPS[stage.name], outlook.changes, repaired=auto)
                if stage.name == "cni":
                    files = checks.read_conflists(self._site.cni_conf_dir)
                    found += checks.broken_neighbours(files, CONFLIST, conflist.NAME)
                changes = [planned.change for planned in outlook.changes]
                if stage.name == "links":
                    changes = [change for change in changes if change.verb is Verb.UPDATE]
                if self._wishes.repair and auto and changes:
                    self._repair(stage)
        with self._notes.area("routes") as found:
            found += self._settled(self._routes)
            if self._wishes.repair and self._wishes.daemon is None:
                self._repair_routes(found)

    def _repair(self, stage: Stage) -> None:
        changed = self._runner().reassert(Plan("", "", (stage,)), self._cx, {stage.name})
        self._notes.repaired += [describe(change) for change in changed]

    def _routes(self) -> list[Sighting]:
        before = self._bound()
        seen = self._world.node["routes"].observe(self._cx)
        now = self._bound()
        missing = comparison.of_routes(before & now, seen, BRIDGE)
        return [one for one in missing if one.kind is not Kind.ROUTE_STRAY] + [
            one for one in comparison.of_routes(before | now, seen, BRIDGE) if one.kind is Kind.ROUTE_STRAY
        ]

    def _repair_routes(self, found: Iterable[Sighting]) -> None:
        inventory = self._world.node["routes"]
        seen = inventory.observe(self._cx)
        wanted = {f"{address}/32": Route(address, BRIDGE) for address in self._bound()}
        places = {sighting.key for sighting in found}
        for change in diff("routes", wanted, seen, prune=True).changes:
            if change.key in places:
                inventory.apply(change, "", self._cx)
                self._notes.repaired.append(describe(change))

    # What no step wants

    def _look_at_others(self) -> None:
        with self._notes.area("rules of others") as found:
            save = self._iptables_save()
            found += checks.foreign_rules(save, checks.read_nft(), self._cx.spec.subnet, settled_links(self._cx))
        with self._notes.area("dhcp port") as found:
            found += checks.port_taken(checks.read_port_owners(), self._wishes.daemon)
        with self._notes.area("leases") as found:
            found += self._settled(self._leases)

    def _iptables_save(self) -> str:
        from cocoon_net.node import firewall

        return firewall.save()

    def _leases(self) -> list[Sighting]:
        path = self._site.lease_file
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
        bound: dict[str, set[IPv4Address]] = {}
        for mac, address in self._leases_now():
            if len(mac) == len("00:00:00:00:00:00"):  # the file's readers know no other hardware
                bound.setdefault(mac, set()).add(address)
        return checks.lease_file_differs(text, {mac: frozenset(of) for mac, of in bound.items()}, str(path))

    def _leases_now(self) -> list[tuple[str, IPv4Address]]:
        with closing(open_copy(self._site.database)) as database:  # as it is now, not as it was when we began
            leases = Book(database).leases()
        return [(one.mac.hex(":"), IPv4Address(one.address)) for one in leases if one.state is State.BOUND]

    def _bound(self) -> frozenset[IPv4Address]:
        return frozenset(address for _, address in self._leases_now())

    def _settled(self, look: Callable[[], list[Sighting]]) -> list[Sighting]:
        """Look again where something differs: a lease may have been on its way."""
        found = look()
        if found:
            self._clock.sleep(SETTLING)
            again = {sighting.place for sighting in look()}
            found = [sighting for sighting in found if sighting.place in again]
        return found

    # The engine

    def _stages(self, names: Iterable[str]) -> list[Stage]:
        known = {stage.name: stage for stage in self._run.plan.stages}
        return [known[name] for name in names if name in known]

    def _compare(self, stage: Stage) -> Outlook:
        (outlook,) = self._runner(stage).compare(Plan("", "", (replace(stage, wish=Wish.SPEC),)), self._cx)
        return outlook

    def _runner(self, stage: Stage | None = None) -> Runner:
        """Return an engine; of an adopted stage it wants what the ledger remembers."""
        steps: Mapping[str, Step] = STEPS
        if stage is not None and stage.wish is Wish.SEEN:
            name = stage.name
            steps = {**STEPS, name: Step(name, lambda cx, seen: cx.records(name))}
        inventories = self._world.node if stage is None or stage.name not in CLOUD else self._world.inventories
        return Runner(self._journal, steps, inventories, clock=self._clock, bus=Bus())


def _provisioned(journal: Journal) -> Run:
    run = journal.latest("init", "adopt", "teardown")
    if run is None or run.workflow == "teardown" or not journal.lineage():
        raise SpecError("this node is not provisioned: there is nothing to audit", hint="run `cocoon-net init` first")
    return run


def tell(seen: Pass) -> Iterator[str]:
    """Tell a pass for people, line by line."""
    for sighting in sorted(seen.sightings, key=lambda one: (one.kind, natural(one.key))):
        yield f"{sighting.kind:<20} {sighting.says}"
        for evidence in sighting.evidence:
            yield f"{'':<20}   {evidence.source}: {evidence.says}"
        if sighting.advice:
            yield f"{'':<20}   {sighting.advice}"
    for area, why in (seen.unknown or {}).items():
        yield f"{'unknown':<20} {area}: {why}"
    for line in seen.repaired:
        yield f"{'repaired':<20} {line}"
    if not seen.sightings and not seen.unknown:
        yield f"clean: {len(seen.looked)} areas were looked at in {seen.seconds:.1f} s"
