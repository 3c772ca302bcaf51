"""The sockets of the server: frames in from the bridge's ports, replies out by the port that asked (packet(7)).

The packet socket hears every link of the namespace through a filter in the kernel; a UDP socket claims port 67 of the
bridge, so that the kernel sends no "port unreachable" and a second server is noticed, and speaks to relays.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Mapping, Sequence

from cocoon_net.dhcp import bulk, frame
from cocoon_net.dhcp.bulk import Receiver, Sender
from cocoon_net.dhcp.frame import CLIENT_PORT, EVERYBODY, SERVER_PORT
from cocoon_net.dhcp.limits import BATCH
from cocoon_net.dhcp.reply import DIRECT, RELAY, ROUTED, Destination
from cocoon_net.dhcp.watch import Watch
from cocoon_net.errors import CocoonError, NodeError, NodeTransient, Refused
from cocoon_net.node import bpf

TOGETHER = 64
"""Replies handed to the kernel at once."""

_EVERY_PROTOCOL, _IPV4 = 0x0003, 0x0800
_SO_RCVBUFFORCE, _SOL_PACKET, _IGNORE_OUTGOING = 33, 263, 23
_RECEIVE_BUFFER = 8 << 20


class Ports:
    """Open sockets on one bridge, as it is now; a bridge that is made anew needs new ones.

    Raises NodeTransient while there is no such bridge, NodeError when port 67 is taken, Refused without CAP_NET_RAW.
    """

    def __init__(self, watch: Watch, name: str, server: int, everybody: Sequence[int]) -> None:
        bridge = watch.bridge
        if bridge is None or not bridge.up:
            state = "down" if bridge else "not there"
            raise NodeTransient(f"the bridge {name} is {state}", hint="run `cocoon-net init`, or wait for it")
        self._watch = watch
        self._name = name
        self.mac = bridge.mac
        self._server, self._everybody = server, everybody
        self._relays = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self.socket = self._relays
        try:
            bpf.attach(self._relays, frame.silence())
            self._relays.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode() + b"\0")
            self._relays.bind(("0.0.0.0", SERVER_PORT))
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self.socket = socket.socket(socket.AF_PACKET, kind, socket.htons(_EVERY_PROTOCOL))
            bpf.attach(self.socket, frame.kernel_filter(watch.index, bridge.mac, server, everybody))
            self.socket.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
            with contextlib.suppress(BlockingIOError):
                while True:  # what came in before the filter did, of whatever kind
                    self.socket.recv(1)
        except OSError as error:
            self.close()
            raise _refusal(error, name) from error
        self._receiver = Receiver(self.socket, BATCH)
        self._out, self._routed = Sender(self.socket, TOGETHER), Sender(self._relays, TOGETHER)

    def receive(self) -> list[tuple[bytes, str]]:
        """Return up to ``BATCH`` frames that ports of the bridge sent, each with the port's name."""
        try:
            frames = self._receiver.take()
        except OSError as error:
            if error.errno == errno.ENETDOWN:  # one link went down; the socket lives on
                return []
            raise NodeTransient(f"cannot receive on {self._name}: {error.strerror}") from error
        names = self._watch.names
        if any(index not in names for _, index in frames):
            self._watch.drain()  # a port so new that its notice is still queued
            names = self._watch.names
        return [(data, names[index]) for data, index in frames if index in names]

    @property
    def present(self) -> Mapping[str, int]:
        """The ports of the bridge, name -> index."""
        return self._watch.ports

    def mute(self, names: Iterable[str]) -> None:
        """Have the kernel drop what these ports send, and no longer what others do."""
        indexes = [index for name in names if (index := self._watch.ports.get(name))]
        with contextlib.suppress(OSError):  # the filter before stays in place: we only hear more than we need
            program = frame.kernel_filter(self._watch.index, self.mac, self._server, self._everybody, indexes)
            bpf.attach(self.socket, program)

    def send(self, payload: bytes, destination: Destination, mac: bytes, port: str, kind: int = 0) -> None:
        """Have a reply of a kind sent by the next ``flush`` at the latest.

        Straight out of the port that asked: a guest's lease is nobody else's business, and a bridge without learning
        would flood it.
        """
        way, address = destination
        if way is RELAY or way is ROUTED:
            self._routed.put(payload, bulk.inet(address, SERVER_PORT if way is RELAY else CLIENT_PORT), kind)
            return
        index = self._watch.ports.get(port)
        if index is None:  # it has just gone
            self._out.refused.append(kind)
            return
        self._out.put(
            frame.wrap(payload, self.mac, mac if way is DIRECT else EVERYBODY, self._server, address),
            bulk.link(index, _IPV4),
            kind,
        )

    def flush(self) -> list[int]:
        """Send what waits; returns the kinds of what the kernel would not take since the last time.

        Their clients ask again, nobody waits for them.
        """
        self._out.flush()
        self._routed.flush()
        refused = self._out.refused + self._routed.refused
        if refused:
            self._out.refused.clear()
            self._routed.refused.clear()
        return refused

    def close(self) -> None:
        """Close both sockets."""
        self.socket.close()
        self._relays.close()


def _refusal(error: OSError, name: str) -> CocoonError:
    match error.errno:
        case errno.EADDRINUSE:
            return NodeError(
                f"UDP port 67 of {name} is taken: another DHCP server runs here",
                hint="`ss -ulpn 'sport = :67'` names it; stop it, e.g. `systemctl disable --now dnsmasq`",
            )
        case errno.EPERM | errno.EACCES:
            return Refused(
                f"may not open DHCP sockets on {name}: {error.strerror}", hint="run as root, or with CAP_NET_RAW"
            )
        case errno.ENODEV | errno.ENXIO:
            return NodeTransient(f"the bridge {name} has just gone")
        case _:
            return NodeError(f"cannot open DHCP sockets on {name}: {os.strerror(error.errno or 0)}")
