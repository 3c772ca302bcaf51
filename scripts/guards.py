#!/usr/bin/env python3
"""Take each guard out, one at a time, and see that a test misses it.

A guard is a line that keeps something from happening: without a test that fails when it is gone, nobody would notice.
``guards.toml`` has each one's text, what stands there without it, and the tests that must fail then.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 240
"""Seconds for the tests of one guard."""

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Guard:
    """What is guarded, where, and who must notice that it is not."""

    what: str
    file: str
    text: str
    without: str
    tests: str


def guards() -> list[Guard]:
    """Read the guards, in the order of their file."""
    return [Guard(**row) for row in tomllib.loads((ROOT / "scripts/guards.toml").read_text(encoding="utf-8"))["guard"]]


def main() -> int:
    """Take out what was asked for, print a line per guard, and say how many nobody missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="guards whose line has this text")
    parser.add_argument("--list", action="store_true", help="print the guards, run nothing")
    options = parser.parse_args()
    chosen = [guard for guard in guards() if options.only in f"{guard.what} {guard.file} {guard.tests}"]
    if options.list:
        print("\n".join(f"{guard.what}: {guard.file}, {guard.tests}" for guard in chosen))
        return 0
    unmissed = 0
    with tempfile.TemporaryDirectory(prefix="guards-") as scratch:
        copy = Path(scratch) / "project"
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, files.split("\0")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
        for guard in chosen:
            failed = missed(guard, copy)
            unmissed += not failed
            print(f"{'missed by ' + failed if failed else 'MISSED BY NOBODY':<60} {guard.what}", flush=True)
    print(f"{len(chosen)} guards taken out, {unmissed} of them missed by no test")
    return 1 if unmissed else 0


def missed(guard: Guard, copy: Path) -> str:
    """Return the first test that fails without a guard; empty when none does."""
    path = copy / guard.file
    text = path.read_text(encoding="utf-8")
    if text.count(guard.text) != 1:
        raise SystemExit(f"{guard.what}: its text is {text.count(guard.text)} times in {guard.file}")
    path.write_text(text.replace(guard.text, guard.without), encoding="utf-8")
    try:
        code, said = _tested(guard, copy)
    finally:
        path.write_text(text, encoding="utf-8")
    failed = re.search(r"^(?:FAILED|ERROR) \S+::(\w+)", said, re.MULTILINE)
    match code, failed:
        case None, _:
            return "a test that does not end"
        case 0, _:
            return ""
        case 1, re.Match():
            return failed[1]
    raise SystemExit(f"{guard.what}: the tests did not run:\n{said[-4000:]}")


def _tested(guard: Guard, copy: Path) -> tuple[int | None, str]:
    """Run a guard's tests; the exit code is None when they did not end in time and had to be interrupted.

    Interrupted, pytest still takes its labs down; whoever does not go then is killed with all that it has started.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *shlex.split(guard.tests)],
        cwd=copy,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, said
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=30)
        return None, ""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
