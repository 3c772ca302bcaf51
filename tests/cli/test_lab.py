"""``cocoon-net lab`` as typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PRODUCT = [sys.executable, "-c", "from cocoon_net.cli.main import main; main()"]


class Cli:
    """The commands of one lab."""

    def __init__(self, base: Path) -> None:
        self.name = f"c{os.getpid() % 10000}"
        self.settings = {**os.environ, "COCOON_NET_LAB": self.name, "COCOON_NET_LAB_DIR": str(base)}

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*PRODUCT, "lab", *words]
        return subprocess.run(command, env=self.settings, capture_output=True, text=True, check=False)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*PRODUCT, "lab", *words], env=self.settings, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    one = Cli(tmp_path_factory.getbasetemp() / "c")
    assert one("up", "--nodes", "1", "--fault", "describe-lag=1").returncode == 0
    yield one
    assert one("down").returncode == 0
    assert one("down").stdout == "nothing to remove\n"


pytestmark = pytest.mark.root


@pytest.mark.parametrize("dashes", [[], ["--"]])
def test_exec_gives_back_the_commands_exit_code(cli: Cli, dashes: list[str]) -> None:
    done = cli("exec", "node1", *dashes, "sh", "-c", "echo --out; exit 42")
    assert (done.returncode, done.stdout) == (42, "--out\n")


def test_exec_is_the_command_so_signals_reach_it(cli: Cli) -> None:
    child = cli.start("exec", "node1", "--", "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)
    assert child.wait(5) == 9
    child.stdout.close()


def test_exec_says_what_is_wrong(cli: Cli) -> None:
    unknown, missing, nothing = (
        cli("exec", "node7", "true"),
        cli("exec", "node1", "no-such"),
        cli("exec", "node1", "--"),
    )
    assert (unknown.returncode, missing.returncode, nothing.returncode) == (os.EX_CONFIG, os.EX_OSERR, 2)
    assert "there are vpc, node1, host" in unknown.stderr
    assert "cannot run no-such" in missing.stderr


def test_status_tells_people_and_machines_the_same(cli: Cli) -> None:
    found = json.loads(cli("status", "--json").stdout)
    text = cli("status").stdout
    assert found["running"] and f"process {found['pid']}" in text
    assert found["faults"] == {"describe-lag": "1"}
    assert "faults: describe-lag=1" in text
    assert found["nodes"][0]["links"][0]["mac"] in text


def test_faults_are_shown_turned_and_cleared(cli: Cli) -> None:
    assert "api-latency=0.05" in cli("fault", "api-latency=50ms").stdout.splitlines()
    wrong = cli("fault", "api-latency=soon", "no-such=1")
    assert wrong.returncode == os.EX_CONFIG
    assert "api-latency" in wrong.stderr and "no-such" in wrong.stderr
    cleared = cli("fault", "--clear", "describe-lag=1").stdout.splitlines()
    assert "api-latency=0" in cleared and "describe-lag=1" in cleared


def test_the_lab_outlives_the_shell_that_built_it(cli: Cli) -> None:
    pid = json.loads(cli("status", "--json").stdout)["pid"]
    assert os.getsid(pid) == pid
    assert cli("up").stdout.startswith("the lab was up already")


def test_help_of_the_lab_is_quick_and_needs_no_root() -> None:
    began = time.monotonic()
    done = subprocess.run([*PRODUCT, "lab", "--help"], capture_output=True, text=True, check=True)
    assert time.monotonic() - began < 1.5
    assert "guest" in done.stdout and "demo" in done.stdout
