"""A damaged database: what is found, what is kept aside, from what it is rebuilt, and what is said of it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from cocoon_net.dhcp.book import Book
from cocoon_net.dhcp.lease import Lease, State
from cocoon_net.engine.history import Deed
from cocoon_net.engine.journal import Journal
from cocoon_net.engine.model import Origin, Row
from cocoon_net.engine.workflow import load
from cocoon_net.errors import Damaged, StoreError
from cocoon_net.formats import lease_file
from cocoon_net.formats.lease_file import LeaseRow
from cocoon_net.locks import locked
from cocoon_net.records import Interface, Pool
from cocoon_net.recovery import keep, missed, open_sound, recall
from cocoon_net.site import Site
from cocoon_net.spec import parse
from cocoon_net.steps import STEPS
from cocoon_net.store import back_up, backup_of, open_database

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = int(NOW.timestamp())
SUBNET = IPv4Network("172.20.100.0/24")
POOL = Pool(SUBNET, SUBNET[1], (), tuple(SUBNET[i] for i in range(2, 60)), 1500)
MACS = [bytes([2, 0, 0, 0, 0, number]) for number in range(200)]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A node with a run, a ledger, a pool and leases, and a backup of all of it."""
    site = Site(tmp_path)
    database = open_database(site.database)
    journal = Journal(database)
    spec = parse(platform="volcengine", node_name="n", subnet=str(SUBNET), pool_size=58)
    run = journal.start(load("init", STEPS), spec, None, version="0", by="me", now=NOW)
    with journal.transaction():
        journal.settle(
            run.id, "enis", [Row("enis", "eni-1", Origin.CREATED, Interface(SUBNET, ("sg-1",), "eni-x"))], {}, 0, NOW
        )
    book = Book(database)
    book.put_pool(POOL, NOW)
    book.commit([bound(number) for number in range(2, 32)], [])
    database.close()
    back_up(site.database)
    return site


def bound(number: int, mac: int | None = None, ends: int = SECOND + 1000) -> Lease:
    return Lease(int(SUBNET[number]), State.BOUND, ends, MACS[number if mac is None else mac], SECOND)


def write(path: Path, at: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(data)] = data
    path.write_bytes(content)


def run_sql(path: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement, values)
    connection.close()


def rename_table(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"CREATE TABLE ledger (", b"CREATE TABLE lodger ("))


def flip_in_page(path: Path, name: str = "leases") -> None:
    """Give the root page of a table or an index a type that no page has."""
    with sqlite3.connect(path) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", [name]).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    write(path, (page - 1) * size, b"\x77")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "no database": lambda path: path.write_bytes(b"not a database" * 1000) and None,
    "a broken header": lambda path: write(path, 0, b"\xff" * 8),
    "cut in the middle": lambda path: path.write_bytes(path.read_bytes()[:20000]) and None,
    "cut to nothing": lambda path: path.write_bytes(b"") and None,
    "gone": lambda path: path.unlink(),
    "a page of rubbish": flip_in_page,
    "a table of another name": rename_table,
    "a record of an unknown type": lambda path: run_sql(path, 'UPDATE ledger SET record = \'{"is": "Intarface"}\''),
    "a record that is no JSON": lambda path: run_sql(path, "UPDATE ledger SET record = '{]'"),
    "an unknown origin": lambda path: run_sql(path, "UPDATE ledger SET origin = 'creatad'"),
    "a spec with a strange field": lambda path: run_sql(path, "UPDATE runs SET spec = '{\"subnat\": 1}'"),
    "a plan with a strange wish": lambda path: run_sql(path, "UPDATE runs SET plan = replace(plan, 'spec', 'spac')"),
    "a text that is not UTF-8": lambda path: run_sql(path, "UPDATE runs SET spec = CAST(x'ff7b7d' AS TEXT)"),
    "a lease in no state": lambda path: run_sql(path, "UPDATE leases SET state = 'bownd'"),
    "a MAC that is none": lambda path: run_sql(path, "UPDATE leases SET mac = 'zz:00'"),
    "a pool of something else": lambda path: run_sql(path, 'UPDATE pool SET record = \'{"is": "Sysctl"}\''),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_database_is_kept_aside_and_rebuilt_from_its_backup(site: Site, damage: str) -> None:
    DAMAGES[damage](site.database)
    gone = not site.database.exists()
    damaged = b"" if gone else site.database.read_bytes()
    said: list[str] = []
    database = open_sound(site, site.daemon_lock, said.append, "me")
    assert len(Book(database).leases()) == 30
    assert Journal(database).ledger()["enis", "eni-1"].record.id == "eni-x"
    (entry,) = [entry for entry in Journal(database).history.entries() if entry.what == Deed.RECOVERED]
    assert entry.by == "me" and "backup" in entry.details["source"] and entry.details["found"] in said[0]
    kept = sorted(path for path in site.state_dir.glob("cocoon-net.db.damaged-*") if path.name.endswith("Z"))
    if not gone:
        assert [path.read_bytes() for path in kept] == [damaged], "as it was found"
        assert kept[0].name in " ".join(said)
    for word in ("rebuilt from: the backup of 20", "lost: what was written after 20", "next: "):
        assert any(line.startswith(word) for line in said), said
    database.close()
    assert backup_of(site.database).exists(), "a copy of it was put in place, not the backup itself"
    again: list[str] = []
    open_sound(site, site.daemon_lock, again.append, "me").close()
    assert again == [], "mended is mended"


@pytest.mark.parametrize("damage", DAMAGES)
def test_who_only_reads_moves_nothing_and_says_what_mends_it(site: Site, damage: str) -> None:
    DAMAGES[damage](site.database)
    before = {path: path.read_bytes() for path in site.state_dir.iterdir() if "-" not in path.suffix}
    with pytest.raises(Damaged) as raised:
        database = open_database(site.database)
        Journal(database).runs(), Journal(database).ledger()
        Book(database).pool(), Book(database).leases()
    assert raised.value.exit_code == 74
    assert "cocoon-net daemon" in raised.value.hint and "docs/operations.md" in raised.value.hint
    assert {path: path.read_bytes() for path in before} == before


def test_what_no_reader_would_stumble_over_is_found_before_anybody_writes(site: Site) -> None:
    for damage in (
        lambda: flip_in_page(site.database, "operations_of_run"),
        lambda: run_sql(site.database, "DROP TRIGGER run_history_is_kept"),
    ):
        damage()
        said: list[str] = []
        open_sound(site, site.daemon_lock, said.append, "me").close()
        assert "rebuilt from: the backup" in " ".join(said), said
        for path in site.state_dir.glob("*.damaged-*"):
            path.unlink()


def test_a_backup_that_is_damaged_too_is_not_put_in_place(site: Site) -> None:
    site.database.write_bytes(b"x" * 5000)
    backup_of(site.database).write_bytes(b"y" * 5000)
    site.pool_file.write_text("{}")
    said: list[str] = []
    database = open_sound(site, site.daemon_lock, said.append, "me")
    assert Journal(database).runs() == []
    assert any(path.name.startswith("cocoon-net.db.backup.damaged-") for path in site.state_dir.iterdir())
    assert any("the backup is of no use, too" in line for line in said)
    assert any("cocoon-net init" in line and "tags" in line for line in said)
    assert not list(site.state_dir.glob(".*.tmp*")), "no copy is left lying about"


def test_beside_somebody_who_may_still_use_it_nothing_is_moved(site: Site) -> None:
    site.database.write_bytes(b"x" * 5000)
    with locked(site.daemon_lock, what="x", owner="daemon"), pytest.raises(Damaged) as raised:
        open_sound(site, site.daemon_lock, lambda line: None, "me")
    assert "daemon (pid" in raised.value.message and "systemctl stop" in raised.value.hint
    assert site.database.read_bytes() == b"x" * 5000


def test_a_newer_schema_is_refused_and_not_taken_for_damage(site: Site) -> None:
    run_sql(
        site.database, "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('cocoon_net', '9', '')"
    )
    with pytest.raises(StoreError, match="written by a newer cocoon-net") as raised:
        open_sound(site, site.daemon_lock, lambda line: None, "me")
    assert not isinstance(raised.value, Damaged)


def test_a_log_that_belongs_to_the_damaged_file_never_meets_the_backup(site: Site) -> None:
    database = open_database(site.database)
    with database.atomic():
        database.execute("UPDATE leases SET mac = '02:99:99:99:99:99'")
    log = site.database.with_name("cocoon-net.db-wal").read_bytes()
    database.close()
    site.database.write_bytes(b"x" * 5000)
    site.database.with_name("cocoon-net.db-wal").write_bytes(log)
    mended = open_sound(site, site.daemon_lock, lambda line: None, "me")
    assert {lease.mac for lease in Book(mended).leases()} == set(MACS[2:32])


# The backup


def test_a_backup_is_private_whole_by_itself_and_replaced_as_a_whole(site: Site) -> None:
    backup = backup_of(site.database)
    assert backup.stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(f"file:{backup}?immutable=1", uri=True) as connection:
        assert connection.execute("SELECT count(*) FROM leases").fetchone() == (30,)
    assert sorted(path.name for path in site.state_dir.iterdir()) == ["cocoon-net.db", "cocoon-net.db.backup"]


def test_a_backup_whose_writer_was_killed_in_the_middle_is_swept_by_the_next_command(site: Site) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait(10)
    half = site.state_dir / f".{backup_of(site.database).name}.{dead.pid}-0.tmp"
    for path in (half, half.with_name(f"{half.name}-journal")):
        path.write_text("half")
    open_sound(site, site.daemon_lock, print, "me").close()
    assert not list(site.state_dir.glob(".*tmp*"))


def test_a_damaged_database_does_not_take_its_backups_place(site: Site) -> None:
    good = backup_of(site.database).read_bytes()
    flip_in_page(site.database)
    with pytest.raises(Damaged):
        back_up(site.database)
    assert backup_of(site.database).read_bytes() == good
    said: list[str] = []
    keep(site.database, said.append)
    assert "no new backup" in said[0]


# Leases


def test_what_the_file_knows_and_the_book_does_not_was_lost_by_the_book() -> None:
    table = {lease.address: lease for lease in (bound(2), Lease(int(SUBNET[3]), State.FREE, 0, MACS[3], SECOND))}
    rows = [
        LeaseRow(MACS[2].hex(":"), SUBNET[2], SECOND + 5000),  # renewed since
        LeaseRow(MACS[3].hex(":"), SUBNET[3], SECOND + 5000),  # given back, says the book
        LeaseRow(MACS[4].hex(":"), SUBNET[4], SECOND + 5000),  # unknown to it
        LeaseRow(MACS[5].hex(":"), SUBNET[5], SECOND - 1),  # over
    ]
    found = dict(missed(table, rows, SECOND, trust=False))
    assert set(found) == {int(SUBNET[4])}
    found = dict(missed(table, rows, SECOND, trust=True))
    assert {a: lease.ends for a, lease in found.items()} == {int(SUBNET[n]): SECOND + 5000 for n in (2, 3, 4)}


def test_after_a_rebuild_an_address_that_went_to_another_is_that_ones() -> None:
    table = {lease.address: lease for lease in (bound(2), bound(3))}
    rows = [LeaseRow(MACS[2].hex(":"), SUBNET[3], SECOND + 5000), LeaseRow(MACS[9].hex(":"), SUBNET[2], SECOND + 5000)]
    assert dict(missed(table, rows, SECOND, trust=False)) == {}
    found = dict(missed(table, rows, SECOND, trust=True))
    assert {a: (lease.mac, lease.state) for a, lease in found.items()} == {
        int(SUBNET[2]): (MACS[9], State.BOUND),
        int(SUBNET[3]): (MACS[2], State.BOUND),
    }


def test_a_lease_that_only_the_file_knows_is_recalled_at_the_next_start(site: Site) -> None:
    leases = [*(bound(number) for number in range(2, 32)), bound(40)]
    rows = [lease_file.row(one.mac.hex(":"), str(IPv4Address(one.address)), one.ends) for one in leases]
    site.lease_file.write_bytes(lease_file.join(rows))
    database = open_database(site.database)
    (line,) = recall(site, database, POOL, SECOND)
    assert line == f"172.20.100.40 is bound, for {MACS[40].hex(':')}: recalled"
    assert {lease.address for lease in Book(database).leases()} == {lease.address for lease in leases}
    assert recall(site, database, POOL, SECOND) == []


def test_a_file_of_leases_that_is_damaged_is_told_of_and_harms_nobody(site: Site) -> None:
    site.lease_file.write_text('[{"mac": ')
    database = open_database(site.database)
    (line,) = recall(site, database, POOL, SECOND)
    assert "is of no use" in line or "cannot be used" in line
    assert len(Book(database).leases()) == 30
    assert json.loads(Journal(database).note("rebuilt") or "{}") == {}


@pytest.mark.parametrize(
    ("flip", "seen"),
    [
        ("mac = '02:00:00:00:00:47'", False),
        ("hostname = 'vl'", False),
        (f"ends = {SECOND + 900}", False),
        (f"address = {int(SUBNET[59])}", True),
    ],
)
def test_what_a_plausible_flipped_bit_of_a_lease_costs_is_as_documented(site: Site, flip: str, seen: bool) -> None:
    """docs/operations.md: rows have no checksums; only an address that is in nobody's row any more is missed."""
    rows = [lease_file.row(MACS[n].hex(":"), str(SUBNET[n]), SECOND + 1000) for n in range(2, 32)]
    site.lease_file.write_bytes(lease_file.join(rows))
    run_sql(site.database, f"UPDATE leases SET {flip} WHERE address = ?", int(SUBNET[7]))
    database = open_sound(site, site.daemon_lock, print, "test")
    told = [f"{SUBNET[7]} is quarantined, for somebody uses it: recalled"] if seen else []
    assert recall(site, database, POOL, SECOND) == told
