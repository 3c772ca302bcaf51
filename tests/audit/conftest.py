"""A provisioned node in a lab of its own, to pull things out of."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.lab.cloud import Admin

SPEC = ("--platform", "volcengine", "--node-name", "cocoon-pool", "--subnet", "172.20.100.0/24", "--pool-size", "30")


@dataclass
class Node:
    """node1 of one lab."""

    name: str
    base: Path

    @property
    def home(self) -> Path:
        return self.base / self.name / "node1"

    @property
    def admin(self) -> Admin:
        return Admin(self.base / self.name / "cloud" / "admin.sock")

    def environment(self) -> dict[str, str]:
        return {**os.environ, "COCOON_NET_LAB_DIR": str(self.base)}

    def line(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "cocoon_net", "lab", "exec", "--name", self.name, "node1", "--", *words]

    def run(self, *words: str) -> str:
        """Type a command on the node."""
        done = subprocess.run(self.line(*words), env=self.environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def ip(self, *words: str) -> str:
        space = ("ip", "-n", f"{self.name}-node1")
        return subprocess.run([*space, *words], check=True, capture_output=True, text=True).stdout

    def inside(self, *words: str) -> str:
        """Run a command in the node's network namespace; faster than as its user would."""
        line = ["ip", "netns", "exec", f"{self.name}-node1", *words]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout

    def product(self, *words: str) -> subprocess.CompletedProcess[str]:
        line = self.line(sys.executable, "-m", "cocoon_net", *words)
        done = subprocess.run(line, env=self.environment(), capture_output=True, text=True, timeout=120)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def audit(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Do a pass by hand; returns its exit code, and what it saw."""
        done = self.product("audit", "--json", *words)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def cloud(self, action: str, **params: Any) -> Any:
        """Call the lab's cloud as an operator with the console would."""
        words = [f"{key}={json.dumps(value)}" for key, value in params.items()]
        line = [sys.executable, "-m", "cocoon_net", "lab", "call", "--name", self.name, "node1", action, *words]
        done = subprocess.run(line, env=self.environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @contextlib.contextmanager
    def serving(self, every: str = "1") -> Iterator[Path]:
        """Have a daemon that audits every so many seconds; yields its log."""
        log = self.home / "daemon.log"
        options = ("--metrics-addr", "", "--audit-every", every)
        line = self.line(sys.executable, "-m", "cocoon_net", "daemon", *options)
        with log.open("w") as out, subprocess.Popen(line, env=self.environment(), stderr=out) as process:
            try:
                eventually(lambda: "serving:" in log.read_text() or process.poll() is not None)
                assert process.poll() is None, log.read_text()
                yield log
            finally:
                pid = json.loads((self.home / "state" / "daemon.lock").read_text())["pid"]
                os.kill(pid, signal.SIGTERM)
                process.wait(20)

    @contextlib.contextmanager
    def pinged(self, address: str) -> Iterator[list[int]]:
        """Another machine of the VPC pings a guest each 0.2 s; yields which pings are missing at the end."""
        words = ["ip", "netns", "exec", f"{self.name}-host", "ping", "-i", "0.2", "-W", "1", address]
        missing: list[int] = []
        ping = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            time.sleep(0.5)
            yield missing
            time.sleep(1.0)
        finally:
            ping.send_signal(2)
            told, _ = ping.communicate(timeout=20)
        seen = {int(line.partition("icmp_seq=")[2].split()[0]) for line in told.splitlines() if "icmp_seq=" in line}
        sent = int(told.partition(" packets transmitted")[0].split()[-1])
        missing += sorted(set(range(1, sent + 1)) - seen)

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
        lab = [sys.executable, "-m", "cocoon_net", "lab", "guest", "add", "--name", self.name]
        done = subprocess.run([*lab, "node1", name], env=self.environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return re.search(r"172\.20\.100\.\d+", done.stdout)[0]  # type: ignore[index]

    def interfaces(self) -> list[dict[str, Any]]:
        """Return our interfaces as the cloud has them."""
        rows = self.admin.state()["interfaces"]
        return [row for row in rows if dict(row["tags"]).get("cocoon-net:node") == "cocoon-pool"]


def eventually(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="session", name="eventually")
def _eventually() -> Callable[..., Any]:
    return eventually


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(f"a{os.getpid() % 100000}", tmp_path_factory.mktemp("lab"))
    lab = [sys.executable, "-m", "cocoon_net", "lab"]
    subprocess.run([*lab, "up", "--name", node.name, "--nodes", "2"], env=node.environment(), check=True)
    try:
        done = node.product("init", *SPEC)
        assert done.returncode == 0, done.stderr
        yield node
    finally:
        subprocess.run([*lab, "down", "--name", node.name], env=node.environment(), check=True)
