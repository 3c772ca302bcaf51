"""The unit, as systemd-analyze reads it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cocoon_net import errors

UNIT = Path(__file__).parents[2] / "systemd/cocoon-net.service"

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")


def settings(name: str) -> list[str]:
    return [line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith(f"{name}=")]


def test_it_is_exposed_less_than_three() -> None:
    line = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    found = re.search(r"Overall exposure level for cocoon-net.service: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    assert float(found[1]) < 3.0, done.stdout


def test_it_has_these_capabilities_and_no_other() -> None:
    assert settings("CapabilityBoundingSet") == ["CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE"]
    assert settings("AmbientCapabilities") == []


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("ExecStart=cocoon-net", f"ExecStart={sys.executable}"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_only_the_operator_can_cure_is_not_restarted() -> None:
    assert settings("Restart") == ["always"]
    stays = {int(code) for code in settings("RestartPreventExitStatus")[0].split()}
    assert stays == {2, errors.Refused.exit_code, errors.SpecError.exit_code}
    passes = (errors.Locked, errors.StoreError, errors.CloudError, errors.NodeError, errors.Unsupported)
    assert not stays & {error.exit_code for error in passes}
