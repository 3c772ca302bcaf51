"""``init --start`` where systemd is not the service manager: refused before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from cocoon_net import manager
from cocoon_net.cli.main import run

INIT = ("init", "--platform", "volcengine", "--node-name", "n", "--subnet", "172.20.100.0/24", "--pool-size", "30")


def test_without_systemd_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(manager, "_BOOTED", tmp_path / "none")
    state = tmp_path / "state"
    assert run([*INIT, "--start", "--state-dir", str(state)]) == 78
    said = capsys.readouterr().err
    assert "--start needs systemd, which does not run this machine" in said and "leave --start out" in said
    assert not state.exists()


def test_giving_a_run_up_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "--abandon", "--start", "--state-dir", str(tmp_path / "state")]) == 78
    assert "--abandon alone makes nothing" in capsys.readouterr().err


def test_what_the_service_sees_is_known_by_name(tmp_path: Path) -> None:
    settings = tmp_path / "settings"
    environ = {"VOLCENGINE_REGION": "x", "COCOON_NET_LOG_LEVEL": "debug", "HOME": "/root"}
    assert manager.unseen(environ, settings) == ("COCOON_NET_LOG_LEVEL", "VOLCENGINE_REGION")
    settings.write_text("VOLCENGINE_REGION=y\n# COCOON_NET_LOG_LEVEL=info\n")
    assert manager.unseen(environ, settings) == ("COCOON_NET_LOG_LEVEL",)
