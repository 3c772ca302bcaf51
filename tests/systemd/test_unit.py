"""The unit, as systemd-analyze reads it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path, PurePath

import pytest

from cocoon_net import errors, unit
from cocoon_net.unit import Standing, quote, render, shipped, standing

UNIT = Path(__file__).parents[2] / "systemd/cocoon-net.service"

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")

PROGRAM = PurePath("/opt/cocoon-net/bin/cocoon-net")


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
    copy.write_text(UNIT.read_text().replace("ExecStart=cocoon-net", f"ExecStart={shutil.which('true')}"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_only_the_operator_can_cure_is_not_restarted() -> None:
    assert settings("Restart") == ["always"]
    stays = {int(code) for code in settings("RestartPreventExitStatus")[0].split()}
    assert stays == {2, errors.Refused.exit_code, errors.SpecError.exit_code}
    passes = (errors.Locked, errors.StoreError, errors.CloudError, errors.NodeError, errors.Unsupported)
    assert not stays & {error.exit_code for error in passes}


def test_what_is_installed_is_the_one_text_with_the_programs_place() -> None:
    stamp, _, body = render(shipped(), PROGRAM, version="1.2").partition("\n")
    assert shipped() == UNIT.read_text()
    assert body == UNIT.read_text().replace("ExecStart=cocoon-net ", f"ExecStart={PROGRAM} ")
    assert stamp.startswith("# cocoon-net install, version 1.2, ")


def test_an_upgrade_knows_its_own_unit_from_an_edited_one() -> None:
    want = render(shipped(), PROGRAM, version="1.2")
    old = render(shipped().replace("RestartSec=5", "RestartSec=9"), PROGRAM, version="1.1")
    assert standing(None, want) is Standing.MISSING
    assert standing(want, want) is Standing.CURRENT
    assert standing(old, want) is Standing.OLD
    assert standing(want.replace("RestartSec=5", "RestartSec=1"), want) is Standing.EDITED
    assert standing("[Service]\nExecStart=/usr/local/bin/cocoon-net daemon\n", want) is Standing.FOREIGN


@pytest.mark.parametrize("place", ["/tmp/clone/.venv/bin", "/var/tmp/x", "/run/user/0/x", "/dev/shm"])
def test_a_program_that_the_service_could_not_see_is_refused(place: str) -> None:
    with pytest.raises(errors.SpecError, match="cannot be a service"):
        render(shipped(), PurePath(place) / "cocoon-net", version="1.2")


def test_a_users_unit_has_the_nodes_directories_and_not_his_own(tmp_path: Path) -> None:
    text = render(shipped(), PurePath(shutil.which("true") or "/bin/true"), version="1.2", user=True)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert not [line for line in lines if "Directory" in line or "network-online" in line or "multi-user" in line]
    assert "WantedBy=default.target" in lines
    assert "ReadWritePaths=/run -/var/lib/cocoon -/etc/cni/net.d /proc/sys/net" in lines
    copy = tmp_path / unit.NAME
    copy.write_text(text)
    line = ["systemd-analyze", "verify", "--user", str(copy)]
    place = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=place)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_place_with_odd_letters_is_quoted() -> None:
    assert quote("/opt/cocoon-net/bin/cocoon-net") == "/opt/cocoon-net/bin/cocoon-net"
    assert quote('/opt/my net/100%/$x/co"on') == '"/opt/my net/100%%/$$x/co\\"on"'
