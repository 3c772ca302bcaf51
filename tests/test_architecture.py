"""The rules of the house that a machine can check: who imports whom, where each library lives."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cocoon_net"

LEVELS: dict[str, int] = {
    "": -1, "errors": -1, "clock": 0, "records": 0, "spec": 0, "site": 0, "events": 0, "stop": 0, "locks": 0,
    "schema": 0, "unit": 0, "unix_http": 0, "compiled": 0, "manager": 1,
    "formats": 1, "store": 1, "engine": 2,
    "dhcp.wire": 2, "dhcp.options": 2, "dhcp.lease": 2, "dhcp.pool": 2, "dhcp.table": 2, "dhcp.choice": 2,
    "dhcp.reply": 2, "dhcp.reservation": 2, "dhcp.settings": 2, "dhcp.relay": 2,
    "node.rtnetlink": 2, "node.bpf": 2,
    "cloud": 3, "node": 3, "dhcp": 3,
    "steps": 3,
    "world": 5, "dhcp.server": 5, "dhcp.watch": 5, "dhcp.projection": 5, "dhcp.probe": 5, "recovery": 5,
    "audit": 6, "runs": 6, "plans": 7, "pending": 7, "export": 6,
    "supervisor": 7, "lab": 7,
    "cli": 8, "__main__": 9,
}  # fmt: skip
"""Package or module -> level; imports go to a lower level, or stay inside the package."""

FORBIDDEN = {"steps": ("cloud", "node", "dhcp"), "engine": ("cloud", "node", "dhcp", "steps")}
"""Same or lower levels that a package must not know all the same."""

HOMES: dict[str, tuple[str, ...]] = {
    "transitions": ("engine.machine", "dhcp.lease", "dhcp.routes", "supervisor.lifecycle"),
    "pyroute2": ("node.iproute", "lab"),
    "volcenginesdkcore": ("cloud.volcengine.client",),
    "scapy": ("dhcp.probe", "lab"),
    "rich": ("cli.render", "cli.show"),
    "sqlite_utils": (
        "store", "schema", "engine.journal", "engine.operations", "engine.history", "engine.answers", "dhcp.book",
        "recovery", "runs", "world", "audit", "supervisor",
    ),
    "apscheduler": ("supervisor",),
    "click": ("cli",),
    "prometheus_client": ("supervisor.metrics",),
}  # fmt: skip
"""Third-party library -> the only modules that may import it."""

HEAVY = {"transitions", "pyroute2", "volcenginesdkcore", "scapy", "rich", "sqlite_utils", "apscheduler"}
"""Never imported at module level by what ``--help`` or a want function imports."""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"{module}.{alias.name}" if module.startswith("cocoon_net") else module for alias in names)


def known(name: str) -> str:
    while name not in LEVELS:
        name = name.rpartition(".")[0]
    return name


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: str(value) if value else "root")
def test_a_module_imports_downwards_only(name: str, path: Path) -> None:
    here = known(name)
    top = name.split(".")[0]
    for imported in imports(path):
        if not imported.startswith("cocoon_net."):
            continue
        target = imported.removeprefix("cocoon_net.")
        there = known(target)
        if target.split(".")[0] == top or there == here:
            continue
        assert LEVELS[there] < LEVELS[here], f"{name} (level {LEVELS[here]}) imports {target} (level {LEVELS[there]})"
        assert target.split(".")[0] not in FORBIDDEN.get(top, ()), f"{name} must not know {target}"


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: str(value) if value else "root")
def test_each_library_has_its_home(name: str, path: Path) -> None:
    for imported in imports(path):
        homes = HOMES.get(imported.split(".")[0])
        if homes is not None:
            assert any(name == home or name.startswith(f"{home}.") for home in homes), f"{name} imports {imported}"


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: str(value) if value else "root")
def test_what_is_logged_of_an_error_has_its_hint(name: str, path: Path) -> None:
    """``error.told``: a message without what to do next leaves the person awake at night alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("logger."):
            bare = [
                ast.unparse(word) for word in node.args if isinstance(word, ast.Attribute) and word.attr == "message"
            ]
            assert not bare, f"{name}, line {node.lineno}: {bare[0]} without its hint"


@pytest.mark.parametrize(("name", "path"), [one for one in modules() if one[0].startswith("node.")])
def test_what_the_node_refuses_says_what_to_do_next(name: str, path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("NodeError", "NodeTransient", "Refused"):
            assert "hint" in {word.arg for word in node.keywords}, (
                f"{name}, line {node.lineno}: an error without a hint"
            )


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from cocoon_net.cli.main import run; run(['--help']); print('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.partition("LOADED")[2].split())
    assert "click" in loaded
    assert not loaded & HEAVY
