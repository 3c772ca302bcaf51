"""Builds the wheel; with COCOON_NET_COMPILE=1 the modules that a lease runs through are compiled by mypyc.

Compiled in a directory of its own, never in the checkout: there the .py files count, for tests and editable installs.
Why, and what must not be compiled: docs/decisions/0015-the-hot-path-may-be-compiled.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HOT = (
    "batch", "book", "bulk", "choice", "decision", "exchange", "frame", "guard", "histogram", "lease", "options",
    "pool", "ports", "projection", "relay", "reply", "routes", "table", "trace", "tuples", "wire",
)  # fmt: skip
"""Modules of ``cocoon_net.dhcp``; each is fully typed."""

_SETUP = """
from mypyc.build import mypycify
from setuptools import setup

checks = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
setup(
    name="cocoon_net",
    packages=[],
    ext_modules=mypycify([*checks, *{paths!r}], opt_level="3", debug_level="0", group_name="cocoon_net"),
)
"""


def wanted() -> bool:
    """Whether the user asked for it."""
    return os.environ.get("COCOON_NET_COMPILE", "0") not in ("", "0")


class CustomBuildHook(BuildHookInterface[Any]):
    """What hatchling calls around the making of a wheel."""

    def dependencies(self) -> list[str]:
        """Return what compiling needs, besides a C compiler and Python's headers."""
        return ["mypy>=1.13", "setuptools"] if wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and have the wheel take along what came of it, and from which sources it came."""
        if version == "editable" or not wanted():
            return
        self._scratch = TemporaryDirectory()
        scratch = Path(self._scratch.name).resolve()
        shutil.copytree(Path(self.root) / "cocoon_net", scratch / "cocoon_net")
        paths = [f"cocoon_net/dhcp/{name}.py" for name in HOT]
        (scratch / "setup.py").write_text(_SETUP.format(paths=paths))
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", "out"]
        done = subprocess.run(command, cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise RuntimeError(f"mypyc failed; it wants a C compiler and Python's headers:\n{done.stdout[-4000:]}")
        sums = {path: hashlib.sha256((scratch / path).read_bytes()).hexdigest() for path in paths}
        record = scratch / "out" / "cocoon_net" / self._record()
        record.write_text(json.dumps(sums, indent=1))
        for path in (scratch / "out").rglob("*"):
            if path.is_file():
                build_data["force_include"][str(path)] = str(path.relative_to(scratch / "out"))
        build_data["pure_python"], build_data["infer_tag"] = False, True

    def _record(self) -> str:
        """Return the name that whoever asks what runs looks for; cocoon_net itself cannot be imported yet."""
        return str(runpy.run_path(str(Path(self.root) / "cocoon_net" / "compiled.py"))["RECORD"])

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Clean up once the wheel is written."""
        if version != "editable" and wanted():
            self._scratch.cleanup()
