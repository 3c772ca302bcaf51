"""The compiled build (docs/decisions/0015): it says what it is, does what the sources do, and touches no checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from cocoon_net.compiled import RECORD, described

ROOT = Path(__file__).parent.parent
SAMPLE = ("codec", "frame", "malformed", "rfc2131", "rfc2132", "relays", "reservations", "guard")
"""Of ``tests/dhcp``; all of it passes, and takes longer."""

MEANT = """
import importlib, sys
from pathlib import Path

sys.path.append({root!r})
from hatch_build import HOT


def test_each_hot_module_is_the_compiled_one():
    for name in HOT:
        origin = importlib.import_module(f"cocoon_net.dhcp.{{name}}").__file__
        assert Path(origin).is_relative_to({site!r}) and origin.endswith(".so"), origin
"""


def run(*words: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run outside of the checkout: with ``-m``, Python takes modules from where it stands first of all."""
    line, environment = [str(word) for word in words], {**os.environ, **more}
    return subprocess.run(line, capture_output=True, text=True, env=environment, cwd=cwd, timeout=300)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.skipif(
    not Path(sysconfig.get_path("include"), "Python.h").exists(), reason="needs Python's headers (python3-dev)"
)
def test_what_is_compiled_answers_like_its_sources(tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel", "--no-deps")
    made = run(*pip, "--no-build-isolation", "--wheel-dir", tmp_path, ROOT, cwd=tmp_path, COCOON_NET_COMPILE="1")
    assert made.returncode == 0, made.stdout + made.stderr
    assert not list((ROOT / "cocoon_net").rglob("*.so"))
    (wheel,) = tmp_path.glob("cocoon_net-*-linux_*.whl")
    site, tests = tmp_path / "site", tmp_path / "tests"
    zipfile.ZipFile(wheel).extractall(site)

    shutil.copytree(ROOT / "tests", tests, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tests / "dhcp" / "test_meant.py").write_text(MEANT.format(root=str(ROOT), site=str(site)))
    sample = [tests / "dhcp" / name for name in ("test_meant.py", *(f"test_{one}.py" for one in SAMPLE))]
    passed = run(
        sys.executable, "-m", "pytest", "-q", "--rootdir", tmp_path, *sample, cwd=tmp_path, PYTHONPATH=str(site)
    )
    assert passed.returncode == 0, passed.stdout[-4000:] + passed.stderr[-2000:]

    told = (sys.executable, "-m", "cocoon_net", "--version")
    assert run(*told, cwd=tmp_path, PYTHONPATH=str(site)).stdout.strip().endswith("(DHCP compiled)")
    with (site / "cocoon_net/dhcp/wire.py").open("a") as source:
        source.write("# edited\n")
    assert "not from the cocoon_net/dhcp/wire.py that is here" in run(*told, cwd=tmp_path, PYTHONPATH=str(site)).stdout


def test_a_checkout_runs_its_sources(tmp_path: Path) -> None:
    assert not [*ROOT.glob("*.so"), *(ROOT / "cocoon_net").rglob("*.so")]
    assert described() == "pure Python"
    (tmp_path / RECORD).write_text(json.dumps({"cocoon_net/dhcp/wire.py": ""}))  # of a wheel for another Python
    assert described(tmp_path) == "pure Python, for it was compiled for another one"
