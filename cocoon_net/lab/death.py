"""The moments at which a process can die, and death itself: SIGKILL, from inside, at exactly one of them.

Three kinds of moments, counted from 1 in the order of time:

``write``  a commit to a database; ``before`` it and ``after`` it
``call``   an HTTP call, to the API or the metadata service; ``before`` it is sent, and ``after`` its effect: once the
           server has begun to answer, which is when it has done its work, the answer unread
``act``    a change of the node, ``before`` it: a netlink request that changes, a program started, a file renamed or
           removed, a kernel setting opened for writing

Nothing in the product takes part: the standard library is wrapped underneath it. The death is the kernel's: no
handler runs, nothing is flushed, other threads are wherever they are.
"""

from __future__ import annotations

import http.client
import os
import select
import signal
import socket
import sqlite3
import struct
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

KINDS = ("write", "call", "act")
_ANSWER = 60.0
"""Seconds for which an answer is waited for in order not to read it."""
_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr of netlink(7): length, type, flags, sequence, port."""
_FIRST_RTNETLINK = 16


@dataclass(frozen=True, slots=True, order=True)
class Moment:
    """One moment of one process. ``side`` is ``before`` or ``after``; its text is ``write-12-before``."""

    kind: str
    number: int
    side: str

    def __str__(self) -> str:
        return f"{self.kind}-{self.number}-{self.side}"

    @classmethod
    def parse(cls, text: str) -> Moment:
        """Read a moment from its text; ValueError if it is none."""
        kind, number, side = text.split("-")
        if kind not in KINDS or side not in ("before", "after") or not number.isdigit():
            raise ValueError(f"{text!r} is no moment such as write-12-before or call-3-after")
        return cls(kind, int(number), side)


class Watch:
    """Counts the moments of this process, reports each on a file descriptor, and ends the process at one of them."""

    def __init__(self, report: int, at: Moment | None = None) -> None:
        self._report = report
        self._at = at
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def before(self, kind: str, what: str) -> int:
        """Pass the moment before something, and return its number."""
        with self._lock:
            self._counts[kind] += 1
            number = self._counts[kind]
            self._pass(Moment(kind, number, "before"), what)
        return number

    def after(self, kind: str, number: int, what: str) -> None:
        """Pass the moment after it."""
        with self._lock:
            self._pass(Moment(kind, number, "after"), what)

    def is_last(self, kind: str, number: int) -> bool:
        """Tell whether this process is to die after this one."""
        return self._at == Moment(kind, number, "after")

    def _pass(self, moment: Moment, what: str) -> None:
        os.write(self._report, f"{moment} {what}\n".encode())
        if moment == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


def arm(report: int, at: Moment | None = None) -> Watch:
    """Watch this process from now on; it dies at ``at``. For a process that does nothing else, and only once."""
    watch = Watch(report, at)
    _watch_writes(watch)
    _watch_calls(watch)
    _watch_acts(watch)
    return watch


def _watch_writes(watch: Watch) -> None:
    class Mortal(sqlite3.Connection):
        """A connection whose commits are moments."""

        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            """Execute; a COMMIT is a moment."""
            if sql.strip().rstrip(";").upper() != "COMMIT":
                return super().execute(sql, *arguments)
            number = watch.before("write", "commit")
            done = super().execute(sql, *arguments)
            watch.after("write", number, "commit")
            return done

        def commit(self) -> None:
            """Commit, which is a moment where there is anything to commit."""
            if not self.in_transaction:
                return
            number = watch.before("write", "commit")
            super().commit()
            watch.after("write", number, "commit")

        def __exit__(self, kind: Any, error: Any, trace: Any) -> Literal[False]:
            if kind is None:
                self.commit()
            else:
                self.rollback()
            return False

    connect: Any = sqlite3.connect

    def connect_mortal(*arguments: Any, **options: Any) -> Any:
        return connect(*arguments, **{"factory": Mortal, **options})

    sqlite3.connect = connect_mortal


def _watch_calls(watch: Watch) -> None:
    connection = http.client.HTTPConnection
    putrequest, endheaders, getresponse = connection.putrequest, connection.endheaders, connection.getresponse
    under_way: dict[int, tuple[int, str]] = {}
    names: dict[int, str] = {}

    def name(self: Any, method: str, url: str, *arguments: Any, **options: Any) -> None:
        parts = urlsplit(url)
        names[id(self)] = parse_qs(parts.query).get("Action", [parts.path])[0]
        putrequest(self, method, url, *arguments, **options)

    def send(self: Any, *arguments: Any, **options: Any) -> None:
        what = names.get(id(self), "")
        under_way[id(self)] = watch.before("call", what), what
        endheaders(self, *arguments, **options)

    def receive(self: Any) -> Any:
        number, what = under_way.pop(id(self))
        if watch.is_last("call", number):
            select.select([self.sock], [], [], _ANSWER)
        watch.after("call", number, what)
        return getresponse(self)

    for attribute, wrapped in (("putrequest", name), ("endheaders", send), ("getresponse", receive)):
        setattr(connection, attribute, wrapped)


def _watch_acts(watch: Watch) -> None:
    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        match event, arguments:
            case "subprocess.Popen", (program, *_) if not str(program).endswith("-save"):
                watch.before("act", f"start {program}")
            case "os.rename", (_, target, *_):
                watch.before("act", f"rename to {Path(os.fsdecode(target)).name}")
            case "os.remove", (path, *_):
                watch.before("act", f"remove {Path(os.fsdecode(path)).name}")
            case "open", (str(path), _, int(flags)) if path.startswith("/proc/sys/") and flags & os.O_ACCMODE:
                watch.before("act", f"set {path.removeprefix('/proc/sys/')}")

    sys.addaudithook(hear)
    for attribute in ("send", "sendto", "sendmsg"):
        _watch_netlink(watch, attribute)


def _watch_netlink(watch: Watch, attribute: str) -> None:
    original = getattr(socket.socket, attribute)

    def send(self: socket.socket, data: Any, *arguments: Any) -> Any:
        if self.family == socket.AF_NETLINK:
            first = bytes(data[0] if attribute == "sendmsg" else data)[: _HEADER.size]
            kind = _HEADER.unpack(first)[1] if len(first) == _HEADER.size else 0
            # Of each four types (new, del, get, set) only "get" changes nothing (rtnetlink(7)).
            if kind >= _FIRST_RTNETLINK and kind % 4 != 2:
                watch.before("act", f"netlink {kind}")
        return original(self, data, *arguments)

    setattr(socket.socket, attribute, send)
