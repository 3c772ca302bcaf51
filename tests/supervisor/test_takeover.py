"""Taking over from the Go cocoon-net while somebody else writes to the same database. The rest: ``test_daemon``."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from cocoon_net.site import Site
from cocoon_net.store import open_database
from cocoon_net.supervisor import takeover

NOW = datetime(2026, 11, 28, tzinfo=UTC)
POOL = {
    "platform": "volcengine",
    "nodeName": "node-1",
    "subnet": "172.20.100.0/24",
    "gateway": "172.20.100.1",
    "primaryNIC": "eth0",
    "secondaryNICs": ["eth1"],
    "ips": ["172.20.100.2", "172.20.100.3"],
    "eniIDs": ["eni-a"],
    "subnetID": "subnet-x",
    "updatedAt": "2026-05-01T10:00:00.123456789Z",
}


class Other:
    """A writer with a connection of its own, which commits when a transaction that is watched is about to write.

    What was read in that transaction is old then, unless it had the writer's lock: the other one waits in that case.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun = False
        self.threads: list[threading.Thread] = []
        self.committed = 0

    def hear(self, statement: str) -> None:
        """Take a statement of the watched connection, before it runs."""
        match statement.split()[0].upper():
            case "BEGIN":
                self._begun = True
            case "CREATE" | "INSERT" | "UPDATE" | "DELETE" if self._begun:
                self._begun = False
                self.threads.append(threading.Thread(target=self._commit, args=[len(self.threads)]))
                self.threads[-1].start()
                self.threads[-1].join(0.2)

    def _commit(self, number: int) -> None:
        with closing(sqlite3.connect(self._path, timeout=20)) as connection, connection:
            connection.execute("INSERT INTO meta VALUES (?, '')", [f"other-{number}"])
            self.committed += 1


def test_a_takeover_waits_for_who_else_writes_and_is_not_refused(tmp_path: Path) -> None:
    """As where a daemon notes that it serves while its DHCP loop commits a guest's lease."""
    site = Site(tmp_path, tmp_path, tmp_path)
    site.pool_file.write_text(json.dumps(POOL))
    lease = {"mac": "52:54:00:00:00:01", "ip": "172.20.100.2", "expiry": "2099-01-01T00:00:00Z"}
    site.lease_file.write_text(json.dumps([lease]))
    with closing(open_database(site.database)) as database:
        other = Other(site.database)
        database.conn.set_trace_callback(other.hear)
        taken = takeover.take_over(site, database, NOW)
        assert taken is not None and taken.leases == 1 and len(taken.pool.addresses) == 2
        assert takeover.pending(database)
        takeover.served(database)
        assert not takeover.pending(database)
        database.conn.set_trace_callback(None)
        for thread in other.threads:
            thread.join(20)
        assert other.committed == len(other.threads) > 4
