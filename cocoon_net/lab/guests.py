"""Guests: namespaces that stand for VMs, plugged into a node's bridge by the real CNI plugin, with real DHCP clients.

The plugin is called as cocoon calls it: in the node, with the first plugin of the node's conflist, into which the
caller puts ``cniVersion`` and ``name`` (CNI specification 1.0.0, section 4, "Deriving execution configuration").
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import shutil
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from cocoon_net.errors import NodeError, SpecError
from cocoon_net.lab import lab as labs
from cocoon_net.lab import machine, namespace
from cocoon_net.lab.lab import Lab
from cocoon_net.lab.task import end, look

CLIENTS = ("udhcpc", "dhclient", "none")
CONFLIST = "30-cocoon-dhcp.conflist"
LINK = "eth0"

_PLUGINS = Path("/usr/lib/cni")
_PACKAGES = {"udhcpc": "udhcpc", "dhclient": "isc-dhcp-client", "nc": "netcat-openbsd"}
_MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")
_SIOCGIFADDR = 0x8915
_RTMGRP_IPV4_IFADDR = 0x10

_UDHCPC_SCRIPT = """\
#!/bin/sh
# udhcpc calls this with what it learnt in the environment (busybox, networking/udhcp); $1 is what happened.
case "$1" in
deconfig)
    ip -4 address flush dev "$interface"
    ip link set "$interface" up
    ;;
bound | renew)
    env >"${0%/*}/lease"
    [ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
    [ "$1" = renew ] || ip -4 address flush dev "$interface"
    ip address replace "$ip/$mask" dev "$interface"
    for gateway in $router; do
        ip route replace default via "$gateway" dev "$interface" && break
    done
    for server in $dns; do echo "nameserver $server"; done >"${0%/*}/resolv.conf"
    ;;
esac
"""

_DHCLIENT_HOOK = """\
# dhclient-script(8): without this it would write the resolv.conf of the machine that the lab runs on.
make_resolv_conf() {
    for server in $new_domain_name_servers; do echo "nameserver $server"; done >/etc/resolv.conf
}
"""


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest: where it is plugged in, and its DHCP client."""

    name: str
    node: str
    client: str
    mac: str = ""
    """Empty: the one that the kernel chose."""
    hostname: str = ""
    """What its client calls itself."""


def add(lab: Lab, guest: Guest, patience: float = 15.0) -> IPv4Address | None:
    """Plug a guest in, start its client and return its address, None for client ``none``.

    Raises ``SpecError`` for a wrong wish, ``NodeError`` if the plugin refuses or no lease came in ``patience`` s.
    """
    namespace.require_root()
    labs.check_guest_name(lab, guest.name)
    if guest.node not in lab.nodes():
        raise SpecError(f"the lab {lab.name} has no node {guest.node}", hint=f"there are {', '.join(lab.nodes())}")
    if guest.client not in CLIENTS:
        raise SpecError(f"client {guest.client!r}: wanted {', '.join(CLIENTS)}")
    if guest.mac and not _MAC.fullmatch(guest.mac):
        raise SpecError(f"mac {guest.mac!r}: wanted a unicast address like 02:00:00:00:00:01")
    if guest.client in _PACKAGES:
        labs.require_programs({guest.client: _PACKAGES[guest.client]})
    home = lab.guests / guest.name
    if home.exists():
        raise SpecError(f"the guest {guest.name} is there", hint="choose another name, or `lab guest del` it first")
    network = _network(lab, guest.node)
    if network is None:
        raise NodeError(
            f"{guest.node} has no CNI configuration {CONFLIST}", hint="run `cocoon-net init` on the node first"
        )
    _furnish(lab, guest)
    namespace.create(lab.namespace(guest.name), lab.mark)
    try:
        _call_plugin(lab, guest, network, "ADD")
    except NodeError:
        # A plugin that refused to add may well refuse to delete; the first refusal is the one to tell.
        with contextlib.suppress(NodeError):
            remove(lab, guest.name)
        raise
    if guest.client == "none":
        return None
    machine.spawn(lab, guest.name, _client_command(guest, home), home / "client.log")
    address = wait_for_address(lab.namespace(guest.name), patience)
    if address is None:
        raise NodeError(
            f"the guest {guest.name} got no lease within {patience:g} s",
            hint=f"see {home / 'client.log'}; does `cocoon-net daemon` run on {guest.node}?",
        )
    return address


def remove(lab: Lab, name: str) -> None:
    """End a guest as a host ends a VM: at once, without a release; raises ``SpecError`` if there is none.

    It is gone also if the plugin refuses, which raises ``NodeError``.
    """
    namespace.require_root()
    guest = read(lab, name)
    space = lab.namespace(name)
    end((task for pid in namespace.members([space]) if (task := look(pid))), patience=0.0)
    network = _network(lab, guest.node)
    try:
        # Without the node or its configuration, the link ends with the guest's namespace.
        if network is not None and namespace.exists(space) and namespace.exists(lab.namespace(guest.node)):
            _call_plugin(lab, guest, network, "DEL")
    finally:
        namespace.delete(space)
        shutil.rmtree(lab.guests / name)


def read(lab: Lab, name: str) -> Guest:
    """Return a guest by name; raises ``SpecError`` if there is none."""
    text = lab.read(f"guests/{name}/guest.json")
    if text is None:
        raise SpecError(f"the lab {lab.name} has no guest {name}", hint="`cocoon-net lab guest list` shows them")
    return Guest(**json.loads(text))


def listed(lab: Lab) -> list[tuple[Guest, IPv4Address | None]]:
    """Return all guests with the addresses that they have now."""
    guests = [read(lab, path.parent.name) for path in sorted(lab.guests.glob("*/guest.json"))]
    return [(guest, address_of(lab.namespace(guest.name))) for guest in guests]


def serve(lab: Lab, name: str, port: int) -> None:
    """Listen on a TCP port in a guest until it is removed, as a desktop of a VM would."""
    labs.require_programs({"nc": _PACKAGES["nc"]})
    guest = read(lab, name)
    log = lab.guests / name / "serve.log"
    machine.spawn(lab, guest.name, ["nc", "-l", "-k", "-N", str(port)], log)
    space = lab.namespace(name)
    deadline = time.monotonic() + 5.0
    while not _listens(space, port):
        if time.monotonic() > deadline:
            raise NodeError(f"nothing listens on port {port} of the guest {name}", hint=f"see {log}")
        time.sleep(0.01)


def address_of(space: str, link: str = LINK) -> IPv4Address | None:
    """Return the first IPv4 address of a link in a namespace (netdevice(7)), None if there is none."""
    if not namespace.exists(space):
        return None
    with namespace.inside(space), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return _ask_address(probe, link)


def wait_for_address(space: str, patience: float, link: str = LINK) -> IPv4Address | None:
    """Return the address of a link as soon as it has one, None after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    with (
        namespace.inside(space),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe,
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as news,
    ):
        # Subscribed before the first look, so that no address is missed in between (rtnetlink(7)).
        news.bind((0, _RTMGRP_IPV4_IFADDR))
        while (address := _ask_address(probe, link)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            news.settimeout(left)
            try:
                news.recv(65536)
            except TimeoutError:
                return None
    return address


def _ask_address(probe: socket.socket, link: str) -> IPv4Address | None:
    try:
        answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("16s24x", link.encode()))
    except OSError:
        # No such link, or it has no address.
        return None
    return IPv4Address(answer[20:24])


def _listens(space: str, port: int) -> bool:
    """Tell whether a TCP port is open in a namespace: state 0A in proc_net_tcp(5)."""
    with namespace.inside(space):
        rows = [
            line.split()
            for family in ("tcp", "tcp6")
            if (table := Path("/proc/thread-self/net", family)).exists()
            for line in table.read_text().splitlines()[1:]
        ]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def _furnish(lab: Lab, guest: Guest) -> None:
    """Write what a guest needs of files, its record first: what has a record is removed with ``del``."""
    home = lab.guests / guest.name
    home.mkdir(parents=True)
    lab.write(f"guests/{guest.name}/guest.json", json.dumps(asdict(guest)))
    (home / "resolv.conf").touch()
    script = home / "udhcpc-script"
    script.write_text(_UDHCPC_SCRIPT)
    script.chmod(0o755)
    hooks = home / "dhclient-enter-hooks.d"
    hooks.mkdir()
    (hooks / "resolv-conf").write_text(_DHCLIENT_HOOK)


def _client_command(guest: Guest, home: Path) -> Sequence[str]:
    match guest.client:
        case "udhcpc":
            script = str(home / "udhcpc-script")
            ask = ["-t", "5", "-T", "1", "-A", "2", "-x", f"hostname:{guest.hostname or guest.name}"]
            return ["udhcpc", "-f", "-i", LINK, "-s", script, *ask]
        case _:
            # Debian's dhclient.conf has `send host-name = gethostname()`, and a guest has its own host name.
            files = ["-lf", str(home / "dhclient.leases"), "-pf", str(home / "dhclient.pid")]
            return ["dhclient", "-4", "-d", *files, LINK]


def _network(lab: Lab, node: str) -> dict[str, Any] | None:
    """Return the execution configuration of the node's plugin, None if the node has no conflist."""
    text = lab.read(f"{node}/cni/{CONFLIST}")
    if text is None:
        return None
    listing = json.loads(text)
    return {**listing["plugins"][0], "cniVersion": listing["cniVersion"], "name": listing["name"]}


def _call_plugin(lab: Lab, guest: Guest, network: dict[str, Any], verb: str) -> None:
    plugin = _PLUGINS / str(network["type"])
    labs.require_programs({str(plugin): "containernetworking-plugins"})
    settings = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": lab.namespace(guest.name),
        "CNI_NETNS": str(namespace.RUN / lab.namespace(guest.name)),
        "CNI_IFNAME": LINK,
        "CNI_PATH": str(_PLUGINS),
        "CNI_ARGS": f"IgnoreUnknown=1;MAC={guest.mac}" if guest.mac else "IgnoreUnknown=1",
    }
    command = ["env", *(f"{name}={value}" for name, value in settings.items()), str(plugin)]
    done = machine.run(lab, guest.node, command, text=json.dumps(network), patience=20.0)
    if done.code != 0:
        raise NodeError(f"the CNI plugin {plugin.name} refused {verb} for {guest.name}: {_reason(done.out)}")


def _reason(output: str) -> str:
    """Return the message of a plugin's error (CNI specification 1.0.0, section 5, "Error")."""
    try:
        answer = json.loads(output)
    except ValueError:
        return output.strip() or "it said nothing"
    return " ".join(filter(None, (answer.get("msg"), answer.get("details"))))
