"""The guide's job through the real command line: once, again, with something broken, and with a real VM."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from cocoon_net.errors import NodeError
from cocoon_net.lab import demo, namespace, vm
from cocoon_net.lab import lab as labs
from cocoon_net.lab.demo import SITES, Trial
from cocoon_net.lab.lab import Lab, Shape
from cocoon_net.lab.task import end, look


def test_a_guest_is_ready_only_if_each_of_its_own_trials_passed() -> None:
    first, second = IPv4Address("172.20.100.9"), IPv4Address("172.20.100.97")
    addresses = dict(zip(SITES, (first, second), strict=True))
    trials = [Trial(first, "ping", "1 ms", passed=True), Trial(second, "ping", "no answer", passed=False)]
    lines = demo.report(addresses, trials)
    assert re.split(r"\s+", lines[2]) == ["win11-0", "1/1", "172.20.100.9", "cocoon-pool"]
    assert re.split(r"\s+", lines[3]) == ["win11-2-0", "0/1", "172.20.100.97", "cocoon-pool-2"]
    assert "no answer  <- FAILED" in lines


@pytest.mark.root
def test_the_demo_wants_a_lab_that_is_up(fresh: Lab) -> None:
    with pytest.raises(NodeError, match="up with 2 nodes"):
        demo.show(fresh, real=False, say=print)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, list[str]]]:
    """A lab in which the demo was run once, and what it said."""
    lab = labs.open_lab(f"d{os.getpid() % 10000}", tmp_path_factory.getbasetemp() / "d")
    try:
        labs.up(lab, Shape(), {})
        said: list[str] = []
        demo.show(lab, real=False, say=said.append)
        yield lab, said
    finally:
        labs.down(lab)


@pytest.mark.root
def test_the_verified_result_of_the_guide(shown: tuple[Lab, list[str]]) -> None:
    _, said = shown
    text = "\n".join(said)
    assert re.search(r"^win11-0 +1/1 +172\.20\.100\.\d+ +cocoon-pool$", text, re.MULTILINE)
    assert re.search(r"^win11-2-0 +1/1 +172\.20\.101\.\d+ +cocoon-pool-2$", text, re.MULTILINE)
    assert len(re.findall(r"icmp_seq=\d ttl=\d+ time=[\d.]+ ms", text)) == 12
    assert said.count("OK") == 2


@pytest.mark.root
def test_a_second_demo_only_measures(shown: tuple[Lab, list[str]]) -> None:
    lab, said = shown
    before = namespace.members([lab.namespace("node1")])
    again: list[str] = []
    demo.show(lab, real=False, say=again.append)
    assert [line for line in again if line.startswith("win11")] == [line for line in said if "/1 " in line]
    assert namespace.members([lab.namespace("node1")]) == before, "the daemon that was there still serves"


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs the package qemu-system-x86")
def test_a_real_vm_leases_and_answers(shown: tuple[Lab, list[str]]) -> None:
    lab, _ = shown
    met: list[Trial] = []

    def meet(verdict: vm.Verdict) -> None:
        met.extend([demo.ping(lab, "host", verdict.address), demo.open_port(lab, "host", verdict.address)])

    verdict = vm.boot(lab, "node1", print, meet)
    assert [trial.passed for trial in met] == [True, True]
    assert verdict.console[0].startswith("vm: Linux ")
    assert "lease of" in "".join(verdict.console)
    assert not [line for line in commands_in(lab, "node1") if "qemu" in line]


@pytest.mark.root
def test_what_does_not_work_is_said_and_fails(shown: tuple[Lab, list[str]]) -> None:
    lab, _ = shown
    listening = [pid for pid in namespace.members([lab.namespace("win11-0")]) if "nc" in command(pid).split()[0]]
    end(task for pid in listening if (task := look(pid)))
    again: list[str] = []
    with pytest.raises(NodeError, match=r"1 of 6 trials failed: nc -w 2 172\.20\.100\."):
        demo.show(lab, real=False, say=again.append)
    assert any(re.match(r"win11-0 +0/1", line) for line in again)
    assert any(re.match(r"win11-2-0 +1/1", line) for line in again)


def commands_in(lab: Lab, who: str) -> list[str]:
    time.sleep(0.05)
    return [command(pid) for pid in namespace.members([lab.namespace(who)])]


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
