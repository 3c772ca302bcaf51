"""What ``pip install`` gives: a wheel in an environment that knows nothing of the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*words: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=cwd, timeout=300)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_built_wheel_works_in_a_clean_environment(tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("cocoon_net-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("init", "adopt", "teardown"):
        assert f"cocoon_net/workflows/{name}.toml" in names
    assert "cocoon_net/systemd/cocoon-net.service" in names
    assert not [name for name in names if name.startswith(("tests/", "scripts/"))]

    run(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", wheel, cwd=tmp_path)
    command = tmp_path / "env" / "bin" / "cocoon-net"
    assert "workflow" in run(command, "--help", cwd=tmp_path)
    assert "ever ran here" in run(command, "workflow", "list", "--state-dir", tmp_path / "none", cwd=tmp_path)
    code = "from cocoon_net.engine.workflow import load; from cocoon_net.steps import STEPS; print(load('init', STEPS))"
    assert "'dhcp'" in run(python, "-c", code, cwd=tmp_path)
    code = "from cocoon_net.unit import shipped; print(shipped(), end='')"
    assert run(python, "-c", code, cwd=tmp_path) == (ROOT / "systemd/cocoon-net.service").read_text()
    for word in ("init", "adopt", "teardown", "install", "daemon", "status", "run", "workflow", "lab"):
        run(command, word, "--help", cwd=tmp_path)
