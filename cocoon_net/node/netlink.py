"""The kernel's links, addresses and neighbours over rtnetlink: what an errno means.

They are listed by ``rtnetlink``, in the network namespace of whoever asks, and changed through ``iproute``, but for
ports that are plugged in together. Routes of leases go another way: ``routewire``.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, TypeVar

from cocoon_net.errors import CocoonError, NodeError, NodeTransient, Refused
from cocoon_net.node import iproute, rtnetlink
from cocoon_net.node.rtnetlink import ATTRIBUTE, attributes

_PASSING = frozenset({errno.EAGAIN, errno.EBUSY, errno.EEXIST, errno.EINTR, errno.ENOBUFS, errno.ENODEV, errno.ENXIO})
_AGAIN = "it passes as a rule and is tried again; if it stays, `dmesg` and `ip -d link` may say more"
_IFF_UP = 1
_GETLINK, _SETLINK, _GETADDR, _GETNEIGH = 18, 19, 22, 30
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # ndmsg: family, index, state, flags, type
_MAC, _NAME, _MTU, _MASTER, _INFO, _ALIAS, _EXT_MASK, _PERM_MAC, _DEVICE = 1, 3, 4, 10, 18, 20, 29, 54, 56  # IFLA_...
_INFO_KIND, _INFO_PORT_KIND = 1, 4
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_NDA_DST, _NDA_LLADDR, _NDA_IFINDEX = 1, 2, 8
_NO_STATISTICS = ATTRIBUTE.pack(8, _EXT_MASK) + struct.pack("=I", 1 << 3)  # RTEXT_FILTER_SKIP_STATS
_NUD_UNKNOWN = 0x01 | 0x20 | 0x40
"""Incomplete, failed, or nothing to ask (linux/neighbour.h)."""
_NONE: Mapping[int, list[Any]] = {errno.ENODEV: []}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class KernelLink:
    """A link as the kernel describes it; MACs in lower case with colons, empty where there is none."""

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    """As the operator set it (IFF_UP), whatever the carrier says."""
    kind: str = ""
    """``bridge``, ``veth``, ``vlan``, ...; empty for hardware."""
    alias: str = ""
    permanent_mac: str = ""
    """The one burnt in, where a driver knows it: a bond changes ``mac`` but not this."""
    port_of: str = ""
    """The kind of link that it is a port of: ``bridge``, ``bond``, ...; empty when of none."""
    master: int = 0
    """The index of that link."""
    has_device: bool = False
    """Whether a device of a bus (PCI, virtio) is behind it; kernels before 5.14 never say so."""


def refusal(code: int, wanted: str, said: str = "") -> CocoonError:
    """Return the error for an errno: ``wanted`` reads after "cannot", ``said`` is what the kernel added."""
    name = errno.errorcode.get(code, str(code))
    message = f"cannot {wanted}: {os.strerror(code)} ({name}{f': {said}' if said else ''})"
    match code:
        case errno.EPERM | errno.EACCES:
            return Refused(message, hint="run as root, or give the service the capability CAP_NET_ADMIN")
        case errno.EOPNOTSUPP:
            return NodeError(message, hint="the kernel lacks it: load the module, e.g. `modprobe bridge`", code=name)
        case _ if code in _PASSING:
            return NodeTransient(message, hint=_AGAIN, code=name)
        case _:
            return NodeError(message, hint="`dmesg` and `ip -d link` may say more", code=name)


def failure(error: OSError, wanted: str) -> CocoonError:
    """Return what it means that the kernel did not do what was ``wanted``; from ``rtnetlink`` or from ``iproute``."""
    match error:
        case TimeoutError():
            return _silence(wanted, iproute.PATIENCE)
        case BlockingIOError():
            return _silence(wanted, rtnetlink.ANSWER_WITHIN)
    code, said = error.errno or errno.EIO, error.strerror or ""
    return refusal(code, wanted, "" if said == os.strerror(code) else said)


def _silence(wanted: str, seconds: float) -> NodeTransient:
    hint = "something holds the kernel's lock of links; it is tried again, and `dmesg` names a task that hangs"
    return NodeTransient(f"cannot {wanted}: no answer from the kernel within {seconds:g} s", hint=hint)


# Links


def links(*, moving: bool = False) -> tuple[KernelLink, ...]:
    """Return every link of this namespace, by index; ``moving`` as in ``rtnetlink.ask``. Raises Refused, NodeError."""
    everything = _LINK.pack(0, 0, 0, 0, 0) + _NO_STATISTICS
    look = partial(rtnetlink.ask, _GETLINK, everything, read_link, moving=moving)
    return tuple(sorted(_ask("list links", look), key=_index))


def link(name: str) -> KernelLink | None:
    """Return the link called ``name``, None when there is none. Raises Refused, NodeError."""
    named = _LINK.pack(0, 0, 0, 0, 0) + _attribute(_NAME, name.encode() + b"\0") + _NO_STATISTICS
    look = partial(rtnetlink.ask, _GETLINK, named, read_link, listing=False)
    return next(iter(_ask(f"look at {name}", look, _NONE)), None)


def add_bridge(name: str, *, mac: str, mtu: int) -> None:
    """Make a bridge that forwards from the first moment (no spanning tree), down; EEXIST is passing: look again.

    ``mac`` counts as set by hand, so that no port changes it; ``mtu`` does not: only ``set_link`` pins it.
    """
    options = {"br_stp_state": 0, "br_forward_delay": 0}
    wanted = f"make the bridge {name} with MAC {mac} and MTU {mtu}"
    _change(wanted, lambda ipr: ipr.link("add", ifname=name, kind="bridge", address=mac, mtu=mtu, **options))


def set_link(
    index: int, *, up: bool | None = None, mac: str = "", mtu: int = 0, alias: str | None = None, name: str = ""
) -> None:
    """Change what is given, in one message; ``name`` is only for the error. Raises Refused, NodeError."""
    changes: dict[str, Any] = {}
    if up is not None:
        changes["state"] = "up" if up else "down"
    if mac:
        changes["address"] = mac
    if mtu:
        changes["mtu"] = mtu
    if alias is not None:
        changes["ifalias"] = alias
    wanted = f"set {', '.join(f'{what} {value}' for what, value in changes.items())} on {name or f'link {index}'}"
    if changes:
        _change(wanted, lambda ipr: ipr.link("set", index=index, **changes))


def plug(links: Sequence[KernelLink], bridge: int) -> None:
    """Make links ports of a bridge; one that is gone stays so. Raises Refused, NodeError for the first that failed.

    All of them are by the time that it returns, or none when its process is killed before: no half of them is left out.
    """
    master = ATTRIBUTE.pack(8, _MASTER) + struct.pack("=I", bridge)
    wanted = [_LINK.pack(0, 0, link.index, 0, 0) + master for link in links]
    refused = _ask(f"plug {len(links)} links in", partial(rtnetlink.change, _SETLINK, wanted))
    for place, code in refused.items():
        if code not in (errno.ENODEV, errno.ENXIO):
            raise refusal(code, f"plug {links[place].name} in")


def delete_link(index: int, *, name: str = "") -> None:
    """Delete a link; one that is gone is success. Raises Refused, NodeError."""
    gone = {errno.ENODEV: None, errno.ENXIO: None}
    _change(f"delete {name or f'link {index}'}", lambda ipr: ipr.link("del", index=index), empty=gone)


# Addresses


def addresses(index: int) -> tuple[IPv4Interface, ...]:
    """Return a link's IPv4 addresses in the kernel's order, the primary one of each subnet first."""
    request = _ADDRESS.pack(socket.AF_INET, 0, 0, 0, index)
    found = _ask(f"list addresses of link {index}", partial(rtnetlink.ask, _GETADDR, request, _address), _NONE)
    return tuple(address for at, address in found if at == index)


def add_address(index: int, address: IPv4Interface, *, name: str = "") -> None:
    """Add an IPv4 address; one that is there is success. Raises Refused, NodeError."""
    parts = {"index": index, "address": str(address.ip), "prefixlen": address.network.prefixlen}
    there = {errno.EEXIST: None}
    _change(f"add {address} to {name or f'link {index}'}", lambda ipr: ipr.addr("add", **parts), empty=there)


def delete_address(index: int, address: IPv4Interface, *, name: str = "") -> None:
    """Delete an IPv4 address; one that is not there is success. Raises Refused, NodeError."""
    parts = {"index": index, "address": str(address.ip), "prefixlen": address.network.prefixlen}
    gone = {errno.EADDRNOTAVAIL: None, errno.ENODEV: None}
    _change(f"delete {address} from {name or f'link {index}'}", lambda ipr: ipr.addr("del", **parts), empty=gone)


def neighbours(index: int) -> dict[IPv4Address, str]:
    """Return whose MAC answered for which IPv4 address on a link, as far as the kernel remembers."""
    request = _NEIGHBOUR.pack(socket.AF_INET, 0, 0, 0, 0) + _attribute(_NDA_IFINDEX, struct.pack("=I", index))
    found = _ask(f"list neighbours of link {index}", partial(rtnetlink.ask, _GETNEIGH, request, _neighbour), _NONE)
    return {address: mac for at, address, mac in found if at == index}


# Asking


def _change(wanted: str, call: Callable[[Any], _T], empty: Mapping[int, _T] | None = None) -> _T:
    return _ask(wanted, partial(iproute.ask, call), empty)


def _ask(wanted: str, call: Callable[[], _T], empty: Mapping[int, _T] | None = None) -> _T:
    """Return what the kernel answers; ``empty`` maps an errno that is no error here to the answer it stands for."""
    try:
        return call()
    except OSError as error:
        code = error.errno or errno.EIO
        if empty is not None and code in empty:
            return empty[code]
        raise failure(error, wanted) from error


# Reading


def _attribute(kind: int, value: bytes) -> bytes:
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) & 3)


def read_link(body: memoryview) -> KernelLink:
    """Return the link that a message of the kernel is about: an answer, or a notice (RTM_NEWLINK, RTM_DELLINK)."""
    _, _, index, flags, _ = _LINK.unpack_from(body)
    known = attributes(body, _LINK.size)
    info = attributes(known.get(_INFO, b""), 0)
    return KernelLink(
        index=index,
        name=_text(known.get(_NAME)),
        mac=known.get(_MAC, b"").hex(":"),
        mtu=_number(known.get(_MTU)),
        up=bool(flags & _IFF_UP),
        kind=_text(info.get(_INFO_KIND)),
        alias=_text(known.get(_ALIAS)),
        permanent_mac=known.get(_PERM_MAC, b"").hex(":"),
        port_of=_text(info.get(_INFO_PORT_KIND)),
        master=_number(known.get(_MASTER)),
        has_device=_DEVICE in known,
    )


def _address(body: memoryview) -> tuple[int, IPv4Interface] | None:
    _, length, _, _, index = _ADDRESS.unpack_from(body)
    known = attributes(body, _ADDRESS.size)
    local = known.get(_IFA_LOCAL) or known.get(_IFA_ADDRESS)
    return (index, IPv4Interface((local, length))) if local else None


def _neighbour(body: memoryview) -> tuple[int, IPv4Address, str] | None:
    _, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
    known = attributes(body, _NEIGHBOUR.size)
    mac, address = known.get(_NDA_LLADDR), known.get(_NDA_DST)
    return (index, IPv4Address(address), mac.hex(":")) if mac and address and not state & _NUD_UNKNOWN else None


def _text(value: bytes | None) -> str:
    return value.rstrip(b"\0").decode(errors="replace") if value else ""


def _number(value: bytes | None) -> int:
    return int.from_bytes(value, sys.byteorder) if value else 0


def _index(found: KernelLink) -> int:
    return found.index
