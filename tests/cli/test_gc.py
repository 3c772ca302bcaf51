"""Garbage: what carries this node's mark and nobody looks after goes; everything else stays. The real command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from cocoon_net import runs
from cocoon_net.cli.main import run
from cocoon_net.clock import SystemClock
from cocoon_net.cloud.garbage import LookedAfter
from cocoon_net.cloud.volcengine.eni import Eni
from cocoon_net.cloud.volcengine.fence import garbage_refusal
from cocoon_net.cloud.volcengine.strays import Strays, _age
from cocoon_net.engine.answers import Answers
from cocoon_net.engine.journal import Journal
from cocoon_net.errors import CloudError, InvariantError, StoreError
from cocoon_net.events import Bus
from cocoon_net.lab.cloud import Cloud
from cocoon_net.lab.fleet import write_workflows
from cocoon_net.locks import locked
from cocoon_net.site import Site
from cocoon_net.spec import parse

pytestmark = pytest.mark.root

OURS = {"cocoon-net:product": "cocoon-net", "cocoon-net:node": "pool", "cocoon-net:key": "eni-3"}
NET = "172.20.100.0/24"


class Late(SystemClock):
    """A clock that is some minutes behind, within what the API takes a signature for."""

    behind = timedelta()

    def now(self) -> datetime:
        return super().now() - self.behind


@dataclass
class Node:
    """A node that was provisioned, in a cloud whose things are as old as the test wants them."""

    cloud: Cloud
    site: Site
    clock: Late
    capture: pytest.CaptureFixture[str]

    def init(self) -> None:
        with runs.at(self.site, "init", bus=Bus(), say=lambda line: None) as desk:
            spec = parse(platform="volcengine", node_name="pool", subnet=NET, pool_size=40)
            runs.carry(desk, runs.begin(desk, "init", spec))

    def plant(self, minutes: float = 8, **how: Any) -> str:
        """Plant an interface that was changed for the last time so many minutes ago."""
        self.clock.behind = timedelta(minutes=minutes)
        (identifier,) = self.cloud.admin.plant_interface(**how)
        self.clock.behind = timedelta()
        return identifier

    def gc(self, *words: str) -> tuple[int, str]:
        self.capture.readouterr()
        code = run(["gc", *words])
        captured = self.capture.readouterr()
        return code, captured.out + captured.err

    def there(self) -> set[str]:
        return {row["id"] for row in self.cloud.admin.state()["interfaces"]}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Node]:
    clock = Late()
    with Cloud.start(tmp_path / "cloud", default_instance="node1", clock=clock) as cloud:
        for name, value in {
            "VOLCENGINE_ACCESS_KEY_ID": cloud.access_key,
            "VOLCENGINE_SECRET_ACCESS_KEY": cloud.secret_key,
            "VOLCENGINE_REGION": cloud.region,
            "VOLCENGINE_ENDPOINT": cloud.endpoint,
            "COCOON_NET_METADATA_URL": cloud.metadata_url,
            "COCOON_NET_STATE_DIR": str(tmp_path / "state"),
            "COCOON_NET_RUN_DIR": str(tmp_path / "run"),
            "COCOON_NET_WORKFLOW_DIR": str(write_workflows(tmp_path / "workflows")),
        }.items():
            monkeypatch.setenv(name, value)
        site = Site(
            state_dir=tmp_path / "state",
            metadata_url=cloud.metadata_url,
            endpoint=cloud.endpoint,
            workflow_dir=tmp_path / "workflows",
        )
        yield Node(cloud, site, clock, capsys)


def test_without_a_name_and_a_run_nobody_is_asked(node: Node) -> None:
    code, said = node.gc()
    assert code == 78
    assert "--node-name" in said
    assert node.cloud.admin.calls() == []


def test_garbage_is_shown_then_deleted_and_entered_into_the_history(node: Node) -> None:
    node.init()
    garbage = node.plant(subnet=NET, tags=OURS)
    code, said = node.gc("--dry-run")
    assert (code, said.count("would be deleted")) == (1, 1)
    assert garbage in said and garbage in node.there()
    code, said = node.gc()
    assert code == 0, said
    assert f"interface {garbage} (eni-3" in said and "deleted" in said
    assert garbage not in node.there()
    assert len(node.there()) == 3 + 2, "the three primaries, and the node's own two"
    assert node.gc("--dry-run")[0] == node.gc()[0] == 0
    with runs.glance(node.site, "a look", bus=Bus(), say=lambda line: None) as desk:
        (entry,) = [each for each in desk.journal.history.entries() if each.what == "collected"]
    calls = entry.details["calls"]
    assert entry.details == {"node": "pool", "interfaces": [garbage], "calls": calls}
    assert calls["DeleteNetworkInterface"] == calls["DescribeNetworkInterfaceAttributes"] == 1
    assert calls["DescribeNetworkInterfaces"] >= 1 and calls["DescribeSubnets"] == 1
    with runs.glance(node.site, "a look", bus=Bus(), say=lambda line: None) as desk:
        assert desk.journal.answers.read()["DeleteNetworkInterface", ""] == 1, "counted though no run made it"


def test_what_was_deleted_before_the_cloud_fell_ill_is_in_the_history_too(node: Node) -> None:
    node.init()
    garbage = node.plant(subnet=NET, tags=OURS)
    node.cloud.admin.set_faults({"fail.DescribeSubnets": "LackPolicy@403"})
    assert node.gc()[0] == 77
    assert garbage not in node.there()
    with runs.glance(node.site, "a look", bus=Bus(), say=lambda line: None) as desk:
        (entry,) = [each for each in desk.journal.history.entries() if each.what == "collected"]
    assert entry.details["interfaces"] == [garbage]


def test_a_history_without_room_does_not_hide_what_the_cloud_said(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.init()

    def full(self: Answers, calls: Any) -> None:
        raise StoreError("no room on the disk")

    monkeypatch.setattr(Answers, "add", full)
    assert node.gc()[0] == 74, "alone, it is the error"
    node.cloud.admin.set_faults({"fail.DescribeSubnets": "LackPolicy@403"})
    code, said = node.gc()
    assert code == 77
    assert "LackPolicy" in said and "the history does not have it: no room on the disk" in said


def test_what_is_not_garbage_stays(node: Node) -> None:
    node.init()
    stays = [
        node.plant(subnet=NET, tags={**OURS, "cocoon-net:node": "another"}),
        node.plant(subnet=NET, tags={"k8s:cello:created-by": "cello"}),
        node.plant(subnet=NET),
        node.plant(subnet=NET, tags={"cocoon-net:node": "pool"}),
        node.plant(subnet=NET, tags=OURS, service_managed=True),
        node.plant(subnet=NET, tags=OURS, instance="node1"),
        node.plant(subnet=NET, tags=OURS, instance="node2"),
        node.plant(subnet=NET, tags=OURS, status="Error"),
        node.plant(4, subnet=NET, tags=OURS),
    ]
    before = node.there()
    code, said = node.gc()
    assert code == 0, said
    assert node.there() == before >= set(stays)
    assert "it changed less than 5 minutes ago" in said
    assert "DeleteNetworkInterface" not in {call["action"] for call in node.cloud.admin.calls()}


def test_what_a_run_that_was_killed_may_have_made_is_no_garbage(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reply was lost and the process died: only key and lineage of its tags say that it is expected."""

    class Killed(BaseException):
        pass

    def die(*args: Any, **more: Any) -> None:
        raise Killed

    node.clock.behind = timedelta(minutes=8)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "conclude", lambda self, operation, *a, **k: operation == 1 or die())
        with pytest.raises(Killed):
            node.init()
    node.clock.behind = timedelta()
    made = node.there()
    assert len(made) > 3
    code, said = node.gc()
    assert code == 0 and node.there() == made, said
    assert "an unfinished run may have made it" in said
    node.init()
    assert len(node.there()) == 3 + 2, "nothing was made twice"


def test_without_a_database_the_name_is_enough(node: Node) -> None:
    garbage = node.plant(subnet="", tags=OURS)
    code, said = node.gc("--node-name", "pool", "--json")
    assert code == 0, said
    (row,) = json.loads(said)["found"]
    assert (row["id"], row["outcome"], row["kind"]) == (garbage, "deleted", "interface")
    assert row["seconds"] > 300
    assert garbage not in node.there()
    assert not node.site.database.exists()


def test_an_empty_subnet_of_ours_is_only_reported(node: Node) -> None:
    node.cloud.admin.plant_subnet(NET, tags={**OURS, "cocoon-net:key": "subnet"})
    code, said = node.gc("--node-name", "pool")
    assert code == 0
    assert f"subnet, {NET}): stays: subnets are only reported" in said
    assert NET in {row["cidr"] for row in node.cloud.admin.state()["subnets"]}


def test_one_that_is_taken_up_between_look_and_act_stays(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    garbage = node.plant(tags=OURS)
    listed = Strays.interfaces

    def then_attach(self: Strays) -> Iterator[Any]:
        for stray in listed(self):
            where = {"InstanceId": node.cloud.instance_id("node2"), "NetworkInterfaceId": stray.id}
            self._client.call("AttachNetworkInterface", where)
            yield stray

    monkeypatch.setattr(Strays, "interfaces", then_attach)
    code, said = node.gc("--node-name", "pool")
    assert code == 0
    assert "stays: it is InUse at" in said
    assert garbage in node.there()


def test_one_that_somebody_deletes_meanwhile_is_no_trouble(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.plant(tags=OURS)
    listed = Strays.interfaces

    def then_delete(self: Strays) -> Iterator[Any]:
        for stray in listed(self):
            self._client.call("DeleteNetworkInterface", {"NetworkInterfaceId": stray.id})
            yield stray

    with monkeypatch.context() as patch:
        patch.setattr(Strays, "interfaces", then_delete)
        assert node.gc("--node-name", "pool")[0] == 0, "gone before it was read anew"
    node.plant(tags=OURS)
    node.cloud.admin.set_faults({"fail.DeleteNetworkInterface": "InvalidEni.NotFound@404"})
    assert node.gc("--node-name", "pool")[0] == 0, "gone after that"


def test_what_the_ledger_knows_stays_though_somebody_detached_it_long_ago(node: Node) -> None:
    node.init()
    ours = sorted(node.there() - {row["id"] for row in node.cloud.admin.state()["interfaces"] if not row["tags"]})
    node.clock.behind = timedelta(minutes=8)
    with runs.at(node.site, "a hand", bus=Bus(), say=lambda line: None) as desk:
        platform: Any = desk.world(desk.journal.runs()[0].spec).platform
        client = platform.inventories()["enis"]._client
        client.call(
            "DetachNetworkInterface", {"InstanceId": node.cloud.instance_id("node1"), "NetworkInterfaceId": ours[0]}
        )
    node.clock.behind = timedelta()
    code, said = node.gc()
    assert code == 0, said
    assert set(ours) <= node.there(), said


def test_a_subnet_that_somebody_looks_after_is_not_reported(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known to the ledger; made by a call whose answer was lost; not empty."""
    node.cloud.admin.set_faults({"fail.CreateNetworkInterface": "InvalidParameter@400"})
    with pytest.raises(CloudError):
        node.init()
    assert NET not in node.gc()[1], "the ledger knows it"
    with runs.at(node.site, "teardown", bus=Bus(), say=lambda line: None) as desk:
        runs.carry(desk, runs.begin_teardown(desk))

    def die(*args: Any, **more: Any) -> None:
        raise KeyError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "conclude", die)
        with pytest.raises(InvariantError):
            node.init()
    assert NET in {row["cidr"] for row in node.cloud.admin.state()["subnets"]}
    assert NET not in node.gc()[1], "an unfinished run may have made it"
    other = "172.20.101.0/24"
    node.cloud.admin.plant_subnet(other, tags={**OURS, "cocoon-net:key": "subnet"})
    node.plant(subnet=other)
    assert other not in node.gc()[1], "somebody lives there"


@pytest.mark.parametrize("provisioned", [True, False], ids=["with a database", "without one"])
def test_it_waits_for_nobody_who_acts(node: Node, provisioned: bool) -> None:
    if provisioned:
        node.init()
    garbage = node.plant(tags=OURS)
    with locked(node.site.run_lock, what="x", owner="init"):
        code, said = node.gc("--node-name", "pool")
        assert code == 75
        assert "gc cannot start: init (pid" in said
        assert node.gc("--node-name", "pool", "--dry-run")[0] == 1, "a look needs no lock"
    assert garbage in node.there()


def test_a_cloud_in_trouble_is_told_with_its_exit_code(node: Node) -> None:
    garbage = node.plant(tags=OURS)
    node.cloud.admin.set_faults({"fail.DeleteNetworkInterface": "FlowLimitExceeded@429"})
    code, said = node.gc("--node-name", "pool")
    assert code == 75
    assert "failed: DeleteNetworkInterface was refused" in said
    assert garbage in node.there()
    node.cloud.admin.set_faults({"fail.DeleteNetworkInterface": "", "fail.DescribeNetworkInterfaces": "LackPolicy@403"})
    assert node.gc("--node-name", "pool")[0] == 77


NOW = datetime(2026, 1, 1, tzinfo=UTC)
ENI = Eni(
    "eni-x", "subnet-1", "Available", "", IPv4Address("172.20.100.9"), (), (), "", False, False,
    {**OURS, "cocoon-net:lineage": "line"}, NOW,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "known", "seconds", "why"),
    [
        ({}, LookedAfter(), 301.0, ""),
        ({}, LookedAfter(), 300.0, "less than 5 minutes"),
        ({}, LookedAfter(), -1000.0, "less than 5 minutes"),
        ({}, LookedAfter(), None, "nobody can say"),
        ({}, LookedAfter(ids=frozenset({"eni-x"})), 900.0, "knows it"),
        ({}, LookedAfter(expected=frozenset({("line", "eni-3")})), 900.0, "unfinished run"),
        ({}, LookedAfter(expected=frozenset({("line", "eni-4"), ("other", "eni-3")})), 900.0, ""),
        ({"status": "InUse"}, LookedAfter(), 900.0, "it is InUse"),
        ({"instance_id": "i-1"}, LookedAfter(), 900.0, "at i-1"),
        ({"is_primary": True}, LookedAfter(), 900.0, "primary"),
        ({"service_managed": True}, LookedAfter(), 900.0, "service"),
        ({"tags": {**OURS, "cocoon-net:node": "b"}}, LookedAfter(), 900.0, "node 'b'"),
    ],
)
def test_what_garbage_is(change: dict[str, Any], known: LookedAfter, seconds: float | None, why: str) -> None:
    said = garbage_refusal(replace(ENI, **change), "pool", known, seconds)
    assert why in said if why else said == ""


@pytest.mark.parametrize(
    ("updated", "theirs", "mine", "seconds"),
    [
        (NOW, NOW + timedelta(minutes=9), NOW + timedelta(minutes=9), 540.0),
        (NOW, NOW + timedelta(minutes=9), NOW + timedelta(hours=9), 540.0),
        (NOW, NOW + timedelta(minutes=9), NOW - timedelta(hours=9), -32400.0),
        (NOW, None, NOW + timedelta(hours=9), None),
        (None, NOW, NOW, None),
    ],
)
def test_an_age_is_believed_only_if_both_clocks_agree(
    updated: datetime | None, theirs: datetime | None, mine: datetime, seconds: float | None
) -> None:
    assert _age(updated, theirs, mine) == seconds
