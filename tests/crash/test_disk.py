"""The state directory on a disk that is full, and on one that turns read-only: in a mount namespace of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.slow]

SPEC = ("--platform", "volcengine", "--node-name", "cocoon-pool", "--subnet", "172.20.100.0/24", "--pool-size", "40")
FULL = (71, 74)
"""71 where it was ``pool.json`` that did not fit: a file of the node to the engine, like the conflist."""


class Disk:
    """A small disk of its own for the state directory of node1, seen by nobody outside."""

    def __init__(self, scene: Any) -> None:
        self.scene = scene
        self.path = Path(scene.directory) / scene.name / "node1" / "state"
        self.path.mkdir(exist_ok=True)
        self._holder = subprocess.Popen(["unshare", "-m", "sleep", "infinity"])
        while self._in("true").returncode or not self._apart():
            assert self._holder.poll() is None
        self.mounted = False

    def _apart(self) -> bool:
        ours, theirs = (Path(f"/proc/{pid}/ns/mnt").readlink() for pid in ("self", self._holder.pid))
        return ours != theirs

    def _in(self, *words: str) -> subprocess.CompletedProcess[str]:
        line = ["nsenter", "-t", str(self._holder.pid), "-m", *words]
        return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)

    def run(self, *words: str) -> str:
        done = self._in(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def size(self, kilobytes: int) -> None:
        """Make it so large, or larger; a first time it is empty."""
        again = "remount," if self.mounted else ""
        self.run("mount", "-t", "tmpfs", "-o", f"{again}size={kilobytes}k,mode=750", "state", str(self.path))
        self.mounted = True

    def fill(self, spare: int) -> None:
        """Take all its room but ``spare`` kilobytes; 0 bytes of rubbish give it back."""
        room = int(self.run("df", "--output=avail", "-k", str(self.path)).split()[-1])
        self.run("sh", "-c", f"head -c {max(0, room - spare) * 1024} /dev/zero > {self.path}/rubbish")

    def empty(self) -> None:
        self.run("rm", "-f", f"{self.path}/rubbish")

    def product(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run cocoon-net as on node1, on this disk."""
        return subprocess.run(
            self._line(*words), capture_output=True, text=True, timeout=120, check=False, env=self.scene.environment()
        )

    def ext4(self, image: Path) -> str:
        """Make it an ext4 that turns read-only at the first error; returns its device's name."""
        if not image.exists():
            image.write_bytes(b"")
            os.truncate(image, 16 << 20)
            self.run("mkfs.ext4", "-q", str(image))
        self.run("mount", "-o", "loop,errors=remount-ro", str(image), str(self.path))
        return Path(self.run("findmnt", "-no", "SOURCE", str(self.path)).strip()).name

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Run cocoon-net as on node1, on this disk, beside the test."""
        return subprocess.Popen(self._line(*words), env=self.scene.environment(), stderr=subprocess.PIPE, text=True)

    def _line(self, *words: str) -> list[str]:
        python = [sys.executable, "-m", "cocoon_net"]
        inside = [*python, "lab", "exec", "--name", self.scene.name, "node1", "--", *python, *words]
        return ["nsenter", "-t", str(self._holder.pid), "-m", *inside]

    def close(self) -> None:
        self._in("umount", str(self.path))
        self._holder.kill()
        self._holder.wait()


@pytest.fixture
def disk(scene: Any) -> Iterator[Disk]:
    disk = Disk(scene)
    yield disk
    disk.close()


@pytest.fixture(scope="module")
def before(scene: Any) -> Any:
    return world(scene)


@pytest.fixture(scope="module")
def provisioned(scene: Any, before: Any) -> Any:
    scene.product("init", *SPEC)
    found = world(scene)
    scene.product("teardown")
    for path in (Path(scene.directory) / scene.name / "node1" / "state").iterdir():
        path.unlink()
    return found


def world(scene: Any) -> dict[str, Any]:
    """Everything but the files of the state directory, which is on a disk of its own here."""
    found: dict[str, Any] = scene.world()
    found["node"]["files"] = {k: v for k, v in found["node"]["files"].items() if not k.startswith("state/")}
    return found


SIZES = [int(word) for word in os.environ.get("DISK_SIZES", "4 12 36 100 160 232").split()]


@pytest.mark.parametrize("kilobytes", SIZES)
def test_an_init_on_a_full_disk_goes_on_when_there_is_room(
    scene: Any, before: Any, provisioned: Any, disk: Disk, kilobytes: int
) -> None:
    disk.size(kilobytes)
    first = disk.product("init", *SPEC)
    assert first.returncode in (0, *FULL), first.stderr
    assert "Traceback" not in first.stderr
    if first.returncode:
        assert "hint:" in first.stderr and ("room" in first.stderr or "df -h" in first.stderr)
        for name in ("pool.json", "cocoon-net.db.backup"):
            assert disk.run("sh", "-c", f"test ! -e {disk.path}/{name} || test -s {disk.path}/{name}") == ""
    disk.size(4000)
    again = disk.product("init", *SPEC)
    assert again.returncode == 0, again.stderr
    assert world(scene) == provisioned
    json.loads(disk.run("cat", f"{disk.path}/pool.json"))
    assert disk.product("teardown").returncode == 0
    assert world(scene) == before


SPARE = [int(word) for word in os.environ.get("DISK_SPARE", "0 8 24 60").split()]


@pytest.mark.parametrize("spare", SPARE)
def test_a_teardown_on_a_full_disk_goes_on_when_there_is_room(
    scene: Any, before: Any, provisioned: Any, disk: Disk, spare: int
) -> None:
    disk.size(4000)
    done = disk.product("init", *SPEC)
    assert done.returncode == 0, done.stderr
    disk.fill(spare)
    first = disk.product("teardown")
    assert first.returncode in (0, *FULL), first.stderr
    assert "Traceback" not in first.stderr
    disk.empty()
    if first.returncode:
        assert disk.product("teardown").returncode == 0
    assert world(scene) == before


def test_on_a_read_only_disk_nothing_begins_and_who_only_reads_goes_on(
    scene: Any, before: Any, provisioned: Any, disk: Disk
) -> None:
    disk.size(4000)
    assert disk.product("init", *SPEC).returncode == 0
    disk.run("mount", "-o", "remount,ro", str(disk.path))
    for words in (("init", *SPEC), ("teardown",), ("daemon",)):
        refused = disk.product(*words)
        assert refused.returncode == 74, (words, refused.stderr)
        assert "Read-only file system" in refused.stderr and "Traceback" not in refused.stderr
    assert disk.product("workflow", "show").returncode == 0
    assert disk.product("status").returncode == 0
    assert world(scene) == provisioned
    disk.run("mount", "-o", "remount,rw", str(disk.path))
    assert disk.product("teardown").returncode == 0
    assert world(scene) == before


def test_a_disk_that_turns_read_only_in_the_middle_parks_the_run(
    scene: Any, before: Any, provisioned: Any, disk: Disk, tmp_path: Path
) -> None:
    """As ext4 does it by itself when it finds an error (``errors=remount-ro``): files that are open stay open."""
    device = disk.ext4(tmp_path / "disk")
    scene.admin.set_faults({"api-latency": "0.2"})
    try:
        since = max((call["seq"] for call in scene.admin.calls()), default=0)
        with disk.begin("init", *SPEC) as init:
            while not any("CreateNetworkInterface" in call["action"] for call in scene.admin.calls(since)):
                assert init.poll() is None
                time.sleep(0.02)
            Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")
            _, said = init.communicate(timeout=60)
    finally:
        scene.admin.set_faults({"api-latency": ""})
    assert init.returncode == 74, said
    assert "hint:" in said and "Traceback" not in said
    assert disk.product("init", *SPEC).returncode == 74
    disk.run("umount", str(disk.path))
    disk.run("sh", "-c", f"e2fsck -fy {tmp_path}/disk || test $? -le 2")
    disk.ext4(tmp_path / "disk")
    again = disk.product("run", "init", "--resume")
    assert again.returncode == 0, again.stderr
    assert world(scene) == provisioned
    assert disk.product("teardown").returncode == 0
    assert world(scene) == before


BOOK = """
import os, sys
from pathlib import Path
from cocoon_net.dhcp.book import Book, Note
from cocoon_net.dhcp.lease import Lease, State
from cocoon_net.dhcp.projection import LeaseFile
from cocoon_net.errors import CocoonError, StoreError
from cocoon_net.formats import lease_file
from cocoon_net.node.files import write_atomic
from cocoon_net.store import back_up, open_database

home = Path(sys.argv[1])
leases = [Lease(0x0A000000 + i, State.BOUND, 1_900_000_000, (i + 2**41).to_bytes(6), 1) for i in range(900)]
database = open_database(home / "cocoon-net.db")
book, file = Book(database), LeaseFile(home / "leases.json")
book.commit(leases[:100], [])
file.load(leases[:100])
write_atomic(home / "pool.json", b"x" * 3000)
back_up(home / "cocoon-net.db")
kept, failures, stale = leases[:100], 0, 0
room = os.statvfs(home)
for spare in range(0, 64):
    rubbish = os.statvfs(home).f_bavail - spare
    (home / "rubbish").write_bytes(b"x" * 4096 * max(0, rubbish))
    for _ in range(3):
        more = leases[len(kept):len(kept) + 4]
        try:
            book.commit(more, [Note(1, one.address, "", "bound", "x") for one in more])
        except StoreError:
            failures += 1
        else:
            kept = kept + more
            file.update(more)
        written, complaints = lease_file.parse((home / "leases.json").read_text())
        assert not complaints and len(written) <= len(kept)
        try:
            write_atomic(home / "pool.json", b"y" * 30000)
        except CocoonError:
            pass
        assert (home / "pool.json").read_bytes() in (b"x" * 3000, b"y" * 30000)
        try:
            back_up(home / "cocoon-net.db")
        except StoreError:
            stale += 1
    (home / "rubbish").unlink()
    assert len(book.leases()) == len(kept)
book.commit(leases[len(kept):], [])
file.update(leases)
back_up(home / "cocoon-net.db")
assert len(Book(open_database(home / "cocoon-net.db.backup", check=True)).leases()) == 900
assert len(lease_file.parse((home / "leases.json").read_text())[0]) == 900
assert not list(home.glob(".*")), list(home.glob(".*"))
print(failures, file.failures, stale)
"""


def test_the_daemons_book_its_backup_and_its_files_on_a_full_disk_are_old_or_new_and_never_a_part(
    disk: Disk, tmp_path: Path
) -> None:
    disk.size(3000)
    script = tmp_path / "book.py"
    script.write_text(BOOK)
    failures, stale, backups = map(int, disk.run(sys.executable, str(script), str(disk.path)).split())
    assert failures > 5 and stale > 5 and backups > 5, "it was full often enough to mean something"
