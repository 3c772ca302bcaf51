"""The composition root: name -> Inventory. Nothing else constructs one."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from cocoon_net.clock import SystemClock
from cocoon_net.cloud.platform import Platform, connect
from cocoon_net.engine.journal import Journal
from cocoon_net.engine.model import Call, Change, Context, Inventory, Seen
from cocoon_net.engine.runner import Runner
from cocoon_net.engine.workflow import Repair
from cocoon_net.errors import WorldError
from cocoon_net.events import Bus
from cocoon_net.records import Instance
from cocoon_net.site import Site
from cocoon_net.spec import Spec
from cocoon_net.steps import NODE, STEPS
from cocoon_net.steps.node import renamed, settings
from cocoon_net.stop import Stop
from cocoon_net.store import open_database

if TYPE_CHECKING:
    from sqlite_utils import Database


class World:
    """The real world of one node: the cloud through its platform, the kernel, the files, the pool."""

    def __init__(self, site: Site, spec: Spec, database: Database, stop: Stop | None = None) -> None:
        self._stop = stop
        self._site = site
        self._spec = spec
        self._database = database

    @cached_property
    def platform(self) -> Platform:
        """The cloud; nobody is asked anything before its first use. What the spec names goes before the environment."""
        site = replace(self._site, endpoint=self._spec.endpoint or self._site.endpoint)
        named = {
            "VOLCENGINE_REGION": self._spec.region,
            "VOLCENGINE_CLI_CONFIG_FILE": self._spec.credentials_file,
        }
        environ = {**os.environ, **{name: value for name, value in named.items() if value}}
        return connect(self._spec.platform, site, environ, stop=self._stop)

    @cached_property
    def inventories(self) -> Mapping[str, Inventory]:
        """Every inventory by the name that steps use."""
        return {**self.node, **self.platform.inventories()}

    @cached_property
    def node(self) -> Mapping[str, Inventory]:
        """The inventories of this node, which need no cloud."""
        from cocoon_net.dhcp.book import PoolInventory
        from cocoon_net.node.bridge import Bridges
        from cocoon_net.node.files import Files
        from cocoon_net.node.firewall import Firewall
        from cocoon_net.node.links import Links
        from cocoon_net.node.routes import Routes
        from cocoon_net.node.sysctl import Sysctls

        return {
            "links": Links(),
            "bridge": Bridges(),
            "sysctl": Sysctls(settings),
            "routes": Routes(),
            "firewall": Firewall(),
            "cni": Files({self._site.conflist.name: self._site.conflist}, ours=True),  # the name is our mark
            "dhcp": Shelves(
                {"pool": PoolInventory(self._database, partial(open_database, self._site.database))},
                Files({"pool.json": self._site.pool_file, "leases.json": self._site.lease_file}, ours=True),
            ),
        }

    def describe(self) -> Instance:
        """Return the facts of the instance we run on, the kernel's name of its primary link included."""
        from cocoon_net.node.links import link_of

        instance = self.platform.describe(self._spec)
        return replace(instance, primary_link=link_of(instance.primary_mac))

    def calls(self) -> Mapping[tuple[str, str], int]:
        """Return how often the cloud was asked since the last time this was asked, by action and code."""
        return self.platform.calls() if "platform" in self.__dict__ else {}


class Shelves:
    """Several inventories as one: some keys have their own, ``rest`` has all others."""

    def __init__(self, own: Mapping[str, Inventory], rest: Inventory) -> None:
        self._own = own
        self._rest = rest

    def observe(self, cx: Context) -> Seen:
        """Look at all of them."""
        seen = dict(self._rest.observe(cx))
        for inventory in self._own.values():
            seen.update(inventory.observe(cx))
        return seen

    def calls(self, change: Change, cx: Context) -> tuple[Call, ...]:
        """Ask whom its key belongs to."""
        return self._own.get(change.key, self._rest).calls(change, cx)

    def apply(self, change: Change, token: str, cx: Context) -> Mapping[str, str]:
        """Hand a change to whom its key belongs."""
        return self._own.get(change.key, self._rest).apply(change, token, cx)


def reassert(
    site: Site, database: Database, changed: Callable[[Change], None], *, skip_firewall: bool, only: Collection[str]
) -> dict[str, WorldError | None]:
    """Put the node's own side right, without the cloud: the steps named ``only``; ``changed`` is told each change.

    Returns what kept each step that was tried from being right, None where it is; one that fails does not keep the
    others. A node that was never provisioned by us (no ended init or adopt), or was torn down since with something
    left over, is left alone; so is a step that its workflow does not mark ``repair = "auto"``.
    """
    journal = Journal(database)
    run = journal.latest("init", "adopt", "teardown")
    if run is None or run.workflow == "teardown" or not journal.lineage():
        return {}
    world = World(site, run.spec, database)
    clock = SystemClock()
    runner = Runner(journal, STEPS, world.node, clock=clock, bus=Bus())
    left_alone = {"routes", *(["firewall"] if skip_firewall else [])}
    tried: dict[str, WorldError | None] = {}
    cx = Context(run.spec, run.instance, journal.ledger(), run.lineage, clock.now())
    if cx.records("links"):
        try:
            cx = renamed(cx, world.node["links"].observe(cx))
        except WorldError as error:
            return dict.fromkeys(NODE & set(only) - left_alone, error)
    for stage in run.plan.stages:
        if stage.name in NODE & set(only) - left_alone and stage.repair is Repair.AUTO:
            try:
                for change in runner.reassert(run.plan, cx, {stage.name}):
                    changed(change)
                tried[stage.name] = None
            except WorldError as error:
                tried[stage.name] = error
    return tried
