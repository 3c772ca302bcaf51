"""A DHCP client that only asks: who answers on the bridge, what do they say, and is it us?

It asks from a TAP of its own, as a VM would: the kernel takes such a port away with the process that holds it, so
that nothing is left behind by whatever death. It never requests what is offered; our server holds an offer for half a
minute. scapy builds, decodes and stores the packets: it shares no line with our codec.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Any

from cocoon_net.errors import NodeError, Refused
from cocoon_net.node import netlink

PREFIX = "cnprobe"
"""Of the temporary port's name; our process id follows."""

ASK_EVERY = 1.0
PARAMETERS = [1, 3, 6, 12, 15, 26, 28, 51, 54, 58, 59, 119, 121]
"""What a common client wants to know."""

_TUN = Path("/dev/net/tun")
_SET_INTERFACE, _TAP_WITHOUT_HEADER = 0x400454CA, 0x0002 | 0x1000  # TUNSETIFF, IFF_TAP | IFF_NO_PI
_ADD_TO_BRIDGE, _GET_FLAGS, _SET_FLAGS, _UP = 0x89A2, 0x8913, 0x8914, 0x1  # SIOCBRADDIF, SIOC[GS]IFFLAGS, IFF_UP
_LARGEST_FRAME = 65_536


@dataclass(frozen=True, slots=True)
class Offer:
    """One answer that was heard."""

    kind: str
    """``offer``, ``ack``, ``nak``."""
    server: str
    """Its server identifier, option 54; empty when it names none."""
    mac: str
    """Where the frame came from."""
    address: str
    """What it offers; 0.0.0.0 for nothing."""
    after: float
    """Seconds since the question."""
    ours: bool
    """Whether address and MAC of the server are those of the bridge itself."""
    options: tuple[tuple[str, str], ...]
    """Each option by scapy's name, with its value as text."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a probe heard within its time."""

    link: str
    client: str
    """The MAC that it asked with."""
    asked: int
    """How many DISCOVERs it sent."""
    offers: tuple[Offer, ...]

    @property
    def rogues(self) -> tuple[Offer, ...]:
        """The answers of others than us, one per server."""
        return tuple({(one.server, one.mac): one for one in self.offers if not one.ours}.values())

    @property
    def answered(self) -> bool:
        """Whether we answered."""
        return any(one.ours for one in self.offers)

    def as_json(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {**asdict(self), "answered": self.answered, "rogues": [asdict(one) for one in self.rogues]}


class Tap:
    """A port of ``bridge`` that lives as long as this process holds it. ``with`` it; raises NodeError, Refused."""

    def __init__(self, bridge: str) -> None:
        self.name = f"{PREFIX}{os.getpid()}"
        try:
            self._file = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
            try:
                request = struct.pack("16sH22x", self.name.encode(), _TAP_WITHOUT_HEADER)
                fcntl.ioctl(self._file, _SET_INTERFACE, request)
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                    index = socket.if_nametoindex(self.name)
                    fcntl.ioctl(control, _ADD_TO_BRIDGE, struct.pack("16si20x", bridge.encode(), index))
                    flags = struct.unpack("16xH22x", fcntl.ioctl(control, _GET_FLAGS, self._request()))[0]
                    fcntl.ioctl(control, _SET_FLAGS, self._request(flags | _UP))
            except BaseException:
                os.close(self._file)
                raise
        except PermissionError as error:
            raise Refused(f"may not make a port of {bridge}: {error.strerror}", hint="run as root") from error
        except OSError as error:
            raise NodeError(
                f"cannot make a port of {bridge}: {error.strerror}",
                hint="`modprobe tun` if /dev/net/tun is missing; `ip -d link` shows whether the link is a bridge",
            ) from error

    def _request(self, flags: int = 0) -> bytes:
        return struct.pack("16sH22x", self.name.encode(), flags)

    def send(self, frame: bytes) -> None:
        """Send a frame as the guest of this port."""
        os.write(self._file, frame)

    def receive(self, seconds: float) -> bytes | None:
        """Return a frame that the bridge sent to this port, None when none came in time."""
        ready, _, _ = select.select([self._file], [], [], max(0.0, seconds))
        return os.read(self._file, _LARGEST_FRAME) if ready else None

    def __enter__(self) -> Tap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


def probe(
    link: str,
    *,
    mac: str = "",
    seconds: float = 3.0,
    pcap: Path | None = None,
    heard: Callable[[Offer], None] = lambda offer: None,
) -> Found:
    """Ask on the bridge ``link`` for ``seconds`` and return who answered; ``heard`` is called with each answer.

    ``mac`` is the client to ask as; by default one that nobody has. A MAC that has a live lease at another port gets
    no answer from us: that is the guard's. ``pcap`` gets every DHCP frame, both ways. Raises NodeError, Refused.
    """
    from scapy.layers.dhcp import BOOTP
    from scapy.layers.l2 import Ether
    from scapy.utils import PcapWriter

    bridge = netlink.link(link)
    if bridge is None or bridge.kind != "bridge":
        state = f"is a {bridge.kind or 'device'}, not a bridge" if bridge else "is not there"
        raise NodeError(
            f"{link} {state}", hint="give the bridge with --link; `ip -br link show type bridge` lists them"
        )
    own = {address.ip for address in netlink.addresses(bridge.index)}
    client = mac or "02:" + ":".join(f"{octet:02x}" for octet in secrets.token_bytes(5))
    xid = secrets.randbits(32)
    question = _discover(client, xid)
    offers: list[Offer] = []
    writer = PcapWriter(str(pcap), linktype=1, sync=True) if pcap is not None else None
    try:
        with Tap(link) as tap:
            began = time.monotonic()
            asked = 0
            while (past := time.monotonic() - began) < seconds:
                if past >= asked * ASK_EVERY:
                    asked += 1
                    tap.send(question)
                    if writer is not None:
                        writer.write(Ether(question))
                frame = tap.receive(min(seconds, asked * ASK_EVERY) - past)
                if frame is None:
                    continue
                packet = Ether(frame)
                if BOOTP not in packet:
                    continue
                if writer is not None:
                    writer.write(packet)
                if packet[BOOTP].op == 2 and packet[BOOTP].xid == xid:
                    offers.append(_read(packet, time.monotonic() - began, own, bridge.mac))
                    heard(offers[-1])
    finally:
        if writer is not None:
            writer.close()
    return Found(link, client, asked, tuple(offers))


def _discover(mac: str, xid: int) -> bytes:
    from scapy.layers.dhcp import BOOTP, DHCP
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    raw = bytes.fromhex(mac.replace(":", ""))
    options = [
        ("message-type", "discover"),
        ("client_id", b"\x01" + raw),
        ("param_req_list", PARAMETERS),
        ("max_dhcp_size", 1500),
        "end",
    ]
    packet = (
        Ether(src=mac, dst="ff:ff:ff:ff:ff:ff")
        / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67)
        / BOOTP(chaddr=raw, xid=xid, flags="B")  # broadcast: a guest that cannot be reached otherwise hears it, too
        / DHCP(options=options)
    )
    return bytes(packet)


def _read(packet: Any, after: float, own: set[IPv4Address], mac: str) -> Offer:
    from scapy.layers.dhcp import BOOTP, DHCP, DHCPTypes
    from scapy.layers.l2 import Ether

    options: list[tuple[str, str]] = []
    kind = server = ""
    for option in packet[DHCP].options if DHCP in packet else ():
        match option:
            case ("message-type", code):
                kind = DHCPTypes.get(code, str(code))
            case ("server_id", address):
                server = str(address)
            case (name, *values):
                options.append((str(name), ", ".join(_text(value) for value in values)))
            case _:  # pad, end
                pass
    source = str(packet[Ether].src)
    ours = source == mac and server in {str(address) for address in own}
    return Offer(kind, server, source, str(packet[BOOTP].yiaddr), after, ours, tuple(options))


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode() if value.isascii() and value.decode().isprintable() else value.hex(":")
    return str(value)
