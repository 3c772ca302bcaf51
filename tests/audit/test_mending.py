"""What somebody pulls out of the kernel is back within a second, and a guest loses no more than one ping to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.dhcp.book import Book
from cocoon_net.dhcp.lease import Lease, State
from cocoon_net.lab.namespace import inside
from cocoon_net.lab.station import pinged
from cocoon_net.locks import AUDIT, locked
from cocoon_net.node import netlink, rtnetlink
from cocoon_net.store import open_database
from tests.audit.conftest import SPEC

pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_each_thing_of_the_kernel_is_back_within_a_second(node: Any) -> None:
    with node.auditing(every="3600") as log:
        address = node.guest("m1")
        for kind, pull in (
            ("route-missing", f"ip route del {address}/32 proto 174"),
            ("route-missing", f"ip route replace {address}/32 dev eth0"),
            ("sysctl", "sysctl -w net.ipv4.conf.all.rp_filter=1"),
            ("sysctl", "sysctl -w net.ipv4.ip_forward=0"),
            ("firewall", "iptables -F COCOON-NET-FORWARD"),
            ("firewall", "iptables -D FORWARD -j COCOON-NET-FORWARD"),
            ("bridge", "ip addr flush dev cni0"),
            ("bridge", "ip link set cni0 mtu 1400"),
            ("bridge", "ip link set cni0 down"),
            ("bridge", "ip link del cni0"),
            ("link-down", "ip link set eth1 down"),
            ("firewall", "ip link set eth1 down name wan9 && ip link set wan9 up"),
            ("firewall", "ip link set wan9 down name eth1 && ip link set eth1 up"),
        ):
            before = node.over()[kind]
            with pinged(node, address) as pings:
                began = time.monotonic()
                node.inside("sh", "-c", pull)
                while node.over()[kind] == before and time.monotonic() - began < 10:
                    time.sleep(0.01)
                took = time.monotonic() - began
            print(f"{kind:14} {pull:50} {took:5.2f} s, lost {len(pings.missing)} of 0.2 s", flush=True)
            assert took < 10, f"{pull}: there is no audit for an hour\n{log.read_text()}"
            assert len(pings.missing) <= 5, f"{pull}: more than one ping a second: {pings.missing}"
        assert node.inside("sysctl", "-n", "net.ipv4.conf.all.rp_filter").strip() == "0"
        assert "172.20.100.1/24" in node.inside("ip", "addr", "show", "cni0")
        assert not node.findings()


def test_what_changes_while_it_comes_up_is_not_lost(
    node: Any, eventually: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the rules are read the settings have been looked at: only a notice can tell that one of them changed."""
    done, program = tmp_path / "done", tmp_path / "iptables-save"
    damage = f"[ -e {done} ] || {{ : >{done}; sysctl -qw net.ipv4.ip_forward=0; }}"
    program.write_text(f'#!/bin/sh\n{damage}\nexec {shutil.which("iptables-save")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with node.auditing(every="3600") as log:
        assert done.exists(), log.read_text()
        eventually(lambda: node.inside("sysctl", "-n", "net.ipv4.ip_forward").strip() == "1", 10)


def test_a_bridge_that_is_deleted_again_and_again_has_its_ports_each_time(node: Any, eventually: Any) -> None:
    with node.auditing(every="3600") as log:
        guest = node.plug("tap9")
        try:
            for _ in range(12):  # also while it is being put right
                with contextlib.suppress(subprocess.CalledProcessError):  # it is not there yet
                    node.ip("link", "del", "cni0")
                time.sleep(0.03)
            eventually(lambda: "master cni0" in node.ip("link", "show", "tap9"), 20)
            node.ip("link", "set", "tap9", "nomaster")  # somebody means it
            time.sleep(1.0)
            assert "master" not in node.ip("link", "show", "tap9"), log.read_text()
        finally:
            subprocess.run(["ip", "netns", "del", guest], check=True)


def test_a_bridge_that_was_deleted_while_nobody_served_has_its_guests_again(node: Any, eventually: Any) -> None:
    """The tap of a VM learns of its bridge when the VM starts: whose lease named it as its port belongs there."""
    with node.auditing(every="3600"):
        address = node.guest("m4")
        node.plug("tap8")  # no lease was ever heard from it
    node.ip("link", "del", "cni0")
    try:
        with node.auditing(every="3600") as log, pinged(node, address) as pings:
            time.sleep(2.0)
        assert len(pings.missing) <= 5, f"{pings.missing}\n{log.read_text()}"
        assert "master" not in node.ip("link", "show", "tap8")
    finally:
        subprocess.run(["ip", "netns", "del", f"{node.name}-tap8"], check=True)


@contextlib.contextmanager
def taps(node: Any, number: int) -> Iterator[list[str]]:
    """Plug so many taps in that bound leases name; nobody serves meanwhile."""
    names = [f"tap{n}" for n in range(number)]
    first = int(IPv4Address("172.20.100.200"))
    leases = [
        Lease(first + n, State.BOUND, 2**32, bytes((2, 0, 0, 0, 1, n)), port=name) for n, name in enumerate(names)
    ]
    with contextlib.closing(open_database(node.home / "state" / "cocoon-net.db")) as database:
        Book(database).commit(leases, [])
        try:
            for name in names:
                node.ip("link", "add", name, "type", "veth", "peer", "name", f"{name}-peer")
                node.ip("link", "set", name, "master", "cni0", "up")
            yield names
        finally:
            for name in names:
                node.ip("link", "del", name)
            database.execute("DELETE FROM leases WHERE address >= ?", [first])
            database.conn.commit()


def kill_at_the_first_tap(node: Any, ear: socket.socket, before: int) -> None:
    """Kill the daemon when the first port is plugged into another bridge than that of number ``before``."""
    while True:
        for told in rtnetlink.messages(ear.recv(1 << 16)):
            link = netlink.read_link(told.body)
            if link.name.startswith("tap") and link.master not in (0, before):
                os.kill(node.daemon, signal.SIGKILL)
                return


@pytest.mark.parametrize("lives", [True, False], ids=["it lives", "it comes up"])
def test_a_daemon_that_is_killed_while_it_plugs_guests_in_leaves_none_of_them_out(node: Any, lives: bool) -> None:
    """The next one finds a bridge with ports, and takes who is not one of them for taken out."""
    with taps(node, 30) as names, inside(node.space), rtnetlink.connect() as ear, ThreadPoolExecutor(1) as pool:
        ear.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        ear.setsockopt(rtnetlink.SOL_NETLINK, 1, 1)  # NETLINK_ADD_MEMBERSHIP, RTNLGRP_LINK
        before = next(link.index for link in netlink.links() if link.name == "cni0")
        if not lives:
            node.ip("link", "del", "cni0")
        killed = pool.submit(kill_at_the_first_tap, node, ear, before)
        with contextlib.suppress(TimeoutError), node.auditing(every="3600"):  # TimeoutError: it did not come to serve
            if lives:
                node.ip("link", "del", "cni0")
            killed.result(20)
        killed.result(1)
        with node.auditing(every="3600"):
            bridge = next(link.index for link in netlink.links() if link.name == "cni0")
            assert bridge != before
            assert set(names) <= {link.name for link in netlink.links() if link.master == bridge}


def test_a_run_at_work_is_not_interfered_with(node: Any, eventually: Any) -> None:
    with node.auditing(every="3600"):
        with locked(node.home / "state" / "run.lock", what="a test", owner="init"):
            node.inside("sysctl", "-w", "net.ipv4.ip_forward=0")
            time.sleep(2.0)
            assert node.inside("sysctl", "-n", "net.ipv4.ip_forward").strip() == "0"
        eventually(lambda: node.inside("sysctl", "-n", "net.ipv4.ip_forward").strip() == "1", 20)


def test_a_command_waits_for_an_audit_that_is_putting_things_right(node: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        with locked(node.home / "state" / "run.lock", what="a test", owner=AUDIT):
            init = pool.submit(node.product, "init", *SPEC)
            time.sleep(2.5)
            assert not init.done(), init.result().stderr
        assert init.result().returncode == 0, init.result().stderr
