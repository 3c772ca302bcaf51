"""A lab's name for one test, and the promise that nothing of it is left."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cocoon_net.lab import lab as labs
from cocoon_net.lab import namespace
from cocoon_net.lab.lab import Lab

_numbers = itertools.count()


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab that is not built; whatever the test builds of it is removed, and that is checked."""
    # A Unix socket's path is short, and so must be the directory's.
    base = tmp_path_factory.getbasetemp() / f"l{next(_numbers)}"
    lab = labs.open_lab(f"t{os.getpid() % 10000}x{next(_numbers)}", base)
    yield lab
    labs.down(lab)
    assert not [name for name in namespace.names() if name.startswith(f"{lab.name}-")]
    assert not lab.directory.exists()
    assert not processes_of(lab)


def processes_of(lab: Lab) -> list[str]:
    """Return the command lines of all processes that mention the lab's directory or a namespace of it."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(lab.directory) in line or f"{lab.name}-" in line:
            lines.append(line)
    return lines
