"""The audits of the service: one every few minutes, never two at once, each in a process of its own.

The process is ``cocoon-net audit --repair --json``: the cloud's SDK, the looks and the repairs are in there and nowhere
near the DHCP loop. It has a low priority and a deadline; when it crashes, hangs or is
killed, that pass is *unknown*, and nothing else happens. What it saw comes back as a ``Pass``, which the service's main
thread writes down.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cocoon_net.audit.finding import DESTRUCTIVE, ENOUGH, Finding, Kind, Pass, Severity
from cocoon_net.site import Site
from cocoon_net.supervisor.log import tell
from cocoon_net.supervisor.priority import give_way, insist
from cocoon_net.supervisor.timetable import AUDIT

if TYPE_CHECKING:
    from apscheduler.schedulers.background import BackgroundScheduler

DEADLINE = 150.0
"""Seconds for one pass: a cloud that does not answer takes a minute."""

FIRST = 30.0
"""Seconds from the start of the service to the first pass: the guests of a node that boots come first."""

MODEST_FOR = 10.0
"""Seconds that a pass runs only where nobody else wants the processor: whoever wakes up has it at once, while beside a
nice process a guest's OFFER waits for the end of a time slice. A pass takes half a second."""

NICE = 10
"""Of a pass that was not done by then: a tenth of a processor that others keep busy, so that audits do end."""

AREA = "audit"
"""The area that is unknown when a whole pass failed; the job's name, too."""


class Auditor:
    """Starts the passes and hands each result to ``deliver``, in a thread of the scheduler."""

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        deliver: Callable[[Pass], None],
        *,
        deadline: float = DEADLINE,
    ) -> None:
        self._command, self._environment, self._deliver, self._deadline = command, environment, deliver, deadline
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._stopped = False
        self._scheduler: BackgroundScheduler | None = None

    def enter(self, scheduler: BackgroundScheduler, every: float) -> None:
        """Do a pass soon, and then one each ``every`` seconds, give or take a fifth."""
        first = datetime.fromtimestamp(time.time() + min(FIRST, every), UTC)
        scheduler.add_job(
            self.audit, "interval", seconds=every, jitter=every / 5, id=AREA, executor=AUDIT, next_run_time=first
        )
        self._scheduler = scheduler

    def hurry(self) -> None:
        """Have the next pass now: the last one changed something."""
        if self._scheduler is not None:
            self._scheduler.modify_job(AREA, next_run_time=datetime.now(UTC))

    def stop(self) -> None:
        """End the pass under way, and have no other. Returns at once: every repair is whole or not begun."""
        with self._lock:
            self._stopped = True
            _kill(self._child)

    def audit(self) -> None:
        """Do one pass and deliver it."""
        began, at = time.monotonic(), datetime.now(UTC)
        why = ""
        try:
            seen = self._pass()
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = str(error) or type(error).__name__
            seen = Pass(at, time.monotonic() - began, frozenset(), (), {AREA: why})
        if not self._stopped:
            self._deliver(seen)

    def _pass(self) -> Pass:
        """Run the process; raises ValueError for whatever it says instead of a pass, OSError when it cannot be had."""
        with self._lock:
            if self._stopped:
                raise ValueError("the service stops")
            self._child = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # whose share of the processors is its own
            )
        child = self._child
        give_way(child.pid)
        try:
            told, said = child.communicate(timeout=min(MODEST_FOR, self._deadline))
        except subprocess.TimeoutExpired:
            insist(child.pid, NICE)
            try:
                told, said = child.communicate(timeout=max(0.0, self._deadline - MODEST_FOR))
            except subprocess.TimeoutExpired:
                _kill(child)
                child.communicate()
                raise ValueError(f"it did not end within {self._deadline:g} s and was killed") from None
        if child.returncode < 0:
            raise ValueError(f"it was ended by signal {-child.returncode}")
        if not told.strip():
            last = said.strip().splitlines()
            raise ValueError(last[0].removeprefix("error: ") if last else f"it ended with {child.returncode}")
        seen = Pass.from_json(json.loads(told))
        return replace(seen, looked=seen.looked | {AREA})


def _kill(child: subprocess.Popen[str] | None) -> None:
    """End a pass with what it has started."""
    if child is not None and child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def command(site: Site, *, skip_firewall: bool) -> tuple[list[str], dict[str, str]]:
    """Return the command of one pass, and its environment: the places of this service."""
    words = [sys.executable, "-m", "cocoon_net", "audit", "--repair", "--json"]
    words += ["--lease-file", str(site.lease_file)]
    words += ["--skip-iptables"] if skip_firewall else []
    places = {
        "COCOON_NET_STATE_DIR": str(site.state_dir),
        "COCOON_NET_CNI_CONF_DIR": str(site.cni_conf_dir),
        "COCOON_NET_RUN_DIR": str(site.run_dir),
        "COCOON_NET_METADATA_URL": site.metadata_url,
    }
    given = {"VOLCENGINE_ENDPOINT": site.endpoint} if site.endpoint else {}
    return words, {**os.environ, **places, **given}


def report(changed: Iterable[Finding], seen: Pass) -> None:
    """Log what is new, what counts from now on, what is over, what was put right: one line a fact, but few a kind."""
    told: dict[tuple[str, str, Kind], list[str]] = {}
    for finding in changed:
        line = f"{finding.kind}: {finding.sighting.says}"
        if finding.resolved is not None:
            told.setdefault(("INFO", "no longer", finding.kind), []).append(line)
        elif finding.first_seen == finding.last_seen or (finding.kind in DESTRUCTIVE and finding.confirmed == ENOUGH):
            level = "INFO" if finding.severity is Severity.NOTICE else "WARNING"
            advised = f"{line}; {finding.sighting.advice or 'nothing to do yet'}"
            told.setdefault((level, "found", finding.kind), []).append(advised)
    for (level, what, _), lines in told.items():
        tell(level, lines, f"{what}: {{}}")
    tell("INFO", seen.repaired, "put right: {}")


def lasting(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Return what an operator should look at, a line each: what was not put right by the pass that found it."""
    return tuple(
        f"{finding.kind}: {finding.sighting.says}"
        for finding in findings
        if finding.counts
        and finding.confirmed > 1
        and finding.kind is not Kind.UNKNOWN
        and finding.severity is not Severity.NOTICE
    )
