"""The list of guards does not rot: each one's text stands in its file, once, and its tests are there."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GUARDS = tomllib.loads((ROOT / "scripts/guards.toml").read_text(encoding="utf-8"))["guard"]


def test_no_guard_is_listed_twice() -> None:
    names = [guard["what"] for guard in GUARDS]
    assert sorted(set(names)) == sorted(names)
    assert len(names) > 150


@pytest.mark.parametrize("guard", GUARDS, ids=[guard["what"] for guard in GUARDS])
def test_a_guard_is_where_the_list_says(guard: dict[str, str]) -> None:
    assert (ROOT / guard["file"]).read_text(encoding="utf-8").count(guard["text"]) == 1
    assert guard["without"] != guard["text"]
    paths = [word for word in shlex.split(guard["tests"]) if word.startswith("tests/")]
    assert paths and all((ROOT / path.partition("::")[0]).exists() for path in paths)
