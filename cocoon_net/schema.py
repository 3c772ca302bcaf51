"""The schema of a node's database, as migrations: what is released is never edited, a change is a new one at the end.

Times are RFC 3339 text in UTC where people read them, and integer seconds in the DHCP tables, which the hot path reads
back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

SCHEMA = "cocoon_net"

_ENGINE = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    workflow TEXT NOT NULL,
    lineage TEXT NOT NULL,
    state TEXT NOT NULL,            -- planned, a step's name, done, abandoned
    reason TEXT NOT NULL DEFAULT '',-- why it is parked; JSON of the error, '' when it is not
    spec TEXT NOT NULL,             -- JSON
    instance TEXT,                  -- JSON of the facts, NULL where the cloud was not asked
    plan TEXT NOT NULL,             -- the resolved workflow: an upgrade cannot change a run in flight
    version TEXT NOT NULL,
    started_by TEXT NOT NULL,
    started_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    seconds REAL NOT NULL DEFAULT 0 -- time spent acting, over all its processes
) STRICT;

CREATE TABLE visits (               -- one row per step of a run
    run TEXT NOT NULL REFERENCES runs(id),
    step TEXT NOT NULL,
    entered_at TEXT NOT NULL,
    settled_at TEXT,
    looks INTEGER NOT NULL DEFAULT 0,
    changes INTEGER NOT NULL DEFAULT 0,
    seconds REAL NOT NULL DEFAULT 0,
    waiting TEXT NOT NULL DEFAULT '',
    error TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run, step)
) STRICT;

CREATE TABLE calls (                -- what a run asked of the cloud, counted
    run TEXT NOT NULL REFERENCES runs(id),
    step TEXT NOT NULL,
    action TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (run, step, action)
) STRICT;

CREATE TABLE operations (           -- the journal: the intent before the act, the outcome after
    id INTEGER PRIMARY KEY,
    run TEXT NOT NULL REFERENCES runs(id),
    lineage TEXT NOT NULL,
    step TEXT NOT NULL,
    key TEXT NOT NULL,
    verb TEXT NOT NULL,
    token TEXT NOT NULL,
    want TEXT,
    seen TEXT,
    intended_at TEXT NOT NULL,
    ended_at TEXT,
    outcome TEXT NOT NULL DEFAULT 'pending', -- pending, done, failed, unknown; resolved: a later look answered it
    code TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '',
    request_id TEXT NOT NULL DEFAULT '',
    details TEXT NOT NULL DEFAULT '{}',
    settled INTEGER NOT NULL DEFAULT 0       -- its step has come to rest since
) STRICT;
CREATE INDEX operations_of_key ON operations (lineage, step, key);
CREATE INDEX operations_of_run ON operations (run, id);

CREATE TABLE ledger (               -- what we look after
    step TEXT NOT NULL,
    key TEXT NOT NULL,
    origin TEXT NOT NULL,
    record TEXT NOT NULL,
    before TEXT,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (step, key)
) STRICT;
"""

_DHCP = """
CREATE TABLE pool (                 -- what may be leased; one row
    id INTEGER PRIMARY KEY CHECK (id = 1),
    record TEXT NOT NULL,           -- JSON of records.Pool
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE leases (               -- what was promised; offers are never written down
    address INTEGER PRIMARY KEY,    -- as an integer; times in Unix seconds
    state TEXT NOT NULL,            -- free, bound, cooling, quarantined
    ends INTEGER NOT NULL,          -- when the state ends by itself
    mac TEXT NOT NULL,              -- the client, also the last one of a free address; '' for nobody
    since INTEGER NOT NULL,
    client_id BLOB NOT NULL,
    hostname TEXT NOT NULL
) STRICT;

CREATE TABLE history (              -- what became of leases, and why
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    address INTEGER NOT NULL,
    mac TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;
"""

_HISTORY = """
CREATE TABLE run_history (          -- who did what to the runs of this node; never changed
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    what TEXT NOT NULL,             -- engine.history.Deed
    by TEXT NOT NULL,
    version TEXT NOT NULL,
    run TEXT NOT NULL,              -- '' where no run is meant; no reference, it outlives the run
    workflow TEXT NOT NULL,
    lineage TEXT NOT NULL,
    details TEXT NOT NULL           -- JSON: the spec, the reason given, what was chosen
) STRICT;
CREATE INDEX run_history_of_run ON run_history (run, id);
CREATE TRIGGER run_history_is_not_changed BEFORE UPDATE ON run_history
BEGIN SELECT raise(ABORT, 'the history is not changed'); END;
CREATE TRIGGER run_history_is_not_replaced BEFORE INSERT ON run_history
WHEN EXISTS (SELECT 1 FROM run_history WHERE id = new.id)
BEGIN SELECT raise(ABORT, 'the history is not changed'); END;
CREATE TRIGGER run_history_is_kept BEFORE DELETE ON run_history
WHEN old.id > (SELECT max(id) FROM run_history) - 10000
    OR (old.lineage <> '' AND old.lineage IS (SELECT value FROM meta WHERE name = 'lineage'))
BEGIN SELECT raise(ABORT, 'the history keeps its newest 10000 entries and the open lineage'); END;
ALTER TABLE visits ADD COLUMN next_look_at TEXT NOT NULL DEFAULT '';  -- while it waits
ALTER TABLE visits ADD COLUMN skipped TEXT NOT NULL DEFAULT '';       -- JSON: by, why, at
ALTER TABLE ledger ADD COLUMN foreseen_by INTEGER;  -- the operation that is to make it; NULL once it was seen at rest
"""

_RESERVATIONS = """
CREATE TABLE reservations (         -- addresses that the operator keeps for one client each
    mac TEXT PRIMARY KEY,
    address INTEGER NOT NULL UNIQUE,
    hostname TEXT NOT NULL,
    options TEXT NOT NULL,          -- JSON: code -> value in hex
    since INTEGER NOT NULL
) STRICT;
"""

_LEASE_PORT = """
-- the bridge port that the client was last served at: a lease belongs to it while it exists
ALTER TABLE leases ADD COLUMN port TEXT NOT NULL DEFAULT '';
"""


_REFUSED_CALLS = """
CREATE TABLE refused_calls (        -- of the counted calls those that were not answered with success
    run TEXT NOT NULL REFERENCES runs(id),
    step TEXT NOT NULL,
    action TEXT NOT NULL,
    code TEXT NOT NULL,             -- the cloud's, else the kind of error
    count INTEGER NOT NULL,
    PRIMARY KEY (run, step, action, code)
) STRICT;
"""

_ANSWERS = """
CREATE TABLE answers (              -- how the cloud answered this node, whoever asked; runs come and go
    action TEXT NOT NULL,
    code TEXT NOT NULL,             -- empty for success
    count INTEGER NOT NULL,
    PRIMARY KEY (action, code)
) STRICT;
INSERT INTO answers SELECT action, code, sum(count) FROM refused_calls GROUP BY action, code;
INSERT INTO answers SELECT action, '', sum(count) - coalesce(
    (SELECT sum(count) FROM refused_calls WHERE refused_calls.action = calls.action), 0
) FROM calls GROUP BY action;
"""

_FINDINGS = """
CREATE TABLE findings (             -- what audits found; one row from when it began until it was over
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,             -- audit.finding.Kind
    key TEXT NOT NULL,
    says TEXT NOT NULL,
    advice TEXT NOT NULL,
    evidence TEXT NOT NULL,         -- JSON: source, what it says, whether it agrees
    first_seen TEXT NOT NULL,
    confirmed INTEGER NOT NULL,     -- passes that bore it out
    last_seen TEXT NOT NULL,
    resolved TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX findings_open ON findings (kind, key) WHERE resolved = '';

CREATE TABLE audits (               -- the passes of the service
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    seconds REAL NOT NULL,
    unknown TEXT NOT NULL,          -- JSON: area -> why it could not be looked at
    repaired TEXT NOT NULL          -- JSON: a line each
) STRICT;
"""


def _statements(script: str) -> Callable[[Database], None]:
    """Run a script statement by statement: ``executescript`` would commit the migration's transaction."""

    def migrate(database: Database) -> None:
        pending = ""
        for line in script.splitlines(keepends=True):
            pending += line
            if sqlite3.complete_statement(pending):
                database.execute(pending)
                pending = ""

    return migrate


MIGRATIONS: dict[str, Callable[[Database], None]] = {
    "0001_engine": _statements(_ENGINE),
    "0002_dhcp": _statements(_DHCP),
    "0004_reservations": _statements(_RESERVATIONS),
    "0003_history": _statements(_HISTORY),
    "0005_lease_port": _statements(_LEASE_PORT),
    "0006_refused_calls": _statements(_REFUSED_CALLS),
    "0007_findings": _statements(_FINDINGS),
    "0008_answers": _statements(_ANSWERS),
}
