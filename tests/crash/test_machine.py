"""The machine's side of dying: processes that hang, two at once, full and read-only disks, damaged databases."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.lab.patience import eventually

pytestmark = [pytest.mark.root, pytest.mark.slow]

SPEC = ("--platform", "volcengine", "--node-name", "cocoon-pool", "--subnet", "172.20.100.0/24", "--pool-size", "40")
DIE = Path(__file__).with_name("die.py")


def state(scene: Any) -> Path:
    return Path(scene.directory) / scene.name / "node1" / "state"


@contextmanager
def asleep(scene: Any, moment: str, *words: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A command that fell asleep at a moment of the journal, with what its lock says of it."""
    line = ["lab", "exec", "--name", scene.name, "node1", "--", sys.executable, str(DIE), moment, *words]
    environment = {**scene.environment(), "DIE_BY": "SIGSTOP"}
    with subprocess.Popen(
        [sys.executable, "-m", "cocoon_net", *line], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        holder: dict[str, Any] = {}

        def sleeps() -> bool:
            assert process.poll() is None
            try:
                holder.update(json.loads((state(scene) / "run.lock").read_text()))
                return Path(f"/proc/{holder['pid']}/stat").read_text().rpartition(")")[2].split()[0] == "T"
            except (OSError, ValueError):
                return False

        try:
            eventually(sleeps)
            yield process, holder
        finally:
            if process.poll() is None:
                os.kill(holder["pid"], signal.SIGKILL)
                process.wait(10)


@pytest.fixture(scope="module")
def before(scene: Any) -> Any:
    return scene.world()


@pytest.fixture(scope="module")
def provisioned(scene: Any, before: Any) -> Any:
    """The world after an undisturbed init; torn down again."""
    scene.product("init", *SPEC)
    world = scene.world()
    scene.product("teardown")
    assert scene.world() == before
    return world


@pytest.mark.parametrize("moment", ["after intend enis", "before settle attach"])
def test_an_init_that_hangs_is_unlocked_and_does_nothing_when_it_wakes_up(
    scene: Any, before: Any, provisioned: Any, moment: str
) -> None:
    with asleep(scene, moment, "init", *SPEC) as (process, holder):
        refused = scene.product("run", "init", "--resume", check=False)
        assert refused.returncode == 75, refused.stderr
        for text in (f"init (pid {holder['pid']}, since", f"cocoon-net workflow unlock {holder['id']}"):
            assert text in refused.stderr
        wrong = scene.product("workflow", "unlock", "nonsense", check=False)
        assert wrong.returncode == 78 and holder["id"] in wrong.stderr
        assert str(holder["pid"]) in scene.product("workflow", "unlock", holder["id"]).stderr
        with sqlite3.connect(state(scene) / "cocoon-net.db") as database:
            ((details,),) = database.execute(
                "SELECT details FROM run_history WHERE what = 'unlocked' AND details LIKE ?", [f"%{holder['id']}%"]
            )
        assert f"init (pid {holder['pid']}" in details
        scene.product("run", "init", "--resume")
        assert scene.world() == provisioned
        told = scene.product("workflow", "show", "--json").stdout
        since = max(call["seq"] for call in scene.admin.calls())
        os.kill(holder["pid"], signal.SIGCONT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 75, err
        assert "was taken away by `workflow unlock`" in err and "Traceback" not in err
    assert scene.admin.calls(since) == [], "it did nothing more"
    assert scene.product("workflow", "show", "--json").stdout == told, "and wrote nothing more"
    assert scene.world() == provisioned
    scene.product("teardown")
    assert scene.world() == before


def test_of_two_inits_at_once_one_is_refused_and_names_the_other(scene: Any, before: Any, provisioned: Any) -> None:
    line = [sys.executable, "-m", "cocoon_net", "lab", "exec", "--name", scene.name, "node1", "--"]
    line += [sys.executable, "-m", "cocoon_net", "init", *SPEC]
    both = [subprocess.Popen(line, env=scene.environment(), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [(process.communicate(timeout=60)[1], process.returncode) for process in both]
    assert sorted(code for _, code in ends) in ([0, 75], [0, 0]), ends
    for said, code in ends:
        if code == 75:
            assert "init cannot start: init (pid" in said
    assert scene.world() == provisioned
    scene.product("teardown")
    assert scene.world() == before


# An upgrade in the middle


def test_an_upgrade_of_the_workflow_changes_no_run_in_flight_and_a_strange_one_is_refused(
    scene: Any, before: Any, provisioned: Any, tmp_path: Path
) -> None:
    theirs = ("env", f"COCOON_NET_WORKFLOW_DIR={tmp_path}", sys.executable, "-m", "cocoon_net")
    shipped = Path(__file__).parents[2] / "workflows"
    scene.die("before conclude attach", "init", *SPEC)
    (tmp_path / "init.toml").write_text('name = "init"\n[[step]]\nname = "cni"\ndeadline = "1s"\n')
    resumed = scene.on_node(*theirs, "run", "init", "--resume")
    assert "resuming init-" in resumed.stderr
    assert scene.world() == provisioned, "all states of the plan it began with"
    (tmp_path / "teardown.toml").write_text(
        (shipped / "teardown.toml").read_text() + 'version = 2\n[[step]]\nname = "vlans"\ndeadline = "soon"\n'
    )
    refused = scene.on_node(*theirs, "teardown", check=False)
    assert refused.returncode == 78, refused.stderr
    for problem in ("unknown key 'version'", "(vlans): no such step", "'soon' is not a duration"):
        assert problem in refused.stderr
    assert scene.world() == provisioned
    scene.product("teardown")
    assert scene.world() == before


def test_a_run_with_steps_that_this_version_does_not_know_is_refused_and_kept(scene: Any, before: Any) -> None:
    """As after a downgrade."""
    scene.die("before conclude enis", "init", *SPEC)
    with sqlite3.connect(state(scene) / "cocoon-net.db") as database:
        database.execute("UPDATE runs SET plan = replace(plan, '\"cni\"', '\"vlans\"') WHERE state <> 'done'")
    refused = scene.product("run", "init", "--resume", check=False)
    assert refused.returncode == 78, refused.stderr
    assert "steps unknown to this one: vlans" in refused.stderr and "--abandon" in refused.stderr
    assert scene.product("workflow", "show").returncode == 0
    scene.product("teardown")
    assert scene.world() == before


# A damaged database


def damage(scene: Any, *, backup: bool = False, leases: bool = False) -> None:
    """Overwrite the middle of the database, and if asked, of what it could be rebuilt from."""
    victims = [state(scene) / "cocoon-net.db"]
    victims += [state(scene) / "cocoon-net.db.backup"] * backup + [state(scene) / "leases.json"] * leases
    for path in victims:
        content = path.read_bytes()
        path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))


def test_a_damaged_database_is_rebuilt_from_its_backup_and_the_run_goes_on(
    scene: Any, before: Any, provisioned: Any
) -> None:
    scene.die("before conclude addresses", "init", *SPEC)
    damage(scene)
    for words in (("workflow", "show"), ("workflow", "list"), ("status",), ("init", *SPEC, "--dry-run")):
        told = scene.product(*words, check=False)
        assert told.returncode == 74, (words, told.stderr)
        assert "docs/operations.md" in told.stderr and "Traceback" not in told.stderr
    assert not list(state(scene).glob("*damaged*")), "who only reads moves nothing"
    resumed = scene.product("run", "init", "--resume")
    for word in ("the database is damaged", "kept aside as cocoon-net.db.damaged-", "rebuilt from: the backup of"):
        assert word in resumed.stderr
    assert scene.world() == provisioned
    scene.product("teardown")
    assert scene.world() == before
    for path in state(scene).glob("*damaged*"):
        path.unlink()


def test_without_a_backup_the_same_init_finds_what_is_ours_and_a_teardown_removes_it(
    scene: Any, before: Any, provisioned: Any
) -> None:
    scene.product("init", *SPEC)
    damage(scene, backup=True)
    parked = scene.product("teardown", check=False)
    assert parked.returncode == 78, parked.stderr
    assert "`cocoon-net init` with the flags of this node finds its interfaces" in parked.stderr
    assert scene.world()["cloud"] == provisioned["cloud"], "nothing is deleted that nobody knows"
    scene.product("init", *SPEC)
    scene.product("teardown")
    for path in state(scene).glob("*damaged*"):
        path.unlink()
    after = scene.world()
    assert after["cloud"] == before["cloud"]
    # How the settings were before us was in the database alone.
    assert {k: v for k, v in after["node"].items() if k != "settings"} == {
        k: v for k, v in before["node"].items() if k != "settings"
    }
    scene.on_node("sysctl", *(line.replace(" = ", "=") for line in before["node"]["settings"].splitlines()))
    assert scene.world() == before


class Daemon:
    """A running daemon of node1; ``ended`` when it would not come up."""

    def __init__(self, scene: Any, *options: str) -> None:
        line = [
            "lab",
            "exec",
            "--name",
            scene.name,
            "node1",
            "--",
            sys.executable,
            "-m",
            "cocoon_net",
            "daemon",
            *options,
        ]
        self._log = scene.directory / "daemon.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cocoon_net", *line], stderr=log, env=scene.environment()
            )
        eventually(lambda: "serving:" in self.log() or self.process.poll() is not None)

    def log(self) -> str:
        return self._log.read_text()

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(10)

    def __enter__(self) -> Daemon:
        assert self.process.poll() is None, self.log()
        return self

    def __exit__(self, *error: object) -> None:
        self.end()


def leases(scene: Any) -> dict[str, str]:
    return {row["mac"]: row["ip"] for row in json.loads((state(scene) / "leases.json").read_text())}


def routes(scene: Any) -> set[str]:
    shown = scene.on_node("ip", "route", "show", "proto", "174").stdout
    return {line.split()[0] for line in shown.splitlines()}


@pytest.fixture(scope="module")
def guests(scene: Any, provisioned: Any) -> Iterator[dict[str, str]]:
    """The node provisioned, with two guests that have leases; no daemon."""
    scene.product("init", *SPEC)
    with Daemon(scene):
        for name in ("one", "two"):
            scene.command("lab", "guest", "add", "--name", scene.name, "node1", name, "--client", "udhcpc")
        eventually(lambda: len(leases(scene)) == 2)
    yield leases(scene)
    for name in ("one", "two"):
        scene.command("lab", "guest", "del", "--name", scene.name, name)
    scene.product("teardown")
    for path in state(scene).glob("*damaged*"):
        path.unlink()


@pytest.mark.parametrize("more", [{}, {"backup": True}, {"backup": True, "leases": True}], ids=str)
def test_a_daemon_with_a_damaged_database_gives_no_address_of_a_guest_away(
    scene: Any, guests: dict[str, str], more: dict[str, bool]
) -> None:
    """Whatever is left: the backup, the file of leases, or nothing but the kernel's routes."""
    if more.get("leases"):
        # The file itself is gone: one that cannot be read stops a takeover, for it may hold what nobody else knows.
        (state(scene) / "leases.json").unlink()
        more = {"backup": True}
    damage(scene, **more)
    with Daemon(scene) as daemon:
        assert leases(scene) == guests, daemon.log()
        assert routes(scene) == set(guests.values())
        assert "the database is damaged" in daemon.log() and "kept aside" in daemon.log()
        ping = scene.command(
            "lab", "exec", "--name", scene.name, "host", "--", "ping", "-c1", "-W2", min(guests.values())
        )
        assert "1 received" in ping.stdout
        refused = scene.product("teardown", check=False)
        assert refused.returncode == 78, "beside a live daemon"
    with Daemon(scene) as daemon:
        assert "recalled" not in daemon.log(), "once is enough"
        assert leases(scene) == guests
    scene.product("init", *SPEC)


def test_beside_a_live_daemon_a_damaged_database_is_left_where_it_is(scene: Any, guests: dict[str, str]) -> None:
    with Daemon(scene):
        content = (state(scene) / "cocoon-net.db").read_bytes()
        damage(scene)
        told = scene.product("init", *SPEC, check=False)
        assert told.returncode == 74, told.stderr
        assert "daemon (pid" in told.stderr and "systemctl stop cocoon-net" in told.stderr
        (state(scene) / "cocoon-net.db").write_bytes(content)
