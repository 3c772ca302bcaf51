"""Many nodes and one cloud, without their network namespaces: only the cloud's steps of the workflows are run."""

from __future__ import annotations

from pathlib import Path

from cocoon_net.engine.workflow import load
from cocoon_net.steps import STEPS

CLOUD = frozenset({"subnet", "enis", "ingress", "attach", "addresses"})
"""The steps that touch nothing but the cloud."""


def write_workflows(directory: Path) -> Path:
    """Write the shipped workflows, cut down to the cloud's steps, for ``Site.workflow_dir``; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("init", "adopt", "teardown"):
        plan = load(name, STEPS)
        lines = [f'name = "{plan.name}"', f'title = "{plan.title}"']
        for stage in plan.stages:
            if stage.name in CLOUD:
                lines += ["[[step]]", f'name = "{stage.name}"', f'want = "{stage.wish}"']
                lines += [f'deadline = "{stage.deadline:.0f}s"']
        (directory / f"{name}.toml").write_text("\n".join(lines) + "\n")
    return directory
