"""The kernel's links and addresses over rtnetlink: the only home of pyroute2, and of what its errors mean.

One ``IPRoute`` lives in one worker thread, whoever asks: pyroute2 keeps an event loop and a socket for each thread
that calls it, and never lets go of those of threads that ended. The worker lives in the network namespace of whoever
asked first, until ``close()``. Routes of leases go another way: ``routewire``.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, TypeVar

from cocoon_net.errors import CocoonError, NodeError, NodeTransient, Refused

PATIENCE = 10.0
"""Seconds that the kernel is given for one answer; it takes microseconds unless something holds the rtnl lock."""

_PASSING = frozenset({errno.EAGAIN, errno.EBUSY, errno.EEXIST, errno.EINTR, errno.ENOBUFS, errno.ENODEV, errno.ENXIO})
_IFF_UP = 1
_NUD_UNKNOWN = 0x01 | 0x20 | 0x40
"""Incomplete, failed, or nothing to ask (linux/neighbour.h)."""
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
            return NodeTransient(message, code=name)
        case _:
            return NodeError(message, hint="`dmesg` and `ip -d link` may say more", code=name)


# Links


def links() -> tuple[KernelLink, ...]:
    """Return every link of this namespace, by index. Raises Refused, NodeError."""
    return tuple(sorted((_link(m) for m in _ask("list links", lambda ipr: list(ipr.get_links()))), key=_index))


def link(name: str) -> KernelLink | None:
    """Return the link called ``name``, None when there is none. Raises Refused, NodeError."""
    found = _ask(f"look at {name}", lambda ipr: list(ipr.link("get", ifname=name)), empty={errno.ENODEV: []})
    return _link(found[0]) if found else None


def add_bridge(name: str, *, mac: str, mtu: int) -> None:
    """Make a bridge that forwards from the first moment (no spanning tree), down; EEXIST is passing: look again.

    ``mac`` counts as set by hand, so that no port changes it; ``mtu`` does not: only ``set_link`` pins it.
    """
    options = {"br_stp_state": 0, "br_forward_delay": 0}
    wanted = f"make the bridge {name} with MAC {mac} and MTU {mtu}"
    _ask(wanted, lambda ipr: ipr.link("add", ifname=name, kind="bridge", address=mac, mtu=mtu, **options))


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
        _ask(wanted, lambda ipr: ipr.link("set", index=index, **changes))


def plug(index: int, bridge: int, *, name: str = "") -> None:
    """Make a link a port of a bridge; one that is gone stays so. Raises Refused, NodeError."""
    gone = {errno.ENODEV: None, errno.ENXIO: None}
    _ask(f"plug {name or f'link {index}'} in", lambda ipr: ipr.link("set", index=index, master=bridge), empty=gone)


def delete_link(index: int, *, name: str = "") -> None:
    """Delete a link; one that is gone is success. Raises Refused, NodeError."""
    gone = {errno.ENODEV: None, errno.ENXIO: None}
    _ask(f"delete {name or f'link {index}'}", lambda ipr: ipr.link("del", index=index), empty=gone)


# Addresses


def addresses(index: int) -> tuple[IPv4Interface, ...]:
    """Return a link's IPv4 addresses in the kernel's order, the primary one of each subnet first."""
    answers = _ask(f"list addresses of link {index}", lambda ipr: list(ipr.get_addr(family=2, index=index)))
    return tuple(IPv4Interface((_local(m), m["prefixlen"])) for m in answers if m["index"] == index)


def add_address(index: int, address: IPv4Interface, *, name: str = "") -> None:
    """Add an IPv4 address; one that is there is success. Raises Refused, NodeError."""
    parts = {"index": index, "address": str(address.ip), "prefixlen": address.network.prefixlen}
    there = {errno.EEXIST: None}
    _ask(f"add {address} to {name or f'link {index}'}", lambda ipr: ipr.addr("add", **parts), empty=there)


def delete_address(index: int, address: IPv4Interface, *, name: str = "") -> None:
    """Delete an IPv4 address; one that is not there is success. Raises Refused, NodeError."""
    parts = {"index": index, "address": str(address.ip), "prefixlen": address.network.prefixlen}
    gone = {errno.EADDRNOTAVAIL: None, errno.ENODEV: None}
    _ask(f"delete {address} from {name or f'link {index}'}", lambda ipr: ipr.addr("del", **parts), empty=gone)


def neighbours(index: int) -> dict[IPv4Address, str]:
    """Return whose MAC answered for which IPv4 address on a link, as far as the kernel remembers."""
    answers = _ask(f"list neighbours of link {index}", lambda ipr: list(ipr.neigh("dump", family=2, ifindex=index)))
    found: dict[IPv4Address, str] = {}
    for message in answers:
        mac = message.get_attr("NDA_LLADDR")
        if message["ifindex"] == index and mac and not message["state"] & _NUD_UNKNOWN:
            found[IPv4Address(message.get_attr("NDA_DST"))] = str(mac).lower()
    return found


# The one IPRoute


class _Worker:
    """The one thread that speaks to the kernel, with its IPRoute; both appear when they are first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._ipr: Any = None  # touched by the worker thread only

    def ask(self, call: Callable[[Any], _T]) -> _T:
        with self._lock:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="netlink")
            answer = self._thread.submit(self._call, call)
        return answer.result(PATIENCE)

    def _call(self, call: Callable[[Any], _T]) -> _T:
        from pyroute2 import IPRoute

        if self._ipr is None:
            self._ipr = IPRoute()
        try:
            return call(self._ipr)
        except OSError:
            self._release()  # the socket itself failed; the next call opens another
            raise

    def close(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.submit(self._release)
            thread.shutdown()

    def _release(self) -> None:
        ipr, self._ipr = self._ipr, None
        if ipr is not None:
            ipr.close()


_worker = _Worker()


def close() -> None:
    """Close the socket and end its thread; the next call starts anew, in the caller's network namespace."""
    _worker.close()


def _forget() -> None:
    """After a fork the thread is the parent's: start with none."""
    global _worker
    _worker = _Worker()


os.register_at_fork(after_in_child=_forget)


def _ask(wanted: str, call: Callable[[Any], _T], empty: dict[int, Any] | None = None) -> _T:
    """Return what the kernel answers; ``empty`` maps an errno that is no error here to the answer it stands for."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        return _worker.ask(call)
    except NoAnswer:
        raise NodeTransient(f"cannot {wanted}: no answer from the kernel within {PATIENCE:g} s") from None
    except NetlinkError as error:
        code, text = int(error.code), str(error.args[1]) if len(error.args) > 1 else ""
        if empty is not None and code in empty:
            answer: _T = empty[code]
            return answer
        raise refusal(code, wanted, "" if text == os.strerror(code) else text) from error
    except OSError as error:
        raise refusal(error.errno or errno.EIO, wanted) from error


def _link(message: Any) -> KernelLink:
    info = message.get_attr("IFLA_LINKINFO")
    return KernelLink(
        index=int(message["index"]),
        name=str(message.get_attr("IFLA_IFNAME")),
        mac=str(message.get_attr("IFLA_ADDRESS") or "").lower(),
        mtu=int(message.get_attr("IFLA_MTU") or 0),
        up=bool(message["flags"] & _IFF_UP),
        kind=str(info.get_attr("IFLA_INFO_KIND") or "") if info else "",
        alias=str(message.get_attr("IFLA_IFALIAS") or ""),
        permanent_mac=str(message.get_attr("IFLA_PERM_ADDRESS") or "").lower(),
        port_of=str(info.get_attr("IFLA_INFO_SLAVE_KIND") or "") if info else "",
        master=int(message.get_attr("IFLA_MASTER") or 0),
        has_device=bool(message.get_attr("IFLA_PARENT_DEV_NAME")),
    )


def _index(found: KernelLink) -> int:
    return found.index


def _local(message: Any) -> str:
    return str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
