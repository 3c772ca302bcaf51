"""Workflow files: every problem at once, and the shipped ones say what the README says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cocoon_net.engine.machine import RunMachine, mermaid, table
from cocoon_net.engine.workflow import Plan, Repair, Wish, load, parse
from cocoon_net.errors import WorkflowError
from cocoon_net.steps import NODE, STEPS

NINE = ["subnet", "enis", "attach", "addresses", "links", "bridge", "firewall", "cni", "dhcp"]


def test_every_problem_of_a_file_is_told_at_once() -> None:
    data = {
        "name": "x",
        "wnat": "spec",
        "step": [
            {"name": "nowhere"},
            {"name": "links", "deadline": "soon", "repair": "maybe", "want": "all", "color": "red"},
            {"name": "links"},
        ],
    }
    with pytest.raises(WorkflowError) as raised:
        parse(data, STEPS, "x.toml")
    text = str(raised.value)
    for expected in ("'wnat'", "no such step", "'soon'", "'maybe'", "'all'", "'color'", "named twice"):
        assert expected in text
    assert raised.value.exit_code == 78


@pytest.mark.parametrize("step", ["links", ["links"], {"name": "links"}, [{"name": ["links"]}]])
def test_steps_that_are_no_tables_are_a_problem_like_any_other(step: object) -> None:
    with pytest.raises(WorkflowError) as raised:
        parse({"name": "x", "version": 2, "step": step}, STEPS, "x.toml")
    assert "unknown key 'version'" in str(raised.value) and len(raised.value.problems) >= 2


def test_a_file_that_is_not_toml_or_not_there_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(WorkflowError, match=r"bad\.toml"):
        load("bad", STEPS, tmp_path)
    with pytest.raises(WorkflowError, match="no workflow 'none'"):
        load("none", STEPS, tmp_path)


def test_init_passes_the_nine_states_in_order() -> None:
    names = [stage.name for stage in load("init", STEPS).stages]
    assert [name for name in names if name in NINE] == NINE
    assert names == list(STEPS)
    assert all(stage.wish is Wish.SPEC for stage in load("init", STEPS).stages)


def test_teardown_is_init_reversed_and_wants_nothing() -> None:
    init, teardown = load("init", STEPS), load("teardown", STEPS)
    backwards = [s.name for s in reversed(init.stages)]
    assert [s.name for s in teardown.stages if s.name != "ingress"] == [n for n in backwards if n != "ingress"]
    assert {s.wish for s in teardown.stages} == {Wish.NOTHING}


@pytest.mark.parametrize("workflow", ["init", "adopt", "teardown"])
def test_the_shared_rule_is_looked_at_after_the_interfaces(workflow: str) -> None:
    """Up: who relies on the rule is to be seen. Down: who is gone sees who is left."""
    names = [stage.name for stage in load(workflow, STEPS).stages]
    assert names.index("enis") < names.index("ingress")


def test_adopt_takes_the_cloud_as_it_is() -> None:
    wishes = {stage.name: stage.wish for stage in load("adopt", STEPS).stages}
    assert {name for name, wish in wishes.items() if wish is Wish.SEEN} == set(STEPS) - NODE - {"dhcp"}


def test_only_the_node_is_repaired_without_asking() -> None:
    auto = {stage.name for stage in load("init", STEPS).stages if stage.repair is Repair.AUTO}
    assert auto == NODE | {"dhcp"}


def test_a_plan_survives_its_row() -> None:
    plan = load("init", STEPS)
    assert Plan.from_json(json.loads(json.dumps(plan.as_json()))) == plan


def test_the_machine_moves_only_forward_and_persists_each_move() -> None:
    plan = load("init", STEPS)
    seen: list[str] = []
    machine = RunMachine(plan, "planned", seen.append)
    while not machine.ended:
        machine.advance()
    assert seen == [*STEPS, "done"]
    resumed = RunMachine(plan, "attach", seen.append)
    resumed.advance()
    assert resumed.state == "addresses"
    resumed.skip()
    assert resumed.state == "links"
    resumed.abandon()
    assert resumed.state == "abandoned"
    assert len(table(plan)) == 2 * len(STEPS) + 2


def test_the_machine_draws_itself() -> None:
    drawing = mermaid(load("init", STEPS), "attach")
    assert drawing.startswith("---")
    assert "stateDiagram" in drawing
    for name in STEPS:
        assert name in drawing
