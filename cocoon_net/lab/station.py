"""One node of a lab as its operator has it: the product's commands, the daemon, the kernel; for proofs and benchmarks.

Everything is typed as an operator would type it, in a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cocoon_net.lab.cloud import Admin
from cocoon_net.lab.patience import eventually

_PRODUCT = (sys.executable, "-m", "cocoon_net")


@dataclass
class Station:
    """node1 of the lab ``name``, whose files are below ``base``."""

    name: str
    base: Path

    @property
    def home(self) -> Path:
        """Where the node's files are: ``state``, ``cni``, ``run``."""
        return self.base / self.name / "node1"

    @property
    def space(self) -> str:
        """The node's network namespace."""
        return f"{self.name}-node1"

    @property
    def admin(self) -> Admin:
        """What the lab's cloud can be told behind the node's back."""
        return Admin(self.base / self.name / "cloud" / "admin.sock")

    def environment(self) -> dict[str, str]:
        """Return the environment of every command."""
        return {**os.environ, "COCOON_NET_LAB_DIR": str(self.base)}

    def line(self, *words: str) -> list[str]:
        """Return the line that runs a command on the node, with the node's environment."""
        return [*_PRODUCT, "lab", "exec", "--name", self.name, "node1", "--", *words]

    def product(self, *words: str, patience: float = 120) -> subprocess.CompletedProcess[str]:
        """Type a command of ours on the node."""
        line = self.line(*_PRODUCT, *words)
        return subprocess.run(line, env=self.environment(), capture_output=True, text=True, timeout=patience)

    def lab(self, *words: str) -> str:
        """Type a command of the lab; the words after the name of the command. Raises RuntimeError."""
        command, rest = (words[:2], words[2:]) if words[0] == "guest" else (words[:1], words[1:])
        line = [*_PRODUCT, "lab", *command, "--name", self.name, *rest]
        done = subprocess.run(line, env=self.environment(), capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.returncode}: {done.stderr}")
        return done.stdout

    def cloud(self, action: str, **params: Any) -> Any:
        """Call the lab's cloud as an operator with the console would. Raises RuntimeError."""
        words = [f"{key}={json.dumps(value)}" for key, value in params.items()]
        return json.loads(self.lab("call", "node1", action, *words))

    def ip(self, *words: str) -> str:
        """Run ip(8) for the node's namespace. Raises CalledProcessError."""
        return subprocess.run(["ip", "-n", self.space, *words], check=True, capture_output=True, text=True).stdout

    def inside(self, *words: str) -> str:
        """Run a command in the node's network namespace; faster than as its user would. Raises CalledProcessError."""
        line = ["ip", "netns", "exec", self.space, *words]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout

    @property
    def daemon(self) -> int:
        """The pid of the live daemon."""
        return int(json.loads((self.home / "state" / "daemon.lock").read_text())["pid"])

    @contextlib.contextmanager
    def serving(self, *options: str) -> Iterator[Path]:
        """Have a daemon; yields its log. Raises TimeoutError when it does not come to serve."""
        log = self.home / "daemon.log"
        line = self.line(*_PRODUCT, "daemon", *options)
        with log.open("w") as out, subprocess.Popen(line, env=self.environment(), stderr=out) as process:
            try:
                eventually(lambda: "serving:" in log.read_text() or process.poll() is not None, 30)
                if process.poll() is not None:
                    raise TimeoutError(f"the daemon does not serve: {log.read_text()}")
                yield log
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.daemon, signal.SIGTERM)
                process.wait(20)

    def plug(self, port: str) -> str:
        """Plug a namespace of its own into the node's bridge; returns its name. The lab's end takes neither along."""
        guest = f"{self.name}-{port}"
        subprocess.run(["ip", "netns", "add", guest], check=True)
        self.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", guest)
        self.ip("link", "set", port, "master", "cni0", "up")
        subprocess.run(["ip", "-n", guest, "link", "set", "eth0", "up"], check=True)
        return guest


@contextlib.contextmanager
def station(station: Station, *spec: str, nodes: int = 1) -> Iterator[Station]:
    """Set up a lab and provision its node with the flags ``spec``; all of it goes again."""
    station.lab("up", "--nodes", str(nodes))
    try:
        done = station.product("init", *spec)
        if done.returncode:
            raise RuntimeError(f"init: {done.returncode}: {done.stderr}")
        yield station
    finally:
        station.lab("down")


@dataclass
class Pings:
    """What came of pings, once they have ended."""

    sent: int = 0
    missing: list[int] = field(default_factory=list)
    """The numbers of those that were not answered."""


@contextlib.contextmanager
def pinged(node: Station, address: str) -> Iterator[Pings]:
    """Have another machine of the VPC ping a guest each 0.2 s."""
    words = ["ip", "netns", "exec", f"{node.name}-host", "ping", "-i", "0.2", "-W", "1", address]
    pings = Pings()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(0.5)
        yield pings
        time.sleep(1.0)
    finally:
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=20)
    answers = [line for line in told.splitlines() if " bytes from " in line]  # a router may say "unreachable"
    seen = {int(line.partition("icmp_seq=")[2].split()[0]) for line in answers}
    pings.sent = int(told.partition(" packets transmitted")[0].split()[-1])
    pings.missing = sorted(set(range(1, pings.sent + 1)) - seen)
