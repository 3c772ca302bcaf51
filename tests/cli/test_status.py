"""``status --watch``: the view of a live daemon, or of the database without one, as people and machines read it."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.cli import render
from cocoon_net.dhcp.lease import State
from cocoon_net.engine.journal import Journal
from cocoon_net.errors import SpecError
from cocoon_net.site import Site
from cocoon_net.store import open_database
from cocoon_net.supervisor import view
from cocoon_net.supervisor.control import ControlSocket, routes
from cocoon_net.supervisor.feed import Feed
from cocoon_net.supervisor.presence import alone
from cocoon_net.supervisor.status import look

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVIL = "[red]web[/red]"


def document(size: int = 3, **more: Any) -> dict[str, Any]:
    states = dict.fromkeys(range(167772162, 167772162 + size, 2), State.BOUND)
    return {
        "at": "2026-01-01T00:00:00Z",
        "node": "n1",
        "phase": "serving",
        "reason": "",
        "pool": {"subnet": "10.0.0.0/16", "size": size, "states": {"free": size // 2, "bound": size - size // 2}},
        "blocks": view.blocks(range(0x0A000002, 0x0A000002 + size), states),
        "enis": [{"key": "eni-1", "id": "eni-x", "link": "eth1", "state": "down", "addresses": 3}],
        "workflow": {
            "workflow": "init",
            "state": "done",
            "states": [{"state": "subnet", "status": "settled", "seconds": 1.5, "settled_at": "2026-01-01T00:00:00Z"}],
        },
        "findings": [],
        "events": [{"event": "LeaseBound", "at": "2026-01-01T00:00:00Z", "address": "10.0.0.2", "hostname": EVIL}],
        **more,
    }


def watched(monkeypatch: pytest.MonkeyPatch, views: list[dict[str, Any]], *, as_json: bool = False) -> list[str]:
    """Watch until the views are used up, and return the lines."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(render, "BLINK", 0)
    given = iter(views)

    def read() -> dict[str, Any]:
        with contextlib.suppress(StopIteration):
            return next(given)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render.watch(read, as_json=as_json)
    return out.getvalue().splitlines()


def test_elsewhere_than_on_a_terminal_each_change_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = {"kind": "link-down", "key": "eni-1", "says": "eth1 is down"}
    later = document(at="2026-01-01T00:00:01Z")
    assert watched(monkeypatch, [document(), later, document(findings=[finding])]) == [
        "serving; 1 free, 2 bound; init done; findings: none",
        "serving; 1 free, 2 bound; init done; findings: link-down eni-1: eth1 is down",
    ]


def test_with_json_each_change_is_a_whole_view(monkeypatch: pytest.MonkeyPatch) -> None:
    views = [document(), document(at="2026-01-01T00:00:01Z"), document(phase="degraded")]
    lines = watched(monkeypatch, views, as_json=True)
    assert [json.loads(line)["phase"] for line in lines] == ["serving", "degraded"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, Any]], str]]:
    from rich.console import Console

    def draw(view: dict[str, Any]) -> str:
        console = Console(file=io.StringIO(), width=120, force_terminal=False)
        console.print(render._drawn(view))
        return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]

    return draw


def test_on_a_terminal_addresses_interfaces_states_and_events_are_drawn(
    drawn: Callable[[dict[str, Any]], str],
) -> None:
    text = drawn(document())
    for words in ("✓ serving", "10.0.0.2        B·B", "eni-1 eni-x", "⚠ down", "settled", "1.50", EVIL):
        assert words in text, words


def test_a_large_pool_is_drawn_by_its_blocks(drawn: Callable[[dict[str, Any]], str]) -> None:
    text = drawn(document(60_000))
    assert "10.0.1.0          128 B" in text
    assert "and 211 blocks more" in text


def test_without_a_daemon_the_database_is_shown(tmp_path: Path) -> None:
    site = Site(tmp_path / "state", run_dir=tmp_path)
    with pytest.raises(SpecError, match="no database"):
        look(site)
    with contextlib.closing(open_database(site.database)) as database:
        assert Journal(database).runs() == []
    seen = look(site)
    assert seen["phase"] == "stopped" and seen["pool"]["size"] == 0 and seen["workflow"] == {}


def test_a_live_daemon_is_asked_and_one_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    site = Site(tmp_path / "state", run_dir=tmp_path)
    open_database(site.database).close()

    class Shown:
        feed = Feed()

        def view(self) -> dict[str, Any]:
            return {"phase": "serving"}

    with alone(site):
        socket = ControlSocket(site.control_socket, routes(None, Shown()))  # type: ignore[arg-type]
        socket.start()
        assert look(site) == {"phase": "serving"}
        socket.stop()
        site.control_socket.touch()
        assert look(site)["phase"] == "starting"
