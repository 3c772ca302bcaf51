"""A lab to die in, and a photograph of its whole world."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.lab.cloud import Admin

SETTINGS = ("net.ipv4.ip_forward", "net.ipv4.conf.all.rp_filter", "net.ipv4.conf.eth0.rp_filter")
DIE = Path(__file__).with_name("die.py")


@dataclass
class Scene:
    """One lab of one node."""

    name: str
    directory: Path
    settings: dict[str, str] = field(default_factory=dict)
    """Of the product's environment, besides those of the lab."""

    def command(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of the product outside the lab."""
        line = [sys.executable, "-m", "cocoon_net", *words]
        done = subprocess.run(line, capture_output=True, text=True, timeout=240, env=self.environment())
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def environment(self) -> dict[str, str]:
        return {**os.environ, "COCOON_NET_LAB_DIR": str(self.directory)}

    def on_node(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as on node1."""
        return self.command("lab", "exec", "--name", self.name, "node1", "--", *words, check=check)

    def product(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run cocoon-net as on node1."""
        return self.on_node(*self._python(), "-m", "cocoon_net", *words, check=check)

    def _python(self) -> tuple[str, ...]:
        return ("env", *(f"{name}={value}" for name, value in self.settings.items()), sys.executable)

    def die(self, moment: str, *words: str) -> None:
        """Run cocoon-net as on node1, and have it die at a moment."""
        killed = self.on_node(*self._python(), str(DIE), moment, *words, check=False)
        assert killed.returncode in (128 + signal.SIGKILL, -signal.SIGKILL), killed.stderr

    @property
    def admin(self) -> Admin:
        return Admin(self.directory / self.name / "cloud" / "admin.sock")

    def cloud(self) -> dict[str, Any]:
        """Photograph the cloud: everything but ids, times and the lineage."""
        state = self.admin.state()
        interfaces = [
            (
                tags(row).get("cocoon-net:key", row["name"]),
                row["status"],
                bool(row["instance_id"]),
                len(row["secondaries"]),
                len(row["groups"]),
                sorted(key for key in tags(row) if key != "cocoon-net:lineage"),
            )
            for row in state["interfaces"]
        ]
        groups = [
            (
                row["name"],
                sorted((r["direction"], str(r["cidr"]), r["protocol"], r["port_start"]) for r in row["rules"]),
            )
            for row in state["groups"]
        ]
        return {
            "subnets": sorted((row["cidr"], row["status"], row["free"]) for row in state["subnets"]),
            "interfaces": sorted(interfaces),
            "groups": sorted(groups),
        }

    def node(self) -> dict[str, Any]:
        """Photograph the node: links, addresses, routes, rules, settings, files."""
        links = []
        for link in json.loads(self.on_node("ip", "-d", "-j", "addr").stdout):
            if link["ifname"] == "lo":
                continue
            addresses = sorted(f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["family"] == "inet")
            kind = link.get("linkinfo", {}).get("info_kind")
            name = link["ifname"] if link["ifname"] in ("eth0", "cni0") else "eth"
            pinned = link["address"] if name == "cni0" else ""
            links.append((name, kind, "UP" in link["flags"], link["mtu"], addresses, link.get("ifalias", ""), pinned))
        rules = self.on_node("iptables-save").stdout
        home = self.directory / self.name / "node1"
        files = {
            str(path.relative_to(home)): scrub(path.read_text())
            for folder in ("state", "cni", "run")
            for path in sorted((home / folder).rglob("*"))
            if path.is_file() and not path.name.startswith(("cocoon-net.db", "run.lock", "daemon.lock"))
        }
        return {
            "links": sorted(links, key=str),
            "routes": sorted(self.on_node("ip", "route", "show", "table", "all", "proto", "174").stdout.split("\n")),
            "rules": [line for line in rules.splitlines() if line.startswith(("-", ":COCOON"))],
            "settings": self.on_node("sysctl", *SETTINGS).stdout,
            "files": files,
        }

    def world(self) -> dict[str, Any]:
        """Photograph all of it."""
        return {"cloud": self.cloud(), "node": self.node()}


def tags(row: dict[str, Any]) -> dict[str, str]:
    return dict(row["tags"])


def scrub(text: str) -> str:
    """Take out of a file what is the cloud's choice: ids, times, which addresses, which link came first."""
    return re.sub(r'"(updatedAt|subnetID)": "[^"]*"|"eni-[^"]*"|"172[^"/]*"|"eth[1-9]"', "…", text)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    scene = Scene(f"c{os.getpid() % 100000}", tmp_path_factory.mktemp("lab"))
    scene.command("lab", "up", "--name", scene.name, "--nodes", "1")
    try:
        # What was there before us, and must be there after us.
        scene.on_node("sysctl", *(f"{name}=2" for name in SETTINGS if name.endswith("rp_filter")))
        scene.on_node("iptables", "-A", "FORWARD", "-s", "10.9.9.9", "-j", "DROP")
        scene.admin.plant_interface(instance="node1", name="theirs", secondaries=2)
        scene.admin.plant_interface(name="lost", tags={"cocoon-net:product": "cocoon-net", "cocoon-net:node": "other"})
        yield scene
    finally:
        scene.command("lab", "down", "--name", scene.name)
