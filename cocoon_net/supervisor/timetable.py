"""The service's one APScheduler: what happens at its times, each kind one at a time and none waiting for another's."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apscheduler.schedulers.background import BackgroundScheduler

AUDIT = "audit"
"""The executor of the audits; everything else shares the default one."""


def timetable() -> BackgroundScheduler:
    """Return a scheduler that has not begun: a run that was missed is done once, late, and never two of a kind at once.

    It keeps nobody from ending: its threads are daemons.
    """
    from apscheduler.schedulers.background import BackgroundScheduler

    return BackgroundScheduler(
        executors={name: {"type": "threadpool", "max_workers": 1} for name in ("default", AUDIT)},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        timezone=UTC,
        daemon=True,
    )
