"""Who holds a lock, and what becomes of it when he dies, leaves a child behind, hangs, or wakes up too late."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cocoon_net import locks
from cocoon_net.errors import Locked, SpecError, StoreError
from cocoon_net.lab.patience import eventually
from cocoon_net.locks import Holder, holder, locked, unlock

HOLD = """
import os, sys, time
from pathlib import Path
from cocoon_net.locks import locked
owner = "audit --repair" if "audit" in sys.argv else "init"
with locked(Path(sys.argv[1]), what="init cannot start", owner=owner) as lock:
    if "leave a child" in sys.argv and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    sys.stdin.readline()
    lock.require()
    print("acted", flush=True)
"""


@contextmanager
def another(path: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock, and acts once it is told to."""
    pipe = subprocess.PIPE
    line = [sys.executable, "-c", HOLD, str(path), *words]
    with subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.lock"


def test_one_who_lives_is_named_with_the_ways_out(path: Path) -> None:
    with another(path) as process:
        says = r"x: init \(pid \d+, since 20.*Z, lock \w{6}\) holds .*run.lock"
        with pytest.raises(Locked, match=says) as raised, locked(path, what="x", owner="y"):
            pass
        found = holder(path)
        assert found is not None and found.pid == process.pid and "-c" in found.command
        assert raised.value.exit_code == os.EX_TEMPFAIL
        assert f"kill {process.pid}" in raised.value.hint
        assert f"cocoon-net workflow unlock {found.id}" in raised.value.hint


def test_an_audit_is_waited_for_and_nobody_else(path: Path) -> None:
    with another(path, "audit") as process:
        said: list[str] = []

        def end(line: str) -> None:
            said.append(line)
            assert process.stdin is not None
            process.stdin.write("act\n")
            process.stdin.flush()

        with locked(path, what="x", owner="init", say=end, after_audit=True) as lock:
            lock.require()
        assert len(said) == 1 and said[0].startswith(f"waiting for audit --repair (pid {process.pid}, ")
    with another(path, "audit"), pytest.raises(Locked), locked(path, what="x", owner="daemon"):
        pass
    with another(path), pytest.raises(Locked), locked(path, what="x", owner="init", after_audit=True):
        pass


def test_an_audit_that_does_not_end_is_not_waited_for_forever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "AUDIT_WITHIN", 0.2)
    refused = pytest.raises(Locked, match="audit --repair")
    with another(path, "audit"), refused, locked(path, what="x", owner="init", after_audit=True):
        pass


def test_one_who_was_killed_needs_nobody_and_is_told_of(path: Path) -> None:
    with another(path) as process:
        process.kill()
        process.wait()
        assert holder(path) is None
        said: list[str] = []
        with locked(path, what="x", owner="y", say=said.append) as lock:
            assert holder(path) == lock.holder
        assert path.read_text() == ""
    assert len(said) == 1 and f"init (pid {process.pid}, since" in said[0] and "died" in said[0]


def test_a_child_of_the_dead_that_still_has_the_descriptor_keeps_nobody_out(path: Path) -> None:
    with another(path, "leave a child") as process:
        process.kill()
        process.wait()
        assert not locks._try(os.open(path, os.O_RDONLY), locks.fcntl.LOCK_SH), "the child does hold it"
        said: list[str] = []
        with locked(path, what="x", owner="y", say=said.append) as lock:
            lock.require()
            assert json.loads(path.read_text())["owner"] == "y"
            with pytest.raises(Locked), locked(path, what="x", owner="z"):
                pass
        assert "is dead, and only a child of it holds run.lock" in said[0]


@pytest.mark.parametrize(
    ("change", "dead"),
    [
        ({}, False),
        ({"boot": "another", "started": 1}, False),
        ({"started": 1}, True),
        ({"pid": 4_194_305}, True),
        ({"pid": 4_194_305, "space": "pid:[1]"}, False),
        ({"pid": 4_194_305, "boot": ""}, False),
    ],
    ids=["itself", "of another boot id", "its number given to another", "gone", "in another container", "of 0.0.x"],
)
def test_unknown_is_not_dead(path: Path, change: dict[str, str | int], dead: bool) -> None:
    with locked(path, what="x", owner="y"):
        line = json.loads(path.read_text()) | change
    assert Holder(**line).dead is dead


def test_one_who_lives_and_sees_another_boot_id_is_not_robbed(path: Path) -> None:
    with another(path) as process:
        line = json.loads(path.read_text()) | {"boot": "that of its container"}
        path.write_text(json.dumps(line) + "\n")
        with pytest.raises(Locked, match=f"pid {process.pid}"), locked(path, what="x", owner="y"):
            pass
        assert holder(path) is not None
        out, _ = process.communicate("act\n", timeout=30)
        assert "acted" in out


def test_a_corpse_that_nobody_buried_is_dead(path: Path) -> None:
    with another(path) as process:
        found = holder(path)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert found is not None and found.dead


def test_one_that_hangs_loses_its_lock_and_does_nothing_more_when_it_wakes_up(path: Path) -> None:
    with another(path) as process:
        process.send_signal(signal.SIGSTOP)
        found = holder(path)
        assert found is not None
        for wrong in ("", "zzzzzz", found.id[:3]):
            with pytest.raises(SpecError, match=f"not the one that is held: that is init .pid {process.pid}"):
                unlock(path, wrong, by="me")
        assert holder(path) == found, "a wrong id takes nothing away"
        assert unlock(path, found.id, by="me") == found
        with locked(path, what="x", owner="y") as lock:
            process.send_signal(signal.SIGCONT)
            out, err = process.communicate("act\n", timeout=30)
            assert "acted" not in out
            assert "the lock of this init was taken away by me" in err
            lock.require()
            assert holder(path) == lock.holder, "what it gave back was not ours"


def test_a_lock_that_nobody_holds_is_not_to_be_taken_away(path: Path) -> None:
    with pytest.raises(SpecError, match="nobody holds"):
        unlock(path, "abc", by="me")
    path.write_text("")
    with pytest.raises(SpecError, match="nobody holds"):
        unlock(path, "abc", by="me")
    assert path.exists()


def test_of_many_that_find_the_same_dead_one_exactly_one_gets_its_lock(path: Path) -> None:
    with another(path, "leave a child") as process:
        process.kill()
        process.wait()
        together, got, refused = threading.Barrier(8), list[str](), list[str]()
        done = threading.Event()

        def try_it() -> None:
            together.wait()
            try:
                with locked(path, what="x", owner="y"):
                    got.append("")
                    done.wait(10)
            except Locked as error:
                refused.append(error.message)

        threads = [threading.Thread(target=try_it) for _ in range(8)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(got) + len(refused) == 8)
        done.set()
        for thread in threads:
            thread.join()
    assert (len(got), len(refused)) == (1, 7), refused


def test_a_line_of_an_older_version_and_a_scribble_are_read(path: Path) -> None:
    for text, says in (('{"owner": "init, pid 7", "pid": 7}', "init, pid 7 (pid 7)"), ("\0scribble", "scribble")):
        path.write_text(text)
        with path.open() as file:
            locks.fcntl.flock(file, locks.fcntl.LOCK_EX)
            found = holder(path)
            assert found is not None and says in str(found)
            with pytest.raises(Locked), locked(path, what="x", owner="y"):
                pass


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(StoreError, match="cannot be written"),
        locked(tmp_path / "file" / "run.lock", what="x", owner="y"),
    ):
        pass
