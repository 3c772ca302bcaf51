"""All that is known of one run as one JSON document, to be handed to somebody else: without secrets.

Credentials are never written into the database. This is the second wall: what is named like a secret is left out, and
so is every text that contains a value which the environment or the credentials file holds as one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cocoon_net.engine.journal import Journal, Run
from cocoon_net.records import encode

HIDDEN = "***"

_NAMED = re.compile(
    r"secret|password|passwd|access.?key|session.?token|security.?token|private.?key|authorization", re.I
)
_SHORTEST = 8
"""Characters of the shortest value that is taken for a secret: replacing shorter ones would tear words apart."""


def export(run: Run, journal: Journal, secrets: frozenset[str]) -> dict[str, Any]:
    """Return everything about a run, JSON-ready, with ``secrets`` and what is named like one left out."""
    ledger = [
        {**asdict(row), "record": encode(row.record), "before": encode(row.before) if row.before else None}
        for row in journal.ledger().values()
    ]
    told = {
        "run": {
            "id": run.id,
            "workflow": run.workflow,
            "lineage": run.lineage,
            "state": run.state,
            "reason": dict(run.reason),
            "version": run.version,
            "started_by": run.started_by,
            "started_at": run.started_at,
            "updated_at": run.updated_at,
            "seconds": run.seconds,
        },
        "spec": run.spec.as_json(),
        "instance": encode(run.instance) if run.instance else None,
        "plan": run.plan.as_json(),
        "visits": list(journal.visits(run.id).values()),
        "operations": [_unfolded(row) for row in journal.operations(run.id)],
        "calls": journal.calls(run.id),
        "ledger": ledger,
        "history": [asdict(entry) for entry in journal.history.entries(run=run.id)],
    }
    redacted: dict[str, Any] = redact(told, secrets)
    return redacted


def redact(value: Any, secrets: frozenset[str]) -> Any:
    """Return JSON-ready data without what is named like a secret, and without ``secrets`` wherever they stand."""
    match value:
        case dict():
            return {
                redact(k, secrets): HIDDEN if _NAMED.search(str(k)) and v else redact(v, secrets)
                for k, v in value.items()
            }
        case list() | tuple():
            return [redact(item, secrets) for item in value]
        case str():
            for secret in sorted(secrets, key=len, reverse=True):
                value = value.replace(secret, HIDDEN)
            return value
        case _:
            return value


def secrets_of(environ: Mapping[str, str], spec_file: str) -> frozenset[str]:
    """Return the values that the environment and the credentials file (the spec's, else the usual) hold as such."""
    named = spec_file or environ.get("VOLCENGINE_CLI_CONFIG_FILE")
    path = Path(named) if named else Path(environ.get("HOME") or "/root") / ".volcengine" / "config.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stored = {}
    found = {*_values(dict(environ)), *_values(stored)}
    return frozenset(value for value in found if len(value) >= _SHORTEST)


def _values(data: Any, *, named: bool = False) -> Iterator[str]:
    match data:
        case dict():
            for key, value in data.items():
                yield from _values(value, named=named or bool(_NAMED.search(str(key))))
        case list():
            for value in data:
                yield from _values(value, named=named)
        case str() if named:
            yield data.strip()


def _unfolded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return an operation with its columns of JSON as what they hold, so that names inside them are looked at, too."""
    texts = ("want", "seen", "details")
    return {name: json.loads(value) if name in texts and value else value for name, value in row.items()}
