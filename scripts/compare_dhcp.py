#!/usr/bin/env python3
"""Ask our DHCP server and Debian's the same questions and print where their answers differ.

Run as root: ``.venv/bin/python scripts/compare_dhcp.py [SERVER ...]`` (ours dnsmasq dhcpd kea; Debian packages
dnsmasq-base isc-dhcp-server kea-dhcp4-server). Each server gets a network namespace with a bridge and one pool of 200
addresses, all authoritative; a client with two ports on the bridge speaks raw frames. Where the readings of an RFC
differ, the line names the section. Takes half a minute per server.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from cocoon_net import records
from cocoon_net.dhcp import wire
from cocoon_net.dhcp.options import MessageType
from cocoon_net.dhcp.wire import Packet
from cocoon_net.lab import namespace
from cocoon_net.lab.bridged import bridged, ip

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = MessageType
NETWORK = IPv4Network("172.20.100.0/24")
SERVER, RELAY, NOT_POOLED = (int(NETWORK[n]) for n in (1, 250, 240))
ELSEWHERE = int(IPv4Address("10.9.9.9"))
WAIT = 0.4
"""Seconds after which no answer is silence."""

DNSMASQ = (
    "dnsmasq -k --conf-file=/dev/null --port=0 --interface=cni0 --bind-interfaces --dhcp-authoritative --no-ping"
    " --user=root --dhcp-range=172.20.100.10,172.20.100.209,255.255.255.0,3600"
)
DHCPD = """authoritative; ping-check false; default-lease-time 3600; max-lease-time 3600;
subnet 172.20.100.0 netmask 255.255.255.0 { range 172.20.100.10 172.20.100.209; option routers 172.20.100.1; }
"""
KEA = {
    "authoritative": True,
    "interfaces-config": {"interfaces": ["cni0"], "dhcp-socket-type": "raw"},
    "lease-database": {"type": "memfile", "persist": False},
    "valid-lifetime": 3600,
    "subnet4": [
        {
            "subnet": str(NETWORK),
            "pools": [{"pool": "172.20.100.10 - 172.20.100.209"}],
            "option-data": [{"name": "routers", "data": "172.20.100.1"}],
        }
    ],
}


def command(server: str, home: Path) -> list[str]:
    """Return how ``server`` is started, its files in ``home``."""
    match server:
        case "dnsmasq":
            return [*DNSMASQ.split(), f"--dhcp-leasefile={home}/leases", f"--pid-file={home}/pid"]
        case "dhcpd":
            (home / "conf").write_text(DHCPD)
            (home / "leases").touch()
            return ["dhcpd", "-f", "-q", "-4", "-cf", f"{home}/conf", "-lf", f"{home}/leases", "--no-pid", "cni0"]
        case "kea":
            (home / "conf").write_text(json.dumps({"Dhcp4": KEA}))
            return ["env", f"KEA_PIDFILE_DIR={home}", f"KEA_LOCKFILE_DIR={home}", "kea-dhcp4", "-c", f"{home}/conf"]
        case _:
            return [sys.executable, __file__, "--serve", str(home)]


def serve(home: Path) -> None:
    """Be our server, without the limits of a port: one port is many clients here."""
    from cocoon_net.dhcp.book import Book
    from cocoon_net.dhcp.limits import Limits
    from cocoon_net.dhcp.server import Server
    from cocoon_net.dhcp.settings import Settings, Terms
    from cocoon_net.store import open_database

    pool = records.Pool(NETWORK, NETWORK[1], (), tuple(NETWORK[n] for n in range(10, 210)), 1500)
    book = Book(open_database(home / "db"))
    Server(book, pool, settings=Settings(Terms(lease=3600)), limits=Limits(0, 0, 0)).run(threading.Event())


class Client:
    """Two ports on the bridge, and as many clients behind them as are asked for."""

    def __init__(self, server_mac: bytes) -> None:
        self._server_mac = server_mac
        self._count = 0
        self.heard = b""
        """The frame of the last answer."""
        self._ports = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) for _ in range(2)]
        for number, port in enumerate(self._ports):
            port.bind((f"eth{number}", 0x0800))

    def mac(self) -> bytes:
        """Return the MAC of somebody new."""
        self._count += 1
        return bytes((2, 0, 0, 9)) + self._count.to_bytes(2)

    def ask(
        self,
        kind: int,
        mac: bytes,
        *,
        server: int = 0,
        requested: int = 0,
        name: bytes = b"",
        port: int = 0,
        source: int = 0,
        direct: bool = False,
        target: int = 0xFFFFFFFF,
        asks: Sequence[int] = (1, 3, 51, 58, 59),
        more: Mapping[int, bytes] | None = None,
        change: Callable[[bytearray], object] | None = None,
        **fields: int,
    ) -> Packet | None:
        """Say something and return the answer. ``source`` is the IP address, ``direct`` means to the server's.

        ``more`` are further options, ``change`` has the octets of the message before they are sent.
        """
        said = {53: bytes((kind,)), 55: bytes(asks), **(more or {})}
        for code, value in ((54, server), (50, requested)):
            if value:
                said[code] = value.to_bytes(4)
        if name:
            said[61] = name
        self._count += 1
        xid = self._count
        octets = bytearray(wire.encode(Packet(wire.REQUEST, xid, mac, said, **fields)))
        if change is not None:
            change(octets)
        data = bytes(octets)
        size = len(data) + 8
        to, target = (self._server_mac, SERVER) if direct else (b"\xff" * 6, target)
        head = struct.pack("!BBHHHBBHII", 0x45, 0, size + 20, 0, 0, 64, 17, 0, source, target)
        total = sum(struct.unpack("!10H", head)) % 0xFFFF
        head = head[:10] + (0xFFFF - total).to_bytes(2) + head[12:]
        client = 67 if fields.get("giaddr") else 68
        udp = struct.pack("!HHHH", client, 67, size, 0)
        self._ports[port].send(to + mac + b"\x08\x00" + head + udp + data)
        return self._hear(xid)

    def _hear(self, xid: int) -> Packet | None:
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            for port in self._ports:
                port.settimeout(0.01)
                with contextlib.suppress(TimeoutError):
                    frame = port.recv(4096)
                    if frame[34:36] == b"\0\x43" and frame[42] == wire.REPLY and frame[46:50] == xid.to_bytes(4):
                        self.heard = frame
                        reply = wire.decode(frame[42:])
                        return reply if isinstance(reply, Packet) else None
        return None

    def bind(self, mac: bytes, name: bytes = b"") -> int:
        """Lease an address and return it."""
        offer = self.ask(DISCOVER, mac, name=name)
        if offer is None:
            return 0
        ack = self.ask(REQUEST, mac, server=SERVER, requested=offer.yiaddr, name=name)
        return 0 if ack is None else ack.yiaddr

    def renew(self, mac: bytes, address: int) -> Packet | None:
        """Renew a lease, or try to."""
        return self.ask(REQUEST, mac, ciaddr=address, source=address, direct=True)

    def release(self, mac: bytes, address: int) -> None:
        """Give a lease back, or try to."""
        self.ask(RELEASE, mac, ciaddr=address, source=address, server=SERVER, direct=True)


def what(reply: Packet | None, address: int = 0) -> str:
    """Say what an answer is, and whether it is about ``address``."""
    if reply is None:
        return "-"
    same = "" if not address or not reply.yiaddr else " same" if reply.yiaddr == address else " other"
    return MessageType(reply.type).name.lower() + same


def about(address: int, reply: Packet | None) -> str:
    """Say what an answer is that was asked for after ``address`` was had."""
    return what(reply, address)


def of_two(c: Client, first: bytes, second: bytes, port: int = 0) -> str:
    """Whether a second client (MAC's name first) is offered the address of a first one that has it."""
    mac = c.mac()
    mine = c.bind(mac, name=first)
    return what(c.ask(DISCOVER, mac if port < 0 else c.mac(), name=second, port=max(port, 0)), mine)


def after(c: Client, act: Callable[[bytes, int], object], who: Callable[[bytes], bytes]) -> str:
    """Whether the address of a lease is offered to whom asks for it after something was done."""
    mac = c.mac()
    mine = c.bind(mac)
    act(mac, mine)
    return what(c.ask(DISCOVER, who(mac), requested=mine), mine)


def other(c: Client) -> Callable[[bytes], bytes]:
    """Somebody else, whoever asks."""
    return lambda _: c.mac()


def offered(c: Client, name: bytes = b"") -> tuple[bytes, int]:
    """Return somebody who has an offer, and what is offered."""
    mac = c.mac()
    offer = c.ask(DISCOVER, mac, name=name)
    return mac, offer.yiaddr if offer else 0


def field(name: str, reply: Packet | None) -> str:
    """Return one header field of an answer."""
    return "-" if reply is None else f"{what(reply)} {name}={getattr(reply, name):#x}"


def where(c: Client, reply: Packet | None) -> str:
    """Say where an answer was sent."""
    if reply is None:
        return "-"
    mac = "everybody" if c.heard[:6] == b"\xff" * 6 else "its MAC"
    return f"{what(reply)} to {IPv4Address(c.heard[30:34])}:{int.from_bytes(c.heard[36:38])} at {mac}"


def put(at: int, octets: bytes) -> Callable[[bytearray], object]:
    """Return a change of a message that writes ``octets``."""
    return lambda data: data.__setitem__(slice(at, at + len(octets)), octets)


def pieces(address: bytes) -> bytes:
    """Return option 50 in two pieces."""
    return b"\x32\2" + address[:2] + b"\x32\2" + address[2:]


def hardware(c: Client, kind: int, length: int) -> str:
    """Say what is answered to other hardware, and how much of its words comes back."""
    said = bytes((kind, length)), c.mac() + b"and padding"[:10] if length else bytes(16)
    c.ask(
        DISCOVER,
        c.mac(),
        name=b"" if length else b"\xffname",
        change=lambda data: (put(1, said[0])(data), put(28, said[1])(data)),
    )
    heard, c.heard = c.heard, b""
    if heard[43:45] != said[0]:
        return "-"
    return "offer, all of chaddr" if heard[70:86] == said[1] else "offer, its address"


def options(reply: Packet | None) -> str:
    """Return the codes of an answer's options in their order."""
    return "-" if reply is None else f"{what(reply)} {' '.join(map(str, reply.options))}"


def free(n: int) -> int:
    """Return an address from the end of the pool that nobody else here asks for."""
    return int(NETWORK[209 - n])


def select(c: Client, address: int = 0, **how: int) -> Packet | None:
    """Take an offer, or another address than the one that was offered."""
    mac, mine = offered(c)
    return c.ask(REQUEST, mac, requested=address or mine, **how)


CHECKS: dict[str, Callable[[Client], str]] = {
    "2131 t3: hops of a reply to hops=3": lambda c: field("hops", c.ask(DISCOVER, c.mac(), hops=3)),
    "2131 t3: secs of a reply to secs=9": lambda c: field("secs", c.ask(DISCOVER, c.mac(), secs=9)),
    "2131 t3: flags of a nak": lambda c: field("flags", c.ask(REQUEST, c.mac(), requested=ELSEWHERE)),
    "2131 t3: options of a nak": lambda c: options(c.ask(REQUEST, c.mac(), requested=ELSEWHERE, name=b"\0me")),
    "2132 9.8: options in the order asked for": lambda c: options(c.ask(DISCOVER, c.mac(), asks=(3, 59, 51, 1, 58))),
    "6842: identifier echoed": lambda c: options(c.ask(DISCOVER, c.mac(), name=b"\0me")),
    "4.3.1: an offer is not made twice": lambda c: what(c.ask(DISCOVER, c.mac(), requested=(a := offered(c)[1])), a),
    "4.3.1: asked again, the same offer": lambda c: what(c.ask(DISCOVER, (o := offered(c))[0]), o[1]),
    "4.3.2: selecting another server": lambda c: what(select(c, server=SERVER + 1)),
    "4.3.2: selecting what was not offered": lambda c: what(select(c, free(1), server=SERVER)),
    "4.3.2: selecting without an offer": lambda c: what(c.ask(REQUEST, c.mac(), server=SERVER, requested=free(2))),
    "4.3.2: selecting what another has": lambda c: what(select(c, c.bind(c.mac()), server=SERVER)),
    "4.3.2: selecting what is not pooled": lambda c: what(select(c, NOT_POOLED, server=SERVER)),
    "4.3.2: reboot, unknown, free": lambda c: what(c.ask(REQUEST, c.mac(), requested=free(3))),
    "4.3.2: reboot, unknown, another's": lambda c: what(c.ask(REQUEST, c.mac(), requested=c.bind(c.mac()))),
    "4.3.2: reboot, unknown, not pooled": lambda c: what(c.ask(REQUEST, c.mac(), requested=NOT_POOLED)),
    "4.3.2: reboot, another network": lambda c: what(c.ask(REQUEST, c.mac(), requested=ELSEWHERE)),
    "4.3.2: renew": lambda c: what(c.renew(mac := c.mac(), c.bind(mac))),
    "4.3.2: renew, unknown, free": lambda c: what(c.renew(c.mac(), free(4))),
    "4.3.2: renew, unknown, another's": lambda c: what(c.renew(c.mac(), c.bind(c.mac()))),
    "4.3.2: renew, unknown, not pooled": lambda c: what(c.renew(c.mac(), NOT_POOLED)),
    "4.3.3: declined, offered to the same": lambda c: after(
        c, lambda mac, mine: c.ask(DECLINE, mac, server=SERVER, requested=mine), lambda mac: mac
    ),
    "4.3.3: declined by another": lambda c: after(
        c, lambda mac, mine: c.ask(DECLINE, c.mac(), server=SERVER, requested=mine), lambda mac: mac
    ),
    "4.3.4: released, offered to the same": lambda c: after(c, c.release, lambda mac: mac),
    "4.3.4: released, offered to another": lambda c: after(c, c.release, other(c)),
    "table 5: released without a server identifier": lambda c: after(
        c, lambda mac, mine: c.ask(RELEASE, mac, ciaddr=mine, source=mine, direct=True), other(c)
    ),
    "4.3.4: released by another": lambda c: after(c, lambda mac, mine: c.release(c.mac(), mine), other(c)),
    "4.3.5: inform": lambda c: options(c.ask(INFORM, c.mac(), ciaddr=NOT_POOLED, source=NOT_POOLED)),
    "4.3.5: inform from another network": lambda c: what(c.ask(INFORM, c.mac(), ciaddr=ELSEWHERE, source=ELSEWHERE)),
    "1122 3.3.6: to the subnet's broadcast address": lambda c: what(c.ask(DISCOVER, c.mac(), target=int(NETWORK[255]))),
    "1122 3.3.6: to 0.0.0.0": lambda c: what(c.ask(DISCOVER, c.mac(), target=0)),
    "2131 t1: op 2": lambda c: what(c.ask(DISCOVER, c.mac(), change=put(0, b"\2"))),
    "2131 t3: IEEE 802 hardware": lambda c: hardware(c, 6, 6),
    "2131 t3: an address of 16 octets": lambda c: hardware(c, 1, 16),
    "2131 t3: an address of 17 octets": lambda c: hardware(c, 1, 17),
    "4390 2.1: hardware without an address": lambda c: hardware(c, 32, 0),
    "2132 9.1: option 50 of 3 octets": lambda c: what(c.ask(DISCOVER, c.mac(), more={50: b"abc"})),
    "2132 9.3: an overload of 4": lambda c: what(c.ask(DISCOVER, c.mac(), more={52: b"\4"})),
    "2132 9.3: the wish in file": lambda c: what(
        c.ask(DISCOVER, c.mac(), more={52: b"\1"}, change=put(108, b"\x32\4" + free(5).to_bytes(4) + b"\xff")),
        free(5),
    ),
    "2132 9.6: two types": lambda c: what(c.ask(DISCOVER, c.mac(), more={53: b"\1\1"})),
    "3396 7: a wish in two pieces": lambda c: what(
        c.ask(
            DISCOVER,
            c.mac(),
            more={250: bytes(6)},
            change=lambda data: put(data.index(b"\xfa\6"), pieces(free(7).to_bytes(4)))(data),
        ),
        free(7),
    ),
    "2132 2: an option that runs over": lambda c: what(
        c.ask(DISCOVER, c.mac(), more={250: bytes(90)}, change=lambda data: data.__delitem__(slice(-20, None)))
    ),
    "2132 9.14: an identifier of one octet": lambda c: options(c.ask(DISCOVER, c.mac(), name=b"a")),
    "4.1: ciaddr and the broadcast flag": lambda c: where(
        c, c.ask(REQUEST, mac := c.mac(), ciaddr=(a := c.bind(mac)), source=a, flags=wire.BROADCAST)
    ),
    "4.1: the broadcast flag": lambda c: where(c, c.ask(DISCOVER, c.mac(), flags=wire.BROADCAST)),
    "4.1: a nak": lambda c: where(c, c.ask(REQUEST, c.mac(), requested=ELSEWHERE)),
    "4.3.2: renew at another server": lambda c: what(
        c.ask(REQUEST, mac := c.mac(), ciaddr=(a := c.bind(mac)), source=a, server=SERVER + 1)
    ),
    "4.3.2: renew and wish for another": lambda c: what(
        c.ask(REQUEST, mac := c.mac(), ciaddr=(a := c.bind(mac)), source=a, requested=free(6)), a
    ),
    "4.3.2: no address at all": lambda c: what(c.ask(REQUEST, c.mac())),
    "4.3.5: inform without ciaddr": lambda c: where(c, c.ask(INFORM, c.mac(), source=NOT_POOLED)),
    "4.3.5: inform without any address": lambda c: where(c, c.ask(INFORM, c.mac())),
    "4.3.5: inform through a relay": lambda c: where(
        c, c.ask(INFORM, c.mac(), ciaddr=NOT_POOLED, giaddr=RELAY, source=RELAY, direct=True)
    ),
    "3046 2.2: option 82 and a nak": lambda c: options(
        c.ask(REQUEST, c.mac(), requested=ELSEWHERE, giaddr=RELAY, source=RELAY, direct=True, more={82: b"\1\2ab"})
    ),
    "3046 2.2: an empty option 82": lambda c: options(
        c.ask(DISCOVER, c.mac(), giaddr=RELAY, source=RELAY, direct=True, more={82: b""})
    ),
    "4.2: MAC the same, identifier not": lambda c: of_two(c, b"\0one", b"\0two", port=-1),
    "4.2: MAC the same, then an identifier": lambda c: of_two(c, b"", b"\0two", port=-1),
    "4.2: MAC the same, no identifier any more": lambda c: of_two(c, b"\0one", b"", port=-1),
    "2.1: MAC the same, hardware not": lambda c: about(c.bind(mac := c.mac()), c.ask(DISCOVER, mac, htype=6)),
    "4.2: identifier the same, MAC not, nothing leased": lambda c: about(
        offered(c, b"\0new")[1], c.ask(DISCOVER, c.mac(), name=b"\0new")
    ),
    "4.2: identifier the same, MAC not": lambda c: of_two(c, b"\0card", b"\0card"),
    "4.2: a clone at another port": lambda c: of_two(c, b"\0clone", b"\0clone", port=1),
    "4.1: relayed": lambda c: field("giaddr", c.ask(DISCOVER, c.mac(), giaddr=RELAY, source=RELAY, direct=True)),
    "4.1: relayed nak, flags": lambda c: field(
        "flags", c.ask(REQUEST, c.mac(), requested=ELSEWHERE, giaddr=RELAY, source=RELAY, direct=True)
    ),
    "4.3.1: a relay of another network": lambda c: what(
        c.ask(DISCOVER, c.mac(), giaddr=ELSEWHERE, source=RELAY, direct=True)
    ),
}
"""What is asked: section of the RFC (2131 where none is named) and case -> the answer in a word."""


@contextlib.contextmanager
def bridge(name: str, client: str) -> Iterator[None]:
    """Make two namespaces: a bridge with our address, and a client with two ports of it."""
    with bridged(name, "172.20.100.1/24", client, ports=2):
        # So that its kernel answers ARP for whatever address one of the clients has.
        for part in NETWORK.address_exclude(IPv4Network("172.20.100.0/29")):
            ip("-n", client, "route", "add", "local", str(part), "dev", "eth0")
        yield


def answers(server: str) -> dict[str, str]:
    """Start ``server``, ask it everything and return its answers."""
    inside, client = f"cmp{os.getpid()}s", f"cmp{os.getpid()}c"
    with tempfile.TemporaryDirectory() as directory, bridge(inside, client):
        home = Path(directory)
        with (home / "log").open("w") as log:
            run = ["ip", "netns", "exec", inside, *command(server, home)]
            process = subprocess.Popen(run, stdout=log, stderr=log)
        try:
            time.sleep(3)
            if process.poll() is not None:
                raise SystemExit(f"{server} ended: {(home / 'log').read_text()}")
            speaker = namespace.call(lambda: namespace.enter(client), lambda: Client(bytes.fromhex("02005e000001")))
            return {name: check(speaker) for name, check in CHECKS.items()}
        finally:
            process.terminate()
            process.wait()


def main(wanted: Sequence[str]) -> int:
    """Print each check whose answers differ, and count the others."""
    programs = {"dnsmasq": "dnsmasq", "dhcpd": "dhcpd", "kea": "kea-dhcp4"}
    servers = wanted or ["ours", *(name for name, program in programs.items() if shutil.which(program))]
    found = {server: answers(server) for server in servers}
    same = 0
    for name in CHECKS:
        said = {server: found[server][name] for server in servers}
        if len(set(said.values())) == 1:
            same += 1
            continue
        print(name)
        for server, answer in said.items():
            print(f"    {server:8} {answer}")
    print(f"{same} of {len(CHECKS)} are answered alike by {', '.join(servers)}")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
    else:
        sys.exit(main(sys.argv[1:]))
