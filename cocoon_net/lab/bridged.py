"""A bridge to serve on in a namespace of its own, and a client's namespace with ports of it: what benchmarks need."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

MAC = "02:00:5e:00:00:01"
"""Of the bridge, so that no port changes it."""


@contextlib.contextmanager
def bridged(server: str, address: str, client: str = "", *, ports: int = 1) -> Iterator[None]:
    """Have ``cni0`` with ``address`` (with its prefix) in the namespace ``server``; all of it goes again.

    With a ``client`` its ports ``port0``, ``port1``, … are ``eth0``, ``eth1``, … of that namespace.
    Raises CalledProcessError.
    """
    with contextlib.ExitStack() as stack:
        for name in filter(None, (server, client)):
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", server, "link", "add", "cni0", "address", MAC, "type", "bridge")
        ip("-n", server, "addr", "add", address, "dev", "cni0")
        ip("-n", server, "link", "set", "cni0", "up")
        for number in range(ports if client else 0):
            port, link = f"port{number}", f"eth{number}"
            ip("-n", server, "link", "add", port, "type", "veth", "peer", "name", link, "netns", client)
            ip("-n", server, "link", "set", port, "master", "cni0", "up")
            ip("-n", client, "link", "set", link, "up")
        yield


def ip(*words: str) -> None:
    """Run ip(8). Raises CalledProcessError."""
    subprocess.run(["ip", *words], check=True)
