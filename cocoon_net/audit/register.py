"""The findings of a node in its database: recorded, confirmed, resolved, read.

For whoever shows them (metrics, status page, control socket): ``open_findings``, ``counts`` (kind -> open findings),
``last`` (when the last audit was and how long it took). Each is one short query.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from cocoon_net.audit.finding import Finding, Pass, Place, Sighting, settle, withdrawn
from cocoon_net.engine.answers import Answers
from cocoon_net.engine.journal import Journal
from cocoon_net.records import AddressSet
from cocoon_net.store import reading, writing

if TYPE_CHECKING:
    from sqlite_utils import Database

KEPT = 1_000
"""Findings that are over, and audits, that are kept."""


class Register:
    """The tables ``findings`` and ``audits``. It belongs to the thread of its database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, seen: Pass) -> list[Finding]:
        """Write down what a pass makes of the findings, in one transaction; returns those that it touched."""
        known: dict[Place, Finding] = {finding.sighting.place: finding for finding in self.open_findings()}
        changed = settle(known, seen)
        with writing(self._database):
            for finding in changed:
                self._put(finding, new=finding.sighting.place not in known)
            self._database.execute(
                "INSERT INTO audits (at, seconds, unknown, repaired) VALUES (?, ?, ?, ?)",
                [seen.at.isoformat(), seen.seconds, json.dumps(seen.unknown or {}), json.dumps(seen.repaired)],
            )
            Answers(self._database).add(seen.calls or {})
            self._database.execute("DELETE FROM audits WHERE id <= (SELECT max(id) FROM audits) - ?", [KEPT])
            self._database.execute(
                "DELETE FROM findings WHERE resolved <> '' AND id <= (SELECT max(id) FROM findings) - ?", [KEPT]
            )
        return changed

    def mended(self, sightings: Iterable[Sighting], at: datetime) -> None:
        """Write down what was wrong for a moment and is put right: findings that are over, unless they are open."""
        known = {finding.sighting.place for finding in self.open_findings()}
        with writing(self._database):
            for sighting in sightings:
                if sighting.place not in known:
                    self._put(Finding(sighting, at, 1, at, at), new=True)

    def open_findings(self) -> list[Finding]:
        """Return what is wrong, the oldest first."""
        return self._read("WHERE resolved = '' ORDER BY id")

    def resolved(self, most: int = 50) -> list[Finding]:
        """Return what was wrong, the latest first."""
        return self._read(f"WHERE resolved <> '' ORDER BY resolved DESC, id DESC LIMIT {int(most)}")

    def counts(self) -> dict[str, int]:
        """Return kind -> findings that are open."""
        rows = self._database.execute("SELECT kind, count(*) FROM findings WHERE resolved = '' GROUP BY kind")
        return {str(kind): int(count) for kind, count in rows}

    def last(self) -> tuple[datetime, float] | None:
        """Return when the last audit was and how many seconds it took; None before the first."""
        row = self._database.execute("SELECT at, seconds FROM audits ORDER BY id DESC LIMIT 1").fetchone()
        return (datetime.fromisoformat(row[0]), float(row[1])) if row else None

    def withdrawn(self) -> frozenset[IPv4Address]:
        """Return the addresses that no guest may be given, by the findings that count."""
        sets = Journal(self._database).ledger().values()
        addresses = {
            row.key: row.record.addresses
            for row in sets
            if row.step == "addresses" and isinstance(row.record, AddressSet)
        }
        return withdrawn(self.open_findings(), addresses)

    def _read(self, where: str) -> list[Finding]:
        with reading("the findings"):
            return [_finding(row) for row in self._database.query(f"SELECT * FROM findings {where}")]

    def _put(self, finding: Finding, *, new: bool) -> None:
        sighting = finding.sighting
        told = [sighting.says, sighting.advice, json.dumps(sighting.as_json()["evidence"])]
        times = [finding.confirmed, finding.last_seen.isoformat()]
        over = finding.resolved.isoformat() if finding.resolved else ""
        if new:
            self._database.execute(
                "INSERT INTO findings (kind, key, says, advice, evidence, confirmed, last_seen, resolved, first_seen)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [sighting.kind, sighting.key, *told, *times, over, finding.first_seen.isoformat()],
            )
        else:
            self._database.execute(
                "UPDATE findings SET says = ?, advice = ?, evidence = ?, confirmed = ?, last_seen = ?, resolved = ?"
                " WHERE kind = ? AND key = ? AND resolved = ''",
                [*told, *times, over, sighting.kind, sighting.key],
            )


def _finding(row: dict[str, Any]) -> Finding:
    return Finding(
        Sighting.from_json({**row, "evidence": json.loads(row["evidence"])}),
        datetime.fromisoformat(row["first_seen"]),
        int(row["confirmed"]),
        datetime.fromisoformat(row["last_seen"]),
        datetime.fromisoformat(row["resolved"]) if row["resolved"] else None,
    )
