"""What the service shows of itself: its status, the readings behind the metrics. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from cocoon_net import records
from cocoon_net.audit.comparison import MENDABLE
from cocoon_net.audit.finding import Kind
from cocoon_net.dhcp import guard
from cocoon_net.dhcp.decision import Reason
from cocoon_net.dhcp.guard import Finding
from cocoon_net.dhcp.snapshot import Snapshot
from cocoon_net.dhcp.wire import Malformed
from cocoon_net.supervisor.lifecycle import Lifecycle
from cocoon_net.supervisor.metrics import Readings
from cocoon_net.supervisor.survey import Survey

REFUSALS = (
    Reason.EXHAUSTED,
    Reason.WRONG_SUBNET,
    Reason.NOT_IN_POOL,
    Reason.TAKEN,
)
"""Reasons that leave a client without what it asked for."""


def states(snapshot: Snapshot) -> dict[str, int]:
    """Return state -> addresses in it."""
    return {
        "free": snapshot.free,
        "offered": snapshot.offered,
        "bound": snapshot.bound,
        "cooling": snapshot.cooling,
        "quarantined": snapshot.quarantined,
    }


def nics(survey: Survey | None) -> dict[str, int]:
    """Return how many secondary links are expected and how many are there."""
    seen = survey.nics if survey else None
    return {"expected": seen.expected, "present": seen.present} if seen else {"expected": 0, "present": 0}


def status(
    life: Lifecycle, pool: records.Pool, snapshot: Snapshot, survey: Survey | None, findings: Iterable[Finding]
) -> dict[str, Any]:
    """Return what ``GET /v1/status`` answers; ``findings`` are what ports were refused lately."""
    return {
        "phase": life.phase.value,
        "reason": life.reason,
        "pid": os.getpid(),
        "subnet": str(pool.subnet),
        "pool": len(pool.addresses),
        "leases": states(snapshot),
        "routes": snapshot.routes,
        "nics": nics(survey),
        "differences": list(survey.all_confirmed) if survey else [],
        "ports": [
            {"port": one.port, "mac": one.mac, "count": one.total, "reason": str(one.reason)} for one in findings
        ],
    }


def readings(
    acknowledged: int,
    life: Lifecycle,
    snapshot: Snapshot,
    survey: Survey | None,
    api: Mapping[tuple[str, str], int],
    *,
    workflow: Mapping[str, Any],
    room: Mapping[str, int],
    findings: Mapping[str, int],
    audited: tuple[datetime, float] | None,
    mended: Mapping[Kind, int],
) -> Readings:
    """Return what is measured at this moment."""
    refused = sum(snapshot.decided.get(reason.value, 0) for reason in REFUSALS)
    return Readings(
        acknowledged=acknowledged,
        failed=refused + snapshot.commit_failures + snapshot.route_failures,
        pool_available=snapshot.free,
        leases=states(snapshot),
        nics=nics(survey),
        differences={kind: len(lines) for kind, lines in survey.confirmed.items()} if survey else {},
        phase=life.phase.value,
        api=api,
        decisions={reason.name.lower(): snapshot.decided.get(reason.value, 0) for reason in Reason},
        malformed={kind: snapshot.malformed.get(kind, 0) for kind in ("frame", *Malformed)},
        guarded={reason.name.lower(): snapshot.decided.get(reason.value, 0) for reason in guard.REFUSALS},
        troubles={
            "commit": snapshot.commit_failures,
            "route": snapshot.route_failures,
            "send": snapshot.unsent,
            "mute": snapshot.muted,
        },
        times=snapshot.times,
        size=snapshot.size,
        received=snapshot.received,
        sent=snapshot.sent,
        room=room,
        workflow=workflow,
        findings={kind: findings.get(kind, 0) for kind in Kind},
        audited=audited,
        mended={kind: mended.get(kind, 0) for kind in MENDABLE},
    )
