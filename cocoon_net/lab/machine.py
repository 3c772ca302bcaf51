"""The machines of a lab: to become one, and to run commands on it.

A command on a node sees what it would see there: the node's network, its host name, and cocoon-net's documented
settings in the environment. Nothing else tells the product that it is in a lab.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cocoon_net.errors import NodeError, SpecError
from cocoon_net.lab import namespace
from cocoon_net.lab.lab import Lab
from cocoon_net.lab.task import Task, look

METADATA_URL = "http://100.96.0.96"
ENDPOINT = "http://100.96.0.97"

_DHCLIENT_HOOKS = Path("/etc/dhcp/dhclient-enter-hooks.d")


@dataclass(frozen=True, slots=True)
class Output:
    """What a command left: its exit code and what it said."""

    code: int
    out: str
    errors: str


def environment(lab: Lab, machine: str, around: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which commands run on a machine, made from the one ``around``.

    Without proxies, which no machine of the VPC could reach; on a node with the documented settings of cocoon-net.
    """
    kept = {
        name: value
        for name, value in around.items()
        if not name.lower().endswith("_proxy") and not name.startswith(("COCOON_NET_", "VOLCENGINE_", "VOLCSTACK_"))
    }
    path = [str(Path(sys.executable).parent), *kept.get("PATH", os.defpath).split(":"), "/usr/sbin", "/sbin"]
    kept["PATH"] = ":".join(dict.fromkeys(path))
    if machine not in lab.nodes():
        return kept
    account = json.loads(lab.read("account.json") or "{}")
    home = lab.directory / machine
    return kept | {
        "COCOON_NET_STATE_DIR": str(home / "state"),
        "COCOON_NET_CNI_CONF_DIR": str(home / "cni"),
        "COCOON_NET_RUN_DIR": str(home / "run"),
        "COCOON_NET_METADATA_URL": METADATA_URL,
        "VOLCENGINE_ENDPOINT": ENDPOINT,
        "VOLCENGINE_ACCESS_KEY_ID": account.get("access_key", ""),
        "VOLCENGINE_SECRET_ACCESS_KEY": account.get("secret_key", ""),
        "VOLCENGINE_REGION": account.get("region", ""),
    }


def become(lab: Lab, machine: str) -> None:
    """Turn this thread into one of a machine; raises ``SpecError`` if the lab has no such machine."""
    if machine not in (machines := lab.machines()):
        raise SpecError(f"the lab {lab.name} has no {machine}", hint=f"there are {', '.join(machines)}")
    home = lab.guests / machine
    overlays = {Path("/etc/resolv.conf"): home / "resolv.conf", _DHCLIENT_HOOKS: home / "dhclient-enter-hooks.d"}
    guest = json.loads(lab.read(f"guests/{machine}/guest.json") or "{}")
    namespace.become(
        lab.namespace(machine),
        guest.get("hostname") or machine,
        {target: source for target, source in overlays.items() if target.exists() and source.exists()},
    )


def execute(lab: Lab, machine: str, command: Sequence[str]) -> NoReturn:
    """Become a command on a machine: this process is replaced, so signals and exit code are the command's."""
    namespace.require_root()
    become(lab, machine)
    settings = environment(lab, machine, os.environ)
    try:
        os.execvpe(command[0], list(command), settings)
    except OSError as error:
        raise NodeError(f"cannot run {command[0]} on {machine}: {error.strerror}") from None


def spawn(lab: Lab, machine: str, command: Sequence[str], log: Path) -> Task:
    """Start a command on a machine that outlives this process; its output goes to ``log``."""

    def begin() -> Task:
        with log.open("ab") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=environment(lab, machine, os.environ),
            )
        task = look(child.pid)
        # Nobody here waits for it: it is init's from now on.
        child.returncode = 0
        if task is None:
            raise NodeError(f"{command[0]} ended at once on {machine}", hint=f"see {log}")
        return task

    return namespace.call(lambda: become(lab, machine), begin)


def run(lab: Lab, machine: str, command: Sequence[str], *, text: str = "", patience: float = 60.0) -> Output:
    """Run a command on a machine to its end and return what it said; ``text`` is its stdin."""

    def work() -> Output:
        settings = environment(lab, machine, os.environ)
        try:
            done = subprocess.run(
                command, input=text, capture_output=True, text=True, timeout=patience, env=settings, check=False
            )
        except FileNotFoundError:
            raise NodeError(f"cannot run {command[0]} on {machine}: there is no such program") from None
        except subprocess.TimeoutExpired:
            raise NodeError(f"{command[0]} on {machine} did not end within {patience:g} s") from None
        return Output(done.returncode, done.stdout, done.stderr)

    return namespace.call(lambda: become(lab, machine), work)
