"""Network namespaces with a name under ``/run/netns``, as ``ip netns`` makes them, and machines out of them.

A namespace that we make carries a mark, the alias of its ``lo``, before its name appears: whose it is can be seen
from outside, and nothing without our mark is ever deleted. Namespaces belong to threads (setns(2)), so whatever
only visits one does so in a thread of its own or comes back.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from cocoon_net.errors import NodeError, Refused

RUN = Path("/run/netns")

_LOOPBACK = 1
_CLONE_NEWNS = 0x00020000
_CLONE_NEWUTS = 0x04000000
_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SLAVE, _MS_SHARED = 1 << 12, 1 << 14, 1 << 19, 1 << 20
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


def require_root() -> None:
    """Raise ``Refused`` if we may not make namespaces."""
    if os.geteuid() != 0:
        raise Refused("the lab needs root: it makes network namespaces", hint="run the command with sudo")


def names() -> list[str]:
    """Return the names of all namespaces, also those of which only the name is left."""
    try:
        return sorted(entry.name for entry in RUN.iterdir())
    except FileNotFoundError:
        return []


def exists(name: str) -> bool:
    """Tell whether there is a namespace behind a name; a plain file is what a killed creation leaves."""
    try:
        return (RUN / name).stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
    except FileNotFoundError:
        return False


def create(name: str, mark: str) -> bool:
    """Make sure of a namespace with ``lo`` up; returns True if it was not there.

    Raises ``NodeError`` if there is one by that name which carries another mark.
    """
    if exists(name):
        if (other := mark_of(name)) != mark:
            raise NodeError(
                f"there is a network namespace {name} which is not of this lab (its mark: {other or 'none'})",
                hint="give the lab another --name, or remove that namespace",
            )
        return False
    _prepare_directory()
    call(lambda: _system("unshare", _CLONE_NEWNET), lambda: _settle(name, mark))
    return True


def delete(name: str) -> None:
    """Take a name away; the namespace and its links end with the last process in it."""
    path = RUN / name
    with contextlib.suppress(FileNotFoundError):
        while _libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:
            pass
        path.unlink()


def mark_of(name: str) -> str:
    """Return the mark of a namespace, an empty string if it has none."""
    from pyroute2 import IPRoute

    with inside(name), IPRoute() as route:
        (lo,) = route.get_links(_LOOPBACK)
        return str(lo.get("ifalias") or "")


def members(spaces: Iterable[str]) -> list[int]:
    """Return the PIDs of all processes in the namespaces of these names."""
    wanted = {(RUN / name).stat().st_ino for name in spaces if exists(name)}
    pids = []
    for entry in Path("/proc").iterdir():
        # A process may end while we look at it, and a kernel thread has nothing to see.
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "ns/net").stat().st_ino in wanted:
                pids.append(int(entry.name))
    return pids


def enter(name: str) -> None:
    """Move this thread into a namespace; raises ``NodeError`` if there is none."""
    if not exists(name):
        raise NodeError(f"there is no network namespace {name}", hint="build the lab with `cocoon-net lab up`")
    fd = os.open(RUN / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _system("setns", fd, _CLONE_NEWNET)
    finally:
        os.close(fd)


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Visit a namespace with this thread: sockets opened meanwhile stay in it."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(name)
        try:
            yield
        finally:
            _system("setns", home, _CLONE_NEWNET)
    finally:
        os.close(home)


def become(name: str, hostname: str, overlays: Mapping[Path, Path]) -> None:
    """Turn this thread into one of a machine: its network, its ``/sys/class/net``, its name, its files.

    ``overlays``: path as the machine sees it -> the file or folder that it sees there; both must exist. The mounts
    are private to this thread and what it starts, as with ip-netns(8); nobody else sees them.
    """
    enter(name)
    _system("unshare", _CLONE_NEWNS | _CLONE_NEWUTS)
    _mount(None, Path("/"), None, _MS_SLAVE | _MS_REC)
    read_only = os.statvfs("/sys").f_flag & os.ST_RDONLY
    _libc.umount2(b"/sys", _MNT_DETACH)
    _mount("sysfs", Path("/sys"), "sysfs", read_only)
    for target, source in overlays.items():
        _mount(str(source), target, None, _MS_BIND)
    socket.sethostname(hostname)


def call(place: Callable[[], None], work: Callable[[], T]) -> T:
    """Run ``place`` and then ``work`` in a thread that ends after it, so that this thread stays where it is."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(place).result()
        return pool.submit(work).result()


def _settle(name: str, mark: str) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as route:
        route.link("set", index=_LOOPBACK, state="up", ifalias=mark)
    path = RUN / name
    path.touch(mode=0o444)
    _mount("/proc/thread-self/ns/net", path, None, _MS_BIND)


def _prepare_directory() -> None:
    """Make ``/run/netns`` a shared mount, so that a name removed here is removed in every mount namespace."""
    RUN.mkdir(mode=0o755, exist_ok=True)
    try:
        _mount(None, RUN, None, _MS_SHARED | _MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Not a mount point yet.
        _mount(str(RUN), RUN, None, _MS_BIND | _MS_REC)
        _mount(None, RUN, None, _MS_SHARED | _MS_REC)


def _mount(source: str | None, target: Path, kind: str | None, flags: int) -> None:
    _system(
        "mount",
        b"none" if source is None else os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        flags,
        None,
    )


def _system(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")
