"""Which links are ports of our bridge right now, and whether it still is the bridge we knew (rtnetlink(7)).

One listing at the start, then the kernel's own notices: a cni0 that is made anew, goes down or gets another MAC is
seen at once, with no look per packet.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from typing import NamedTuple

from cocoon_net.errors import NodeTransient
from cocoon_net.node.rtnetlink import HEADER, attributes, messages

_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_NEW_LINK, _DELETED_LINK, _GET_LINK, _DONE, _ERROR = 16, 17, 18, 3, 2
_LIST = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_NOTICES = 1  # RTMGRP_LINK
_ADDRESS, _NAME, _MASTER = 1, 3, 10
_UP = 1


class Seen(NamedTuple):
    """A link as its last notice described it."""

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
            self.socket.bind((0, _NOTICES))
            self.socket.settimeout(5.0)
            self._list()
        except BaseException:
            self.socket.close()
            raise
        self.socket.setblocking(False)

    @property
    def bridge(self) -> Seen | None:
        """The bridge itself, None while there is none."""
        return self._links.get(self.index)

    def drain(self) -> None:
        """Read the notices that have come. Raises NodeTransient when the kernel does not answer."""
        changed = False
        while True:
            try:
                changed |= self._read(self.socket.recv(1 << 16))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise NodeTransient(f"the kernel's notices of links cannot be read: {error.strerror}") from error
                # Notices were lost: look at everything again, and take the worst for granted.
                self.disturbances += 1
                self.socket.settimeout(5.0)
                self._list()
                self.socket.setblocking(False)
                return
        if changed:
            self._settle()

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def _list(self) -> None:
        self._links.clear()
        request = _LINK.pack(0, 0, 0, 0, 0)
        try:
            self.socket.send(HEADER.pack(HEADER.size + len(request), _GET_LINK, _LIST, 1, 0) + request)
            while True:
                data = self.socket.recv(1 << 17)
                self._read(data)
                if any(message.kind in (_DONE, _ERROR) for message in messages(data)):
                    break
        except OSError as error:
            raise NodeTransient(f"the kernel does not list its links: {error}") from error
        self._settle()

    def _read(self, data: bytes) -> bool:
        changed = False
        for kind, _, _, _, body in messages(data):
            if kind not in (_NEW_LINK, _DELETED_LINK):
                continue
            family, _, index, flags, _ = _LINK.unpack_from(body)
            if family != socket.AF_UNSPEC:  # the bridge's own notices about its ports say less
                continue
            before = self._links.get(index)
            if kind == _DELETED_LINK:
                self._links.pop(index, None)
                now = None
            else:
                known = dict(attributes(body, _LINK.size))
                name = known.get(_NAME, b"").rstrip(b"\0").decode(errors="replace")
                master = int.from_bytes(known.get(_MASTER, b""), sys.byteorder)
                now = self._links[index] = Seen(name, known.get(_ADDRESS, b""), master, bool(flags & _UP))
            changed |= before != now
            if index == self.index and before != now:
                self.disturbances += 1
        return changed

    def _settle(self) -> None:
        index = next((index for index, link in self._links.items() if link.name == self._name), 0)
        if index != self.index:
            self.index = index
            self.disturbances += 1
        self.ports = {link.name: at for at, link in self._links.items() if index and link.master == index}
        self.names = {at: name for name, at in self.ports.items()}
