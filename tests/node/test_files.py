"""Files are replaced as a whole, whoever reads, fails or dies meanwhile."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.engine.model import Change, Verb
from cocoon_net.errors import InvariantError, NodeError, Refused
from cocoon_net.node.files import Files, remove, sweep, write_atomic
from cocoon_net.records import File

NAME = "30-cocoon-dhcp.conflist"


def test_where_a_directory_stands_nothing_is_written_and_nothing_left_behind(tmp_path: Path) -> None:
    (tmp_path / "pool.json").mkdir()
    with pytest.raises(NodeError, match=r"cannot write .*pool\.json: Is a directory"):
        write_atomic(tmp_path / "pool.json", b"{}")
    assert [path.name for path in tmp_path.iterdir()] == ["pool.json"]
    with pytest.raises(NodeError, match=r"cannot read .*pool\.json: Is a directory"):
        Files({"pool.json": tmp_path / "pool.json"}).observe(_none())


def test_a_parent_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.d").write_text("")
    with pytest.raises(NodeError, match=r"cannot write .*net\.d/x"):
        write_atomic(tmp_path / "net.d" / "x", b"")


@pytest.mark.root
def test_without_rights_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    try:
        subprocess.run(["chattr", "+i", tmp_path], check=True, capture_output=True, timeout=10)
    except subprocess.CalledProcessError:
        pytest.skip("this file system has no immutable flag")
    try:
        with pytest.raises(Refused, match=r"cannot write .*/x: Operation not permitted") as refused:
            write_atomic(path, b"new")
        with pytest.raises(Refused, match="cannot remove"):
            remove(path)
    finally:
        subprocess.run(["chattr", "-i", tmp_path], check=True, timeout=10)
    assert "lsattr" in refused.value.hint and path.read_text() == "old"


def test_a_file_gets_its_content_and_mode_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x"
    before = os.umask(0o077)
    try:
        write_atomic(path, b"one", 0o644, fsync=False)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"one" and path.stat().st_mode & 0o777 == 0o644
    assert path.parent.stat().st_mode & 0o027 == 0


def test_every_rewrite_has_a_later_time_even_when_the_clock_stands_or_goes_back(tmp_path: Path) -> None:
    path = tmp_path / "leases.json"
    write_atomic(path, b"[]")
    os.utime(path, ns=(0, (2**33) * 1_000_000_000))
    times = [path.stat().st_mtime_ns]
    for _ in range(20):
        write_atomic(path, b"[]", fsync=False)
        times.append(path.stat().st_mtime_ns)
    assert times == sorted(set(times))


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path, texts, stop = tmp_path / "leases.json", (b"a" * 300_000, b"b" * 200_000), threading.Event()
    write_atomic(path, texts[0])

    def rewrite() -> None:
        while not stop.is_set():
            for text in texts:
                write_atomic(path, text, fsync=False)

    writers = [threading.Thread(target=rewrite) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        seen = {path.read_bytes() for _ in range(200)}
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert seen <= set(texts)
    assert [path.name for path in tmp_path.iterdir()] == ["leases.json"]


def test_what_a_killed_writer_left_is_swept_and_a_living_one_s_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait(10)
    names = {f".{NAME}.{dead.pid}-0.tmp", f".{NAME}.{os.getpid()}-0.tmp", ".other.1-0.tmp", f"{NAME}.bak"}
    for name in names:
        (tmp_path / name).write_text("half")
    sweep(tmp_path / NAME)
    assert {path.name for path in tmp_path.iterdir()} == names - {f".{NAME}.{dead.pid}-0.tmp"}
    sweep(tmp_path / "no-such-directory" / NAME)


def test_no_temporary_name_is_one_that_cocoon_would_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    real = os.open

    def spy(path: Any, *rest: Any, **named: Any) -> int:
        names.append(Path(path).name)
        return real(path, *rest, **named)

    monkeypatch.setattr(os, "open", spy)
    write_atomic(tmp_path / NAME, b"{}", fsync=False)
    assert names and all(name.startswith(".") and name.endswith(".tmp") for name in names)


def test_a_file_is_made_changed_and_removed(
    tmp_path: Path, context: Any, converge: Callable[..., list[Change]]
) -> None:
    place = tmp_path / "net.d" / NAME
    files = Files({NAME: place}, ours=True)
    assert files.observe(context()) == {}
    want = {NAME: File(NAME, "{}\n")}
    assert [change.verb for change in converge(files, context(), "cni", want)] == [Verb.CREATE]
    place.chmod(0o600)
    assert [change.verb for change in converge(files, context(), "cni", want)] == [Verb.UPDATE]
    place.write_bytes(b"\xff broken")
    seen = files.observe(context())[NAME]
    assert isinstance(seen, File) and seen.ours is True
    assert [change.verb for change in converge(files, context(), "cni", want)] == [Verb.UPDATE]
    converge(files, context(), "cni", {NAME: seen})
    assert place.read_bytes() == b"\xff broken"
    assert [change.verb for change in converge(files, context(), "cni", {}, prune=True)] == [Verb.DELETE]
    remove(place)
    remove(tmp_path / "never" / "there")


def test_an_unknown_key_is_a_bug(context: Any) -> None:
    with pytest.raises(InvariantError, match="there is no file 'x'"):
        Files({}).apply(Change("cni", "x", Verb.DELETE, None, None), "t", context())


def _none() -> Any:
    return None


def test_pieces_are_one_file_however_many_and_however_little_the_disk_takes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = [b"%d\n" % number for number in range(3_000)]
    writev = os.writev
    for takes in (10_000, 100, 1):
        monkeypatch.setattr(os, "writev", lambda descriptor, some, takes=takes: writev(descriptor, some[:takes]))
        write_atomic(tmp_path / "pieces", pieces)
        assert (tmp_path / "pieces").read_bytes() == b"".join(pieces)
