"""Processes known by PID and start time."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace

from cocoon_net.lab.task import end, look


def test_a_process_is_ended_politely_and_a_deaf_one_all_the_same() -> None:
    polite = subprocess.Popen(["sleep", "60"])
    deaf = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"], stdout=subprocess.PIPE
    )
    assert deaf.stdout is not None and deaf.stdout.readline() == b"ready\n"
    tasks = [task for task in (look(polite.pid), look(deaf.pid)) if task]
    assert len(tasks) == 2

    began = time.monotonic()
    end(tasks, patience=0.3)
    assert 0.3 <= time.monotonic() - began < 2.0
    assert not any(task.alive for task in tasks)
    deaf.stdout.close()


def test_a_process_that_took_over_the_pid_is_not_hit() -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        task = look(bystander.pid)
        assert task is not None
        end([replace(task, started=task.started - 1)], patience=0.1)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_zombie_and_a_free_pid_are_nobody() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert look(child.pid) is None
    child.wait()
    assert look(child.pid) is None
    end([])
