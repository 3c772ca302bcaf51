"""A node of a lab of its own, on which commands are typed, and stopped."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.lab.station import Station

SPEC = ("--platform", "volcengine", "--node-name", "cocoon-pool", "--subnet", "172.20.100.0/24", "--pool-size", "40")


@dataclass
class Node(Station):
    """node1 of one lab, with its cloud."""

    stuck: bool = False
    """Whether an interface will never come to rest: nothing can be torn down any more, the lab goes as a whole."""

    def typed(self, *words: str, **settings: str) -> list[str]:
        """Return the line that runs a command of ours, with settings of its environment."""
        around = ["env", *(f"{name}={value}" for name, value in settings.items())]
        return self.line(*around, sys.executable, "-m", "cocoon_net", *words)

    def __call__(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Type a command and wait for its end."""
        done = subprocess.run(self.typed(*words), capture_output=True, text=True, timeout=90, env=self.environment())
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def start(self, *words: str, **settings: str) -> subprocess.Popen[str]:
        """Type a command, with settings of its environment, and look at it while it runs."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.typed(*words, **settings), stdout=pipe, stderr=pipe, text=True, env=self.environment()
        )

    def asked(self, *words: str) -> Any:
        """Type a command that answers in JSON."""
        return json.loads(self(*words, "--json").stdout)

    @property
    def database(self) -> Path:
        return self.home / "state" / "cocoon-net.db"

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the database as another process would."""
        if not self.database.exists():
            return []
        with closing(sqlite3.connect(self.database, timeout=10)) as connection:
            try:
                return connection.execute(sql, values).fetchall()
            except sqlite3.OperationalError:
                return []  # it is being made

    def fault(self, **settings: str) -> None:
        self.admin.set_faults({name.replace("_", "-"): value for name, value in settings.items()})

    def ours(self) -> list[str]:
        """Return the interfaces that carry our mark, by id."""
        rows = self.admin.state()["interfaces"]
        return [row["id"] for row in rows if dict(row["tags"]).get("cocoon-net:node") == "cocoon-pool"]


@pytest.fixture(scope="session")
def spec() -> tuple[str, ...]:
    return SPEC


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Node]:
    node = Node(f"w{os.getpid() % 100000}", tmp_path_factory.mktemp("lab"))
    node.lab("up", "--nodes", "1")
    try:
        yield node
    finally:
        node.lab("down")


@pytest.fixture
def node(lab: Node) -> Iterator[Node]:
    """The node; afterwards it is without faults, torn down, and its database forgotten."""
    yield lab
    lab.admin.set_faults(dict.fromkeys(lab.admin.faults(), ""))
    if lab.stuck:
        return
    if lab.query("SELECT 1 FROM meta WHERE name = 'lineage'"):
        lab("teardown")
    for path in lab.database.parent.glob("*"):
        path.unlink()
    assert lab.ours() == []
