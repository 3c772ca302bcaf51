"""The one background process of a lab: it lives in the namespace ``<lab>-vpc`` and holds the cloud and the fabric.

It outlives every command. Killed, it loses nothing: the cloud's state is on disk, the network is in the kernel,
and the next one looks at both.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from ipaddress import IPv4Network
from pathlib import Path

from loguru import logger

from cocoon_net.errors import CocoonError, NodeError
from cocoon_net.lab import namespace
from cocoon_net.lab.fabric import METADATA, OPENAPI, Fabric
from cocoon_net.lab.lab import Lab, Shape
from cocoon_net.lab.task import look
from cocoon_net.lab.view import View

_PATIENCE = 20.0
"""Seconds for the first picture of the network."""


def start(lab: Lab, faults: Mapping[str, str]) -> None:
    """Start the process and return when nodes and API are there; raises ``NodeError`` with what it said.

    The child does nothing before its PID is on disk, so that ``down`` always finds it.
    """
    package = Path(__file__).parents[2]
    with lab.log.open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "cocoon_net.lab.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(package)},
        )
    assert child.stdin is not None and child.stdout is not None
    if task := look(child.pid):
        lab.write("process.json", json.dumps(asdict(task)))
    order = {"name": lab.name, "base": str(lab.base), "faults": dict(faults)}
    try:
        with child.stdin, child.stdout:
            child.stdin.write(json.dumps(order) + "\n")
            child.stdin.flush()
            answer = json.loads(child.stdout.readline() or '{"error": "it ended", "hint": ""}')
    except BrokenPipeError:
        answer = {"error": "it ended", "hint": ""}
    if "error" in answer:
        child.wait()
        raise NodeError(
            f"the process of the lab {lab.name} did not start: {answer['error']}",
            hint=answer["hint"] or f"see {lab.log}",
        )
    # It is init's child from now on, as far as we are concerned.
    child.returncode = 0


def main() -> int:
    """Run until SIGTERM. Reads its order from stdin, answers one line of JSON on stdout, logs to stderr."""
    line = sys.stdin.readline()
    if not line:
        # Whoever started us died before our PID was on disk.
        return os.EX_TEMPFAIL
    order = json.loads(line)
    try:
        serve(Lab(order["name"], Path(order["base"])), order["faults"])
    except CocoonError as error:
        logger.error("{}", error)
        _answer({"error": error.message, "hint": error.hint})
        return error.exit_code
    return 0


def serve(lab: Lab, faults: Mapping[str, str]) -> None:
    """Hold the cloud and the fabric of a lab until SIGTERM or until the admin asks for the end."""
    from cocoon_net.lab.cloud import Cloud, Seed

    shape = lab.shape() or Shape()
    namespace.enter(lab.namespace("vpc"))
    fabric = Fabric(lab.name, lab.mark, strict_source=shape.strict_source)
    fabric.prepare()
    shown = threading.Event()
    failures: list[CocoonError] = []

    def show(view: View) -> None:
        try:
            if changes := fabric.sync(view):
                logger.info("{} links in the VPC, {} changes", len(view.ports), changes)
        except CocoonError as error:
            failures.append(error)
            shown.set()
            raise
        failures.clear()
        shown.set()

    cidr = shape.vpc_cidr
    # Hosts where the guide has them: in the first /20, nodes from .9.230 on.
    seed = Seed(
        nodes=shape.nodes,
        vpc=cidr,
        host_subnet=IPv4Network((cidr.network_address, 20)),
        first_node=cidr[9 * 256 + 230],
        host=cidr[9 * 256 + 240],
    )
    with Cloud.start(
        lab.directory / "cloud",
        listen=(str(OPENAPI), 80),
        metadata=(str(METADATA), 80),
        seed=seed,
        faults=faults,
        on_view=show,
        admin_socket=lab.admin_socket,
    ) as cloud:
        signal.signal(signal.SIGTERM, lambda *_: cloud.stopped.set())
        lab.write("account.json", json.dumps(cloud.admin.credentials()))
        if not shown.wait(_PATIENCE):
            raise NodeError(f"the network was not there after {_PATIENCE:g} s")
        if failures:
            raise failures[0]
        logger.info("the lab {} is up with {} nodes", lab.name, shape.nodes)
        _answer({})
        cloud.stopped.wait()
    logger.info("the lab's process ends")


def _answer(answer: dict[str, str]) -> None:
    """Tell the starter, once, and let go of its pipe."""
    print(json.dumps(answer), flush=True)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
