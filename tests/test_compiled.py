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
from typing import Any

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


def run(*words: str | Path, cwd: Path, **more: str) -> str:
    """Run outside of the checkout, where Python takes modules from ``cwd`` first of all; return what was printed."""
    line = [str(word) for word in words]
    environment = {**os.environ, "PYTHONPATH": str(cwd), **more}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=cwd, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.skipif(
    not Path(sysconfig.get_path("include"), "Python.h").exists(), reason="needs Python's headers (python3-dev)"
)
def test_what_is_compiled_answers_like_its_sources(tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel", "--no-deps")
    run(*pip, "--no-build-isolation", "--wheel-dir", tmp_path, ROOT, cwd=tmp_path, COCOON_NET_COMPILE="1")
    assert not list((ROOT / "cocoon_net").rglob("*.so"))
    (wheel,) = tmp_path.glob("cocoon_net-*-linux_*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)

    shutil.copytree(ROOT / "tests", site / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", site)
    (site / "tests/dhcp/test_meant.py").write_text(MEANT.format(root=str(ROOT), site=str(site)))
    sample = [f"tests/dhcp/test_{name}.py" for name in ("meant", *SAMPLE)]
    run(sys.executable, "-m", "pytest", "-q", *sample, cwd=site)
    assert "nothing broke" in run(sys.executable, "-m", "cocoon_net.lab.fuzz", "--seconds", "3", cwd=site)

    told = (sys.executable, "-m", "cocoon_net", "--version")
    assert run(*told, cwd=site).strip().endswith("(DHCP compiled)")
    with (site / "cocoon_net/dhcp/wire.py").open("a") as source:
        source.write("# edited\n")
    assert "not from the cocoon_net/dhcp/wire.py that is here" in run(*told, cwd=site)


@pytest.mark.timeout(200)
def test_an_editable_install_is_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("COCOON_NET_COMPILE", "1")
    from hatch_build import CustomBuildHook

    hook = CustomBuildHook(str(ROOT), {}, None, None, str(tmp_path), "wheel")
    data: dict[str, Any] = {"force_include": {}, "pure_python": True}
    hook.initialize("editable", data)
    hook.finalize("editable", data, "")
    assert data == {"force_include": {}, "pure_python": True}


def test_a_checkout_runs_its_sources(tmp_path: Path) -> None:
    assert not [*ROOT.glob("*.so"), *(ROOT / "cocoon_net").rglob("*.so")]
    assert described() == "pure Python"
    (tmp_path / RECORD).write_text(json.dumps({"cocoon_net/dhcp/wire.py": ""}))  # of a wheel for another Python
    assert described(tmp_path) == "pure Python, for it was compiled for another one"


@pytest.mark.parametrize("content", [b"", b"7", b'"text"', b'{"cocoon_net/dhcp/wire.py": "', b"\xff"])
def test_a_record_that_is_damaged_is_said_to_be(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RECORD).write_bytes(content)
    assert described(tmp_path) == "compiled or not: its compiled.json cannot be read, install it again"
