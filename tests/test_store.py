"""The database: what can go wrong with a file, and what is promised of it."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cocoon_net import store
from cocoon_net.errors import StoreError
from cocoon_net.schema import MIGRATIONS
from cocoon_net.store import open_copy, open_database, writing


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written") as raised:
        open_database(tmp_path / "file" / "cocoon-net.db")
    assert "--state-dir" in raised.value.hint


def test_a_file_that_is_no_database_is_kept_and_named(tmp_path: Path) -> None:
    path = tmp_path / "cocoon-net.db"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match="cannot be used"):
        open_database(path)
    assert path.read_bytes() == b"not a database" * 1000


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cocoon-net.db"
    open_database(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('cocoon_net', '9999_future', '')"
        )
    with pytest.raises(StoreError, match="written by a newer cocoon-net: it has 9999_future"):
        open_database(path)


def test_the_database_is_private_durable_and_migrated(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cocoon-net.db"
    database = open_database(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.execute("PRAGMA synchronous").fetchone() == (2,)
    applied = [row["name"] for row in database.query("SELECT name FROM _sqlite_migrations ORDER BY id")]
    assert applied == list(MIGRATIONS)
    database.close()
    open_database(path).close()


def test_a_process_that_opens_twice_keeps_its_log_when_another_comes_and_goes(tmp_path: Path) -> None:
    """POSIX locks die with any descriptor of the file (sqlite.org/howtocorrupt.html 2.2), and with them our log."""
    path = tmp_path / "cocoon-net.db"
    one, two = open_database(path), open_database(path)
    one.execute("INSERT INTO meta VALUES ('lineage', 'a')")
    one.conn.commit()
    code = "import sys, pathlib; from cocoon_net.store import open_database as o; o(pathlib.Path(sys.argv[1])).close()"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=30)
    assert path.with_name("cocoon-net.db-wal").exists(), "the other one took itself for the last user"
    two.execute("INSERT INTO meta VALUES ('b', 'c')")
    two.conn.commit()
    two.close()
    one.close()
    again = open_database(path)
    assert [row["name"] for row in again.query("SELECT name FROM meta ORDER BY name")] == ["b", "lineage"]


def test_who_reads_before_it_writes_waits_for_the_other_writer_and_is_not_refused(tmp_path: Path) -> None:
    """As where a daemon notes that it serves while a guest's lease is committed by another connection."""
    path = tmp_path / "node.db"
    one, two = open_database(path), open_database(path)
    one.execute("BEGIN IMMEDIATE")
    one.execute("INSERT INTO meta VALUES ('served', 'no')")
    late = threading.Timer(0.2, one.conn.commit)
    late.start()
    with writing(two):
        assert two.execute("SELECT value FROM meta WHERE name = 'served'").fetchone() == ("no",)
        with writing(two):
            two.execute("UPDATE meta SET value = 'yes'")
        with pytest.raises(sqlite3.IntegrityError), writing(two):
            two.execute("UPDATE meta SET value = 'perhaps'")
            two.execute("INSERT INTO meta VALUES ('served', 'again')")
    late.join()
    assert one.execute("SELECT value FROM meta WHERE name = 'served'").fetchone() == ("yes",)
    with pytest.raises(KeyError), writing(two):
        two.execute("UPDATE meta SET value = 'no'")
        raise KeyError
    assert one.execute("SELECT value FROM meta WHERE name = 'served'").fetchone() == ("yes",)
    two.close()
    one.close()


def test_a_copy_is_read_without_a_trace_and_what_is_written_to_it_stays_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    database = open_database(path)
    database.execute("INSERT INTO meta VALUES ('a', 'logged')")
    database.conn.commit()
    (row,) = open_copy(path).query("SELECT value FROM meta")
    assert row["value"] == "logged", "what only the log holds, too"
    database.close()
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    copy = open_copy(path)
    copy.execute("DELETE FROM meta")
    copy.conn.commit()
    copy.close()
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_a_copy_of_an_older_database_is_migrated_in_memory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "node.db"
    with monkeypatch.context() as older:
        older.setattr(store, "MIGRATIONS", {"0001_engine": MIGRATIONS["0001_engine"]})
        open_database(path).close()
    copy = open_copy(path)
    assert list(copy.query("SELECT * FROM leases")) == []
    assert [each.name for each in tmp_path.iterdir()] == ["node.db"], "no copy of the old one beside it"


def test_a_copy_of_a_damaged_database_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 8000)
    with pytest.raises(StoreError, match="cannot be used"):
        open_copy(path)
