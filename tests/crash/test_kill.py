"""Killed is a normal way to stop: in every state of init and of teardown once, by SIGKILL, in the real process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cocoon_net.engine.workflow import load
from cocoon_net.steps import STEPS

pytestmark = [pytest.mark.root, pytest.mark.slow]

UNTOUCHED = ("routes",)
"""States in which an undisturbed run of these stories changes nothing: it dies there before it settles."""


def moment(state: str, workflow: str) -> str:
    """Between the act and its outcome, the moment of which nobody was told; where nothing is done, before settling."""
    quiet = (*UNTOUCHED, "addresses", "links") if workflow == "teardown" else UNTOUCHED
    return f"before settle {state}" if state in quiet else f"before conclude {state}"


@pytest.fixture(scope="module")
def spec() -> tuple[str, ...]:
    return (
        "--platform",
        "volcengine",
        "--node-name",
        "cocoon-pool",
        "--subnet",
        "172.20.100.0/24",
        "--pool-size",
        "120",
    )


@pytest.fixture(scope="module")
def worlds(scene: Any, spec: tuple[str, ...]) -> dict[str, Any]:
    """The world before init, after an undisturbed init, and after an undisturbed teardown."""
    before = scene.world()
    scene.product("init", *spec)
    provisioned = scene.world()
    scene.product("teardown")
    return {"before": before, "provisioned": provisioned, "after": scene.world()}


def test_an_undisturbed_teardown_leaves_the_world_as_it_was(worlds: dict[str, Any]) -> None:
    assert worlds["provisioned"] != worlds["before"]
    assert worlds["after"] == worlds["before"]


@pytest.mark.parametrize("state", list(STEPS))
def test_killed_in_a_state_of_init_the_resumed_run_ends_in_the_same_world(
    scene: Any, worlds: dict[str, Any], spec: tuple[str, ...], state: str
) -> None:
    scene.die(moment(state, "init"), "init", *spec)
    shown = json.loads(scene.product("workflow", "show", "--json").stdout)
    assert shown["state"] == state
    assert "run init --resume" in shown["next"]
    scene.product("run", "init", "--resume")
    assert scene.world() == worlds["provisioned"]
    scene.product("teardown")


@pytest.mark.parametrize("state", [stage.name for stage in load("teardown", STEPS).stages])
def test_killed_in_a_state_of_teardown_the_resumed_run_leaves_nothing(
    scene: Any, worlds: dict[str, Any], spec: tuple[str, ...], state: str
) -> None:
    scene.product("init", *spec)
    scene.die(moment(state, "teardown"), "teardown")
    scene.product("run", "teardown", "--resume")
    assert scene.world() == worlds["before"]
