"""A provisioned node in a lab of its own, to pull things out of."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.lab.station import Station, station

SPEC = ("--platform", "volcengine", "--node-name", "cocoon-pool", "--subnet", "172.20.100.0/24", "--pool-size", "30")


@dataclass
class Node(Station):
    """node1 of one lab."""

    def product(self, *words: str, patience: float = 120) -> subprocess.CompletedProcess[str]:
        done = super().product(*words, patience=patience)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def audit(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Do a pass by hand; returns its exit code, and what it saw."""
        done = self.product("audit", "--json", *words)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    @contextlib.contextmanager
    def auditing(self, every: str = "1") -> Iterator[Path]:
        """Have a daemon that audits every so many seconds; yields its log."""
        with self.serving("--metrics-addr", "", "--audit-every", every) as log:
            yield log

    def findings(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return what is wrong, as the service wrote it down."""
        return {(row["kind"], row["key"]): row for row in self._found("resolved = ''")}

    def over(self) -> Counter[str]:
        """Return what was wrong and is over: kind -> how often."""
        return Counter(row["kind"] for row in self._found("resolved <> ''"))

    def _found(self, where: str) -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(self.home / "state" / "cocoon-net.db", timeout=10)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(f"SELECT * FROM findings WHERE {where}")]

    def guest(self, name: str) -> str:
        """Add a guest; returns the address that it got."""
        return re.search(r"172\.20\.100\.\d+", self.lab("guest", "add", "node1", name))[0]  # type: ignore[index]

    def interfaces(self) -> list[dict[str, Any]]:
        """Return our interfaces as the cloud has them."""
        rows = self.admin.state()["interfaces"]
        return [row for row in rows if dict(row["tags"]).get("cocoon-net:node") == "cocoon-pool"]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(f"a{os.getpid() % 100000}", tmp_path_factory.mktemp("lab"))
    with station(node, *SPEC, nodes=2):
        yield node
