"""The kernel's own notices of what changed on the node: rtnetlink(7), and nfnetlink for the rules of iptables-nft.

What we do ourselves all the time, the routes of leases, is left out: new ones by a filter in the kernel (socket(7),
SO_ATTACH_FILTER), so that a boot storm wakes nobody; withdrawn ones by the port that asked for it.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network

from cocoon_net.errors import NodeError
from cocoon_net.node import bpf, routewire
from cocoon_net.node.netlink import failure
from cocoon_net.node.rtnetlink import HEADER, SOL_NETLINK, attributes, messages
from cocoon_net.records import ROUTE_PROTOCOL

_INDEX = struct.Struct("=i")
_NONE = bytes(4)
_LINKS, _ADDRESSES, _ROUTES, _SETTINGS = 1, 5, 7, 24  # RTNLGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_NETCONF
_RULES = 7  # NFNLGRP_NFTABLES
_NETFILTER = 12
_NEW_ROUTE, _DELETED_ROUTE = 24, 25
_GENERATION = 10 << 8 | 15  # NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN: one for each commit of whoever
_MAIN = 254
_ADD_MEMBERSHIP, _SO_RCVBUFFORCE = 1, 33
_BUFFER = 8 << 20  # a sweep withdraws 2,048 routes at once, and each notice takes about a KB
_ALL = -1  # NETCONFA_IFINDEX_ALL


class Topic(StrEnum):
    """What changed, so that only that is looked at."""

    LINK = "link"
    ADDRESS = "address"
    ROUTE = "route"
    SETTING = "setting"
    RULES = "rules"
    LOST = "lost"
    """There were more notices than the socket holds: anything may have changed."""


@dataclass(frozen=True, slots=True)
class Stir:
    """What changed since the last time, the /32 routes that it befell, and the links that left a bridge of ours."""

    topics: frozenset[Topic] = frozenset()
    routes: frozenset[int] = frozenset()
    unplugged: frozenset[tuple[int, int]] = frozenset()
    """Port and bridge, by their numbers."""

    def __or__(self, other: Stir) -> Stir:
        return Stir(self.topics | other.topics, self.routes | other.routes, self.unplugged | other.unplugged)

    def __bool__(self) -> bool:
        return bool(self.topics)


class Notices:
    """Open in the network namespace of whoever makes it; read from one thread.

    ``names`` returns the links that matter, ``subnet`` is that of the leases. Raises Refused, NodeError.
    """

    def __init__(self, names: Callable[[], Collection[str]], subnet: IPv4Network) -> None:
        self._names, self._subnet = names, subnet
        self._indexes: set[int] = set()
        with contextlib.ExitStack() as stack:
            self._routing = stack.enter_context(_open(socket.NETLINK_ROUTE, _LINKS, _ADDRESSES, _ROUTES, _SETTINGS))
            self.sockets = [self._routing]
            with contextlib.suppress(NodeError):  # a kernel without nf_tables: audits see rules that change
                self.sockets.append(stack.enter_context(_open(_NETFILTER, _RULES)))
            self._waker, self._woken = (stack.enter_context(one) for one in socket.socketpair())
            self._close = stack.pop_all().close
        self._learn()

    def wait(self, seconds: float) -> Stir:
        """Return what changed, as soon as something did; nothing after so many seconds, or when somebody wakes us."""
        ready, _, _ = select.select([*self.sockets, self._woken], [], [], seconds)
        stir = Stir()
        if self._woken in ready:
            ready.remove(self._woken)
            self._woken.recv(1)
        for one in ready:
            stir |= self._drain(one)
        if stir:
            self._learn()
        return stir

    def wake(self) -> None:
        """Have ``wait`` return; called by another thread."""
        self._waker.send(b"\0")

    def close(self) -> None:
        """Close the sockets."""
        self._close()

    def _learn(self) -> None:
        """Know the links by their numbers, also those whose names changed or that are gone since we first saw them."""
        for name in self._names():
            with contextlib.suppress(OSError):
                self._indexes.add(socket.if_nametoindex(name))

    def _drain(self, one: socket.socket) -> Stir:
        stir, names = Stir(), self._names()
        while True:
            try:
                data = one.recv(1 << 16)
            except BlockingIOError:
                return stir
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise failure(error, "read the kernel's notices") from error
                stir |= Stir(frozenset((Topic.LOST,)))
                continue
            for message in messages(data):
                if one is not self._routing:
                    stir |= Stir(frozenset((Topic.RULES,)))
                elif message.port not in routewire.PORTS:
                    if message.kind in (16, 17) and _name(message.body) in names:  # it may be gone before we look
                        self._indexes.add(_INDEX.unpack_from(message.body, 4)[0])
                    stir |= read(message.kind, message.body, self._indexes, self._subnet)


def read(kind: int, body: memoryview, indexes: Collection[int], subnet: IPv4Network) -> Stir:
    """Say what one notice is about, if it is about a link of ours or a route of a lease. Pure."""
    match kind:
        case 17 if body[0] == socket.AF_BRIDGE:  # a port left its bridge, which is an attribute: that one goes next
            left = _INDEX.unpack(attributes(body, 16).get(10, _NONE))[0]
            port = _INDEX.unpack_from(body, 4)[0]
            return Stir(frozenset((Topic.LINK,)), unplugged=frozenset(((port, left),))) if left in indexes else Stir()
        case 16 | 17:  # ifinfomsg: the index at 4
            ours, topic = _INDEX.unpack_from(body, 4)[0] in indexes, Topic.LINK
        case 20 | 21:  # ifaddrmsg: the index at 4
            ours, topic = _INDEX.unpack_from(body, 4)[0] in indexes, Topic.ADDRESS
        case 80 | 81:  # netconfmsg: the index is an attribute
            index = _INDEX.unpack(attributes(body, 4).get(1, _NONE))[0]
            ours, topic = index == _ALL or index in indexes, Topic.SETTING
        case 24 | 25:  # rtmsg: length of the destination at 1, table at 4, protocol at 5
            target = int.from_bytes(attributes(body, 12).get(1, _NONE))
            gone, of_us = kind == _DELETED_ROUTE, body[5] == ROUTE_PROTOCOL
            # One of somebody else to an address of ours may have taken our route's place.
            if body[1] == 32 and body[4] == _MAIN and of_us == gone and _within(target, subnet):
                return Stir(frozenset((Topic.ROUTE,)), frozenset((target,)))
            return Stir()
        case _:
            return Stir()
    return Stir(frozenset((topic,))) if ours else Stir()


def _name(body: memoryview) -> str:
    return attributes(body, 16).get(3, b"").rstrip(b"\0").decode(errors="replace")


def _within(address: int, subnet: IPv4Network) -> bool:
    return address & int(subnet.netmask) == int(subnet.network_address)


def _open(family: int, *groups: int) -> socket.socket:
    """Open a socket that hears ``groups``, and of those no new route of ours and no more than the end of a commit."""
    try:
        one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, family)
    except OSError as error:
        raise failure(error, "open a netlink socket") from error
    try:
        program = _SPARE_ROUTES if family == socket.NETLINK_ROUTE else _SPARE_DETAILS
        bpf.attach(one, bpf.assemble(program))
        with contextlib.suppress(PermissionError):
            one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        one.bind((0, 0))
        for group in groups:
            one.setsockopt(SOL_NETLINK, _ADD_MEMBERSHIP, group)
    except OSError as error:
        one.close()
        raise failure(error, "hear the kernel's notices") from error
    return one


def _native(word: int) -> int:
    """Return what the filter reads of a 16-bit word that is in the machine's own order: it reads big-endian."""
    return int.from_bytes(word.to_bytes(2, sys.byteorder), "big")


_KEEP = 0x7FFFFFFF
_SPARE_ROUTES = (
    (bpf.LOAD_HALF, 4, "", ""),  # the type of the message
    (bpf.EQUAL, _native(_NEW_ROUTE), "", "keep"),
    (bpf.LOAD_BYTE, HEADER.size + 5, "", ""),  # the protocol of the route
    (bpf.EQUAL, ROUTE_PROTOCOL, "", "keep"),
    (bpf.RETURN, 0, "", ""),
    "keep",
    (bpf.RETURN, _KEEP, "", ""),
)
_SPARE_DETAILS = (
    (bpf.LOAD_HALF, 4, "", ""),
    (bpf.EQUAL, _native(_GENERATION), "", "drop"),
    (bpf.RETURN, _KEEP, "", ""),
    "drop",
    (bpf.RETURN, 0, "", ""),
)
