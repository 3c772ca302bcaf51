"""Every DHCP client that Debian packages, as a guest of our server: address, routes, renewal, and its address again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.dhcp.server import Server
from cocoon_net.dhcp.settings import parse
from tests.dhcp.conftest import Node, run

pytestmark = pytest.mark.root

MAC = "52:54:00:00:00:01"
SETTINGS = 'lease-time = "1h"\ndomain = "vms.example.org"\nroutes = ["10.0.0.0/8 via 172.20.100.1"]\n'
NETWORKD, ROM = "/lib/systemd/systemd-networkd", "/usr/lib/ipxe/qemu/pxe-virtio.rom"

PRIVATE = """
# A guest's own /etc, /run, /sys, /var/lib and host name: no client may touch those of the machine.
# Its /var/lib outlives a boot: the DUID and the last lease are there.
set -e
home=$1; shift
mount -t tmpfs guest "$home"
mkdir "$home/up" "$home/work"
mount -t overlay etc -o "lowerdir=/etc,upperdir=$home/up,workdir=$home/work" /etc
mount -t tmpfs run /run
mount --bind "$home.lib" /var/lib
umount -l /sys && mount -t sysfs -o ro sysfs /sys
hostname guest1
exec "$@"
"""

UDHCPC = """#!/bin/sh
case $1 in bound|renew)
  ip address replace $ip/$mask dev $interface
  ip route replace default via $router dev $interface
  set -- $staticroutes
  while [ $# -ge 2 ]; do [ $1 = 0.0.0.0/0 ] || ip route replace $1 via $2 dev $interface; shift 2; done ;;
esac
"""

NETWORK = "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"


@dataclass
class Guest:
    """A guest's namespace, and where its client may write."""

    node: Node
    name: str
    home: Path

    def run(self, *command: str, seconds: int = 15, check: bool = True) -> str:
        """Run a client to its end, or until ``seconds`` are over."""
        script = self.home.with_suffix(".sh")
        script.write_text(PRIVATE)
        private = ("unshare", "-m", "-u", "sh", str(script), str(self.home))
        return self.node.execute(self.name, *private, "timeout", str(seconds), *command, check=check, timeout=60)


def udhcpc(guest: Guest) -> None:
    script = guest.home.with_suffix(".udhcpc")
    script.write_text(UDHCPC)
    script.chmod(0o755)
    asks = ("-O", "staticroutes", "-O", "mtu", "-x", "hostname:guest1")
    guest.run("udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "3", "-T", "1", "-s", str(script), *asks)


def dhclient(guest: Guest) -> None:
    guest.run("dhclient", "-1", "-v", "eth0")


def dhcpcd(guest: Guest) -> None:
    guest.run("dhcpcd", "-1", "-4", "-B", "--noarp", "-h", "guest1", "eth0")


def networkd(guest: Guest) -> None:
    start = (
        "mkdir -p /run/systemd/netif/leases /run/systemd/netif/links /run/systemd/netif/lldp /run/systemd/network;"
        "chown -R systemd-network /run/systemd/netif;"
        f"printf '{NETWORK}KeepConfiguration=dhcp-on-stop\n' >/run/systemd/network/eth0.network;"
        f"timeout 2 {NETWORKD} || :"
    ).replace("\n", "\\n")
    guest.run("sh", "-c", start)


NETWORK_MANAGER = """
set -e
mkdir -p /run/dbus /run/NetworkManager /var/lib/NetworkManager /etc/NetworkManager/system-connections
hostname >/etc/hostname
dbus-daemon --system --fork --nopidfile
cat >/etc/NetworkManager/NetworkManager.conf <<END
[main]
plugins=keyfile
dhcp=internal
rc-manager=unmanaged
END
cat >/etc/NetworkManager/system-connections/eth0.nmconnection <<END
[connection]
id=eth0
uuid=6fa5a1cf-2b3a-4d4c-9b51-3c41f6a1d001
type=ethernet
interface-name=eth0
[ipv4]
method=auto
[ipv6]
method=disabled
END
chmod 600 /etc/NetworkManager/system-connections/eth0.nmconnection
NetworkManager --no-daemon & manager=$!
for _ in $(seq 100); do nmcli -t -f DEVICE,STATE device 2>/dev/null | grep -qx eth0:connected && break; sleep 0.1; done
kill $manager; wait $manager || :
"""
"""With a D-Bus of its own; a /sys that cannot be written keeps it from waiting for udev."""


def network_manager(guest: Guest) -> None:
    guest.run("sh", "-c", NETWORK_MANAGER, seconds=25)


CLIENTS: dict[str, tuple[str, Callable[[Guest], None]]] = {
    "udhcpc": ("udhcpc", udhcpc),
    "isc-dhcp-client": ("dhclient", dhclient),
    "dhcpcd-base": ("dhcpcd", dhcpcd),
    "systemd": (NETWORKD, networkd),
    "network-manager": ("NetworkManager", network_manager),
}
"""Debian package -> its program, and how it is run."""


@pytest.fixture
def guest(node: Node, tmp_path: Path) -> Iterator[Guest]:
    home = tmp_path / "guest"
    home.mkdir()
    for kept in ("dhcp", "dhcpcd"):
        (tmp_path / "guest.lib" / kept).mkdir(parents=True)
    yield Guest(node, node.add_guest(MAC), home)


@pytest.mark.parametrize(
    ("package", "rapid"),
    [*((package, False) for package in CLIENTS), ("dhcpcd-base", True)],  # the one that asks for it
)
def test_a_client_has_its_network_and_finds_it_again(
    node: Any, book: Any, pool: Any, serving: Any, guest: Guest, package: str, rapid: bool
) -> None:
    program, act = CLIENTS[package]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (Debian package {package})")
    server = Server(book, pool, settings=parse(SETTINGS + f"rapid-commit = {str(rapid).lower()}\n"))
    with serving(node, server):
        for _ in range(2):
            act(guest)
            assert "inet 172.20.100.10/24" in run("ip", "-n", guest.name, "-4", "address", "show", "dev", "eth0")
            routes = run("ip", "-n", guest.name, "route")
            assert "default via 172.20.100.1 dev eth0" in routes
            assert "10.0.0.0/8 via 172.20.100.1 dev eth0" in routes
            assert "1 received" in node.execute(guest.name, "ping", "-c1", "-W2", "172.20.100.1")
        (lease,) = server.leases()
        assert lease.mac.hex(":") == MAC
        assert lease.hostname == "guest1"
        decided = server.snapshot().decided
        assert set(decided) <= {"offered", "bound", "renewed"}, "nothing was refused"
        assert ("offered" in decided) != rapid
        assert not server.snapshot().malformed


@pytest.mark.slow
def test_a_boot_loader_gets_its_lease(node: Any, book: Any, pool: Any, serving: Any, eventually: Any) -> None:
    if shutil.which("qemu-system-x86_64") is None or not Path(ROM).exists():
        pytest.skip("QEMU or its iPXE is not installed (Debian packages qemu-system-x86, ipxe-qemu)")
    node.ip("tuntap", "add", "tap0", "mode", "tap")
    node.ip("link", "set", "tap0", "master", "cni0", "up")
    machine = "-M q35,accel=tcg -m 64 -display none -nodefaults -netdev tap,id=n,ifname=tap0,script=no,downscript=no"
    card = f"-device virtio-net-pci,netdev=n,mac={MAC},bootindex=1"
    server = Server(book, pool)
    with serving(node, server):
        boot = node.inside(
            lambda: node.execute(
                node.name,
                "timeout",
                "40",
                "qemu-system-x86_64",
                *machine.split(),
                *card.split(),
                check=False,
                timeout=60,
            )
        )
        (lease,) = eventually(server.leases, seconds=40)
        assert (lease.mac.hex(":"), lease.client_id) == (MAC, b"\x01" + lease.mac)
        node.ip("link", "del", "tap0")
    del boot
