"""How the parts of the service are put together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from cocoon_net.dhcp import server
from cocoon_net.dhcp.book import Book
from cocoon_net.engine.model import Context
from cocoon_net.site import Site
from cocoon_net.spec import parse
from cocoon_net.store import open_database
from cocoon_net.supervisor import collector
from cocoon_net.supervisor import service as module
from cocoon_net.supervisor.daemon import DaemonOptions
from cocoon_net.supervisor.service import Service
from cocoon_net.supervisor.survey import Survey
from cocoon_net.supervisor.timetable import timetable
from tests.supervisor.test_keeper import POOL


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    site = Site(tmp_path / "state", tmp_path / "cni", tmp_path / "run")
    site.state_dir.mkdir()
    with closing(open_database(site.database)) as database:
        yield Service(site, DaemonOptions(), database, POOL, SimpleQueue())


def test_a_promise_waits_a_second_for_another_writer_and_everybody_else_ten(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(database: Any) -> int:
        return int(database.execute("PRAGMA busy_timeout").fetchone()[0])

    class Enough(Exception):
        pass

    def serve(book: Book, *places: object, **how: object) -> None:
        assert waits(book._connection) == 1_000
        raise Enough

    monkeypatch.setattr(server, "Server", serve)
    with contextlib.ExitStack() as parts, pytest.raises(Enough):
        service._open_dhcp(parts)
    assert Book(service._database).leases() == [] and waits(service._database) == 10_000


@pytest.mark.parametrize(("audits", "every"), [(180.0, 3600), (30.0, 600), (0.0, 3600)])
def test_all_cycles_are_searched_for_once_in_twenty_audits(
    service: Service, monkeypatch: pytest.MonkeyPatch, audits: float, every: int
) -> None:
    spec = parse(platform="volcengine", node_name="n", subnet="172.20.100.0/24")
    survey = Survey({}, Context(spec, None, {}, "t", service._clock.now()), set)
    service._options = DaemonOptions(audit_every=audits)
    scheduler = timetable()
    monkeypatch.setattr(module, "timetable", lambda: scheduler)
    with contextlib.ExitStack() as parts:
        service._open_scheduler(parts, survey)
        jobs = [job for job in scheduler.get_jobs() if job.func == collector.collect]
        assert [job.trigger.interval for job in jobs] == [timedelta(seconds=every)]
