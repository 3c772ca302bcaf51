"""Which links are ports of our bridge right now, and whether it still is the bridge we knew (rtnetlink(7)).

One listing at the start, then the kernel's own notices: a cni0 that is made anew, goes down or gets another MAC is
seen at once, with no look per packet.
"""

from __future__ import annotations

import errno
import socket
from typing import NamedTuple

from cocoon_net.errors import NodeTransient
from cocoon_net.node import netlink
from cocoon_net.node.netlink import KernelLink
from cocoon_net.node.rtnetlink import messages

_NEW_LINK, _DELETED_LINK = 16, 17
_NOTICES = 1  # RTMGRP_LINK


class Seen(NamedTuple):
    """What counts of a link, as its last notice described it."""

    name: str
    mac: bytes
    master: int
    up: bool


class Watch:
    """The ports of the bridge called ``name``, in the network namespace of whoever opens it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._links: dict[int, Seen] = {}
        self.ports: dict[str, int] = {}
        """Name -> index of each port of the bridge."""
        self.names: dict[int, str] = {}
        """The same, index -> name."""
        self.index = 0
        """Of the bridge; 0 while there is none."""
        self.disturbances = 0
        """Grows whenever the bridge went, went down or got another MAC: its routes are gone, or its frames differ."""
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            self.socket.setblocking(False)
            self.socket.bind((0, _NOTICES))
            self._list()
        except BaseException:
            self.socket.close()
            raise

    @property
    def bridge(self) -> Seen | None:
        """The bridge itself, None while there is none."""
        return self._links.get(self.index)

    def drain(self) -> None:
        """Read the notices that have come. Raises NodeTransient when they, or all links, cannot be had."""
        changed = lost = False
        while True:
            try:
                changed |= self._read(self.socket.recv(1 << 16))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise NodeTransient(f"the kernel's notices of links cannot be read: {error.strerror}") from error
                lost = True  # those that still wait are older than what is lost, so they are read before the listing
        if lost:  # take the worst for granted
            self.disturbances += 1
            self._list()
        elif changed:
            self._settle()

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def _list(self) -> None:
        # It may change while it is read: each change is a notice, too, and those are read afterwards.
        self._links = {link.index: _seen(link) for link in netlink.links(moving=True)}
        self._settle()

    def _read(self, data: bytes) -> bool:
        changed = False
        for kind, _, _, _, body in messages(data):
            # The bridge's own notices about its ports say less.
            if kind not in (_NEW_LINK, _DELETED_LINK) or body[0] != socket.AF_UNSPEC:
                continue
            link = netlink.read_link(body)
            before = self._links.get(link.index)
            if kind == _DELETED_LINK:
                self._links.pop(link.index, None)
                now = None
            else:
                now = self._links[link.index] = _seen(link)
            changed |= before != now
            if link.index == self.index and before != now:
                self.disturbances += 1
        return changed

    def _settle(self) -> None:
        index = next((index for index, link in self._links.items() if link.name == self._name), 0)
        if index != self.index:
            self.index = index
            self.disturbances += 1
        self.ports = {link.name: at for at, link in self._links.items() if index and link.master == index}
        self.names = {at: name for name, at in self.ports.items()}


def _seen(link: KernelLink) -> Seen:
    return Seen(link.name, bytes.fromhex(link.mac.replace(":", "")), link.master, link.up)
