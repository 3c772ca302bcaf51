"""When cycles are searched for: not while the daemon comes up, and never again in what was there when it served."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue

import pytest

from cocoon_net.audit.finding import Pass
from cocoon_net.site import Site
from cocoon_net.store import open_database
from cocoon_net.supervisor import collector
from cocoon_net.supervisor.daemon import DaemonOptions
from cocoon_net.supervisor.service import Audited, Order, Service, Stop
from tests.supervisor.test_keeper import POOL

_PINNED = """
from cocoon_net.supervisor import collector
def resident(): return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0])
some = [bytearray(60_000) for _ in range(1_000)]
del some[:-1]  # the last one lies on top of what is free
before = resident()
collector.release()
print(before - resident())
"""

_THREADS = """
import ctypes, os, tempfile, threading
from cocoon_net.supervisor import collector
def work():
    kept = [bytearray(5_000) for _ in range(100)]
    together.wait()
    together.wait()
def heaps():
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    with tempfile.NamedTemporaryFile() as file:
        stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
        libc.malloc_info(0, stream)
        libc.fclose(stream)
        return file.read().count(b"<heap nr=")
with collector.resting():
    together = threading.Barrier(9)
    threads = [threading.Thread(target=work) for _ in range(8)]
    for one in threads: one.start()
    together.wait()
    print(heaps())
    together.wait()
"""


def test_nothing_is_searched_while_the_daemon_comes_up() -> None:
    before = gc.get_threshold()
    with collector.resting():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_threshold() == before


def test_what_is_there_when_it_serves_is_not_searched_again() -> None:
    with collector.resting():
        here: list[object] = []
        here.append(here)
        collector.settle()
        assert gc.isenabled() and gc.get_threshold() == collector.SELDOM
        assert not any(one is here for one in gc.get_objects()) and gc.get_freeze_count()
    assert not gc.get_freeze_count()


def test_what_comes_later_is_found() -> None:
    class Node:
        """Refers to itself."""

        itself: object = None

    with collector.resting():
        collector.settle()
        gc.disable()
        node = Node()
        node.itself = node
        del node
        assert any(isinstance(one, Node) for one in gc.get_objects())
        collector.collect()
        assert not any(isinstance(one, Node) for one in gc.get_objects())


def test_what_is_free_below_something_in_use_goes_back_to_the_kernel() -> None:
    done = subprocess.run([sys.executable, "-c", _PINNED], capture_output=True, text=True, timeout=30, check=True)
    assert int(done.stdout) > 40_000, "KiB, of 60,000"


def test_threads_share_two_heaps() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    done = subprocess.run(
        [sys.executable, "-c", _THREADS], capture_output=True, text=True, timeout=30, check=True, env=environment
    )
    assert int(done.stdout) <= 2


def test_what_is_young_is_searched_before_it_is_given_back() -> None:
    with collector.resting():
        collector.settle()
        gc.disable()
        young: set[int] = set()
        gone = weakref.ref(young)
        ring: list[object] = [young]
        ring.append(ring)
        del ring, young
        assert gone() is not None
        collector.release()
        assert gone() is None


def test_each_audit_ends_with_giving_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path / "state", tmp_path / "cni", tmp_path / "run")
    site.state_dir.mkdir()
    given: list[int] = []
    monkeypatch.setattr(collector, "release", lambda: given.append(1))
    orders: SimpleQueue[Order] = SimpleQueue()
    with closing(open_database(site.database)) as database:
        service = Service(site, DaemonOptions(), database, POOL, orders)
        service._life.reconcile()
        service._life.serve("")
        orders.put(Audited(Pass(datetime.now(UTC), 0.1, frozenset(), (), {})))
        orders.put(Stop("SIGTERM"))
        assert service._obey() == "SIGTERM"
    assert given == [1]


def test_a_daemon_that_serves_has_cycles_searched_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path / "state", tmp_path / "cni", tmp_path / "run")
    site.state_dir.mkdir()
    orders: SimpleQueue[Order] = SimpleQueue()
    with closing(open_database(site.database)) as database, collector.resting():
        service = Service(site, DaemonOptions(), database, POOL, orders)
        for coming_up in ("_reconcile", "_open"):
            monkeypatch.setattr(service, coming_up, lambda parts: None)
        assert not gc.isenabled()
        orders.put(Stop("SIGTERM"))
        service.live()
        assert gc.isenabled() and gc.get_freeze_count()
