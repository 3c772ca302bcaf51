"""``install`` as it is typed: what it prints, and to whom it says no. What it puts in place: tests/systemd."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cocoon_net.cli import install
from cocoon_net.cli.main import run
from cocoon_net.errors import SpecError

PROGRAM = Path("/opt/cocoon-net/bin/cocoon-net")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "program", lambda: PROGRAM)


@pytest.mark.usefixtures("installed")
def test_anybody_may_look_at_the_unit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run(["install", "--print"]) == 0
    said = capsys.readouterr().out
    assert f"\nExecStart={PROGRAM} daemon\n" in said and said.endswith("WantedBy=multi-user.target\n")


@pytest.mark.usefixtures("installed")
def test_only_root_may_install_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for words in (["install"], ["install", "--user-unit"], ["install", "--force"]):
        assert run(words) == 77
        assert "must run as root" in capsys.readouterr().err


def test_the_program_is_the_one_that_was_called_and_a_link_stays_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, link = tmp_path / "env/bin/cocoon-net", tmp_path / "bin/cocoon-net"
    for path in (program, link):
        path.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    link.symlink_to(program)
    monkeypatch.setattr(sys, "argv", [str(link), "install"])
    assert install.program() == link
    monkeypatch.setenv("PATH", str(link.parent))
    monkeypatch.setattr(sys, "argv", ["cocoon-net", "install"])
    assert install.program() == link
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bin/cocoon-net", "install"])
    assert install.program() == link


def test_python_m_finds_the_program_beside_its_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "__main__.py"), "install"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(SpecError, match="is no installed cocoon-net"):
        install.program()
    (tmp_path / "cocoon-net").write_text("#!/bin/sh\n")
    (tmp_path / "cocoon-net").chmod(0o755)
    assert install.program() == tmp_path / "cocoon-net"
