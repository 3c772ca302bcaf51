"""What is not ours survives whatever we do: things of others are planted among ours, and every command is run.

The whole machinery is real (runs, journal, runner, SDK, the lab's cloud over HTTP), cut down to the cloud's steps.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from cocoon_net import runs
from cocoon_net.clock import SystemClock
from cocoon_net.cloud.volcengine.addresses import added
from cocoon_net.cloud.volcengine.eni import Eni
from cocoon_net.cloud.volcengine.fence import Act, refusal
from cocoon_net.engine.journal import Journal
from cocoon_net.engine.model import Change, Context, Origin, Row, Undertaken, Verb
from cocoon_net.errors import CloudError, Unsupported
from cocoon_net.events import Bus
from cocoon_net.lab.cloud import Cloud
from cocoon_net.lab.fleet import write_workflows
from cocoon_net.records import AddressSet, Attachment, Interface
from cocoon_net.site import Site
from cocoon_net.spec import parse

OURS = {"cocoon-net:product": "cocoon-net", "cocoon-net:node": "pool"}
THEIRS = {"cocoon-net:product": "cocoon-net", "cocoon-net:node": "another"}
CELLO = {"k8s:cello:created-by": "cello"}
NET = "172.20.100.0/24"


@dataclass
class Machine:
    """``node1`` as the commands see it."""

    cloud: Cloud
    site: Site

    def run(self, workflow: str, pool: int = 20, node: str = "pool") -> None:
        """Run init or teardown to its end."""
        with runs.at(self.site, workflow, bus=Bus(), say=lambda line: None) as desk:
            spec = parse(platform="volcengine", node_name=node, subnet=NET, pool_size=pool)
            run = runs.begin_teardown(desk) if workflow == "teardown" else runs.begin(desk, workflow, spec)
            runs.carry(desk, run)

    def enis(self) -> dict[str, dict[str, Any]]:
        """Return the cloud's own view of each secondary interface, without when it was changed."""
        rows = self.cloud.admin.state()["interfaces"]
        return {r["id"]: {k: v for k, v in r.items() if k != "updated"} for r in rows if r["kind"] != "primary"}

    def primary(self) -> dict[str, Any]:
        here = self.cloud.instance_id("node1")
        rows = self.cloud.admin.state()["interfaces"]
        return next(row for row in rows if row["kind"] == "primary" and row["instance_id"] == here)

    def plant(self, **how: Any) -> str:
        (identifier,) = self.cloud.admin.plant_interface(**how)
        return identifier

    def call(self, action: str, **params: object) -> dict[str, Any]:
        """Call the API as an operator would, by hand."""
        with runs.at(self.site, "a hand", bus=Bus(), say=lambda line: None) as desk:
            spec = parse(platform="volcengine", node_name="by-hand", subnet=NET)
            platform: Any = desk.world(spec).platform
            return platform.inventories()["enis"]._client.call(action, params)

    def writes(self, *identifiers: str) -> list[str]:
        """Return the changing calls that named one of these interfaces."""
        return [
            call["action"]
            for call in self.cloud.admin.calls()
            if not call["action"].startswith("Describe") and set(call["parameters"].values()) & set(identifiers)
        ]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    with Cloud.start(tmp_path / "cloud", default_instance="node1") as cloud:
        monkeypatch.setenv("VOLCENGINE_ACCESS_KEY_ID", cloud.access_key)
        monkeypatch.setenv("VOLCENGINE_SECRET_ACCESS_KEY", cloud.secret_key)
        monkeypatch.setenv("VOLCENGINE_REGION", cloud.region)
        site = Site(
            state_dir=tmp_path / "state",
            metadata_url=cloud.metadata_url,
            endpoint=cloud.endpoint,
            workflow_dir=write_workflows(tmp_path / "workflows"),
        )
        yield Machine(cloud, site)


pytestmark = pytest.mark.root


def test_what_others_have_on_the_same_instance_and_subnet_survives_every_command(machine: Machine) -> None:
    machine.cloud.admin.plant_subnet(NET)
    foreign = [
        machine.plant(subnet=NET, instance="node1", tags=THEIRS, secondaries=2),
        machine.plant(subnet=NET, instance="node1", tags=CELLO, secondaries=3),
        machine.plant(subnet=NET, instance="node1", tags={"volc:vke:cluster-id": "c"}),
        machine.plant(subnet=NET, instance="node1", service_managed=True, secondaries=1),
        machine.plant(instance="node1", secondaries=2),
        machine.plant(subnet=NET, tags=CELLO),
        machine.plant(subnet=NET),
    ]
    by_hand = machine.call(
        "AssignPrivateIpAddresses", NetworkInterfaceId=machine.primary()["id"], SecondaryPrivateIpAddressCount=1
    )["PrivateIpSet"]
    before, primary = machine.enis(), machine.primary()
    assert set(before) == set(foreign)

    for command in ("init", "init", "teardown"):
        machine.run(command, pool=40)
        assert {key: machine.enis()[key] for key in foreign} == before
        assert machine.primary() == primary and list(primary["secondaries"]) == by_hand
    assert set(machine.enis()) == set(foreign)
    assert machine.writes(*foreign) == []
    assert NET in {row["cidr"] for row in machine.cloud.admin.state()["subnets"]}


def test_an_address_that_was_added_by_hand_to_one_of_ours_stays_as_long_as_the_interface(machine: Machine) -> None:
    machine.run("init", pool=5)
    (identifier,) = machine.enis()
    (extra,) = machine.call(
        "AssignPrivateIpAddresses", NetworkInterfaceId=identifier, SecondaryPrivateIpAddressCount=1
    )["PrivateIpSet"]
    machine.run("init", pool=5)
    assert extra in machine.enis()[identifier]["secondaries"]
    machine.run("teardown")
    assert machine.enis() == {}, "the interface is ours, and its addresses go with it"


@pytest.mark.parametrize("returns", ["new", "all"])
@pytest.mark.parametrize("had", [0, 5])
def test_a_found_interface_keeps_exactly_what_it_had(machine: Machine, had: int, returns: str) -> None:
    """It was attached by hand, with or without addresses; later a hand adds one more."""
    machine.cloud.admin.set_faults({"assign-returns": returns})
    machine.cloud.admin.plant_subnet(NET)
    found = machine.plant(subnet=NET, instance="node1", secondaries=had)
    before = machine.enis()
    machine.run("init")
    assert len(machine.enis()[found]["secondaries"]) == 20
    machine.cloud.admin.set_faults({"ips-per-eni": "30"})
    extra = machine.call("AssignPrivateIpAddresses", NetworkInterfaceId=found, SecondaryPrivateIpAddressCount=1)
    machine.run("init")  # a repair, which sees the address that we did not add
    machine.run("teardown")
    after = machine.enis()
    left = set(after[found].pop("secondaries"))
    assert left == {*before[found].pop("secondaries"), *extra["PrivateIpSet"][-1:]}
    assert after == before


def test_a_lost_answer_does_not_make_our_addresses_somebody_else_s(machine: Machine) -> None:
    machine.cloud.admin.plant_subnet(NET)
    machine.plant(subnet=NET, instance="node1", secondaries=5)
    before = machine.enis()
    machine.cloud.admin.set_faults({"lose": "AssignPrivateIpAddresses"})
    machine.run("init")
    machine.run("teardown")
    assert machine.enis() == before


def test_a_second_init_for_more_adds_to_what_is_ours(machine: Machine) -> None:
    machine.cloud.admin.plant_subnet(NET)
    machine.plant(subnet=NET, instance="node1", secondaries=5)
    before = machine.enis()
    machine.run("init", pool=8)
    machine.run("init", pool=20)
    machine.run("teardown")
    assert machine.enis() == before


def test_one_that_moves_to_another_instance_between_look_and_act_is_left_there(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.run("init", pool=40)
    moved, other = sorted(machine.enis())
    there = machine.cloud.instance_id("node2")
    intend = Journal.intend

    def move_then_intend(self: Journal, *args: Any, **more: Any) -> dict[str, int]:
        monkeypatch.setattr(Journal, "intend", intend)
        machine_site = replace(machine.site, state_dir=machine.site.state_dir / "hand")
        hand = Machine(machine.cloud, machine_site)
        hand.call("DetachNetworkInterface", InstanceId=machine.cloud.instance_id("node1"), NetworkInterfaceId=moved)
        hand.call("AttachNetworkInterface", InstanceId=there, NetworkInterfaceId=moved)
        return intend(self, *args, **more)

    monkeypatch.setattr(Journal, "intend", move_then_intend)
    with pytest.raises(CloudError, match=f"{moved} .* not ours to detach: it is attached to {there}"):
        machine.run("teardown")
    assert machine.enis()[moved]["instance_id"] == there
    with pytest.raises(Unsupported, match=f"the subnet .* is not empty: {moved} is in it"):
        machine.run("teardown")  # the same command goes on, and spares it
    left = machine.enis()
    assert set(left) == {moved} and left[moved]["instance_id"] == there and len(left[moved]["secondaries"]) == 20
    assert other not in left


def take_over_at_the_next_intent(machine: Machine, identifier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mark an interface for another node after it was looked at and before it is acted on."""
    intend = Journal.intend

    def mark_then_intend(self: Journal, *args: Any, **more: Any) -> dict[str, int]:
        hand = Machine(machine.cloud, replace(machine.site, state_dir=machine.site.state_dir / "hand"))
        tags = [{"Key": key, "Value": value} for key, value in THEIRS.items()]
        hand.call("TagResources", ResourceType="eni", ResourceIds=[identifier], Tags=tags)
        return intend(self, *args, **more)

    monkeypatch.setattr(Journal, "intend", mark_then_intend)


def test_one_that_another_node_took_over_between_look_and_act_keeps_its_groups(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.run("init", pool=5)
    (identifier,) = machine.enis()
    groups = [row["id"] for row in machine.cloud.admin.state()["groups"]]
    machine.call("ModifyNetworkInterfaceAttributes", NetworkInterfaceId=identifier, SecurityGroupIds=groups)
    before = machine.enis()
    take_over_at_the_next_intent(machine, identifier, monkeypatch)
    with pytest.raises(CloudError, match="not ours to change: it carries the mark of node 'another'"):
        machine.run("init", pool=5)
    assert machine.enis()[identifier]["groups"] == before[identifier]["groups"]


def test_one_that_another_node_took_over_between_look_and_act_keeps_its_addresses(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.cloud.admin.plant_subnet(NET)
    found = machine.plant(subnet=NET, instance="node1", secondaries=5)
    machine.run("init")
    take_over_at_the_next_intent(machine, found, monkeypatch)
    with pytest.raises(CloudError, match="not ours to take addresses from: it carries the mark of node 'another'"):
        machine.run("teardown")
    assert len(machine.enis()[found]["secondaries"]) == 20


def test_what_the_cloud_refused_is_counted_by_its_code(machine: Machine) -> None:
    machine.cloud.admin.set_faults({"fail.CreateSubnet": "FlowLimitExceeded@429,2"})
    machine.run("init", pool=5)
    with runs.at(machine.site, "a look", bus=Bus(), say=lambda line: None) as desk:
        (run,) = desk.journal.runs()
        assert desk.journal.refusals(run.id) == {("CreateSubnet", "FlowLimitExceeded"): 2}
        assert desk.journal.calls(run.id)["CreateSubnet"] == 3
        answers = desk.journal.answers.read()
    assert answers["CreateSubnet", ""] == 1
    assert answers["CreateSubnet", "FlowLimitExceeded"] == 2


# The fence itself, as a table


HERE = "i-here"
ENI = Eni("eni-x", "subnet-1", "InUse", "", IPv4Address("172.20.100.9"), (), (), HERE, False, False, {})


def context(instance: Any, *rows: Row, undertaken: tuple[Undertaken, ...] = ()) -> Context:
    spec = parse(platform="volcengine", node_name="pool", subnet=NET)
    ledger = {(row.step, row.key): row for row in rows}
    return Context(spec, instance, ledger, "line", SystemClock().now(), undertaken)


@pytest.fixture
def instance(node_of: Callable[..., Any]) -> Any:
    return replace(node_of().instance, instance_id=HERE)


def known(origin: Origin, step: str = "enis") -> list[Row]:
    interface = Interface(parse(platform="volcengine", node_name="p", subnet=NET).subnet, (), id="eni-x")
    rows = {"enis": Row("enis", "eni-1", Origin.FOUND, interface)}
    rows[step] = Row(step, "eni-1", origin, interface if step == "enis" else Attachment(HERE, "eni-x"))
    return list(rows.values())


@pytest.mark.parametrize("act", list(Act))
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"is_primary": True, "tags": OURS}, "the primary one"),
        ({"service_managed": True, "tags": OURS}, "a service of the cloud"),
        ({"instance_id": "i-there", "tags": OURS}, "attached to i-there"),
        ({"tags": THEIRS}, "the mark of node 'another'"),
        ({"tags": CELLO}, "another program's (k8s:cello:created-by)"),
        ({"tags": {"cocoon-net:product": "another-tool"}}, "another program's (cocoon-net:product=another-tool)"),
        ({"primary": IPv4Address("172.20.9.9")}, "no mark of ours"),
    ],
)
def test_no_act_is_allowed_on_what_is_somebody_else_s(
    instance: Any, act: Act, change: dict[str, Any], why: str
) -> None:
    assert why in refusal(act, replace(ENI, **change), "eni-1", context(instance))


@pytest.mark.parametrize("act", list(Act))
def test_a_mark_of_ours_allows_it_unless_it_was_adopted(instance: Any, act: Act) -> None:
    marked = replace(ENI, tags={**OURS, "sys:tag:createdBy": "someone", "team": "net"})
    assert refusal(act, marked, "eni-1", context(instance)) == ""
    step = {Act.UNASSIGN: "addresses", Act.DETACH: "attach"}.get(act, "enis")
    adopted = context(instance, *known(Origin.ADOPTED, step))
    assert ("adopted" in refusal(act, marked, "eni-1", adopted)) is (act is not Act.CHANGE)


@pytest.mark.parametrize(
    ("act", "rows", "allowed"),
    [
        (Act.DELETE, [], False),
        (Act.DELETE, known(Origin.FOUND), False),
        (Act.DELETE, known(Origin.CREATED), True),
        (Act.DETACH, known(Origin.FOUND, "attach"), False),
        (Act.DETACH, known(Origin.CREATED, "attach"), True),
        (Act.UNASSIGN, [], False),
        (Act.UNASSIGN, known(Origin.FOUND), True),
        (Act.CHANGE, [], True),
    ],
)
def test_without_a_mark_the_ledger_allows_what_we_made(instance: Any, act: Act, rows: list[Row], allowed: bool) -> None:
    assert (refusal(act, ENI, "eni-1", context(instance, *rows)) == "") is allowed
    if act is not Act.CHANGE:
        assert refusal(act, replace(ENI, id="eni-y"), "eni-1", context(instance, *rows)), "another one under that key"


# Which addresses are ours


def undertaken(count: int, before: tuple[int, ...], outcome: str, told: tuple[int, ...] = ()) -> Undertaken:
    seen = AddressSet(len(before), at(*before)) if before else None
    change = Change("addresses", "eni-1", Verb.UPDATE, AddressSet(len(before) + count), seen)
    return Undertaken(change, outcome, {"assigned": " ".join(map(str, at(*told)))} if told else {})


def at(*numbers: int) -> tuple[IPv4Address, ...]:
    return tuple(IPv4Address(f"172.20.100.{number}") for number in numbers)


@pytest.mark.parametrize(
    ("now", "acts", "ours"),
    [
        ((10, 11), [], ()),
        ((10, 11, 12), [undertaken(2, (10,), "done", (11, 12))], (11, 12)),
        ((10, 12), [undertaken(2, (10,), "done", (11, 12))], (12,)),
        ((10, 11, 12), [undertaken(2, (10,), "unknown")], (11, 12)),
        ((10, 11, 12), [undertaken(2, (10,), "pending")], (11, 12)),
        ((10, 11, 12, 13), [undertaken(2, (10,), "unknown")], ()),
        ((10, 11), [undertaken(2, (10,), "unknown")], ()),
        ((10, 11, 12), [undertaken(2, (10,), "failed")], ()),
        ((10, 11, 12), [undertaken(2, (10,), "not begun")], ()),
        ((10, 11, 12), [undertaken(2, (10,), "unknown"), undertaken(2, (10,), "unknown")], (11, 12)),
        ((10, 11, 12, 13), [undertaken(3, (10,), "unknown"), undertaken(2, (10, 11), "done", (12, 13))], (12, 13)),
    ],
)
def test_which_addresses_are_ours(
    instance: Any, now: tuple[int, ...], acts: list[Undertaken], ours: tuple[int, ...]
) -> None:
    each = replace(ENI, secondaries=at(*now))
    assert added("eni-1", each, context(instance, undertaken=tuple(acts))) == at(*ours)


def test_a_database_of_before_knows_no_added_address(machine: Machine) -> None:
    """Its rows lack the field: nothing is taken from an interface that we did not make."""
    machine.cloud.admin.plant_subnet(NET)
    found = machine.plant(subnet=NET, instance="node1", secondaries=5)
    machine.run("init")
    with sqlite3.connect(machine.site.database) as database:
        database.execute("UPDATE ledger SET record = json_remove(record, '$.added') WHERE step = 'addresses'")
    machine.run("teardown")
    assert len(machine.enis()[found]["secondaries"]) == 20
