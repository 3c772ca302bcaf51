"""leases.json, the one file that vk-cocoon reads: a picture of the book, never read back while we live.

Each row is rendered when its lease changes, and a page of 256 rows is joined when one of them has, so that a picture of
60,000 leases is one writev(2) of some hundred pages: to join all of it would hold the loop up for 4 ms. Small tables
are written before the ACK; larger ones by a thread that draws together what came meanwhile, well within the 50 ms that
matter: ``scripts/bench leases``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from loguru import logger

from cocoon_net.dhcp.decision import name
from cocoon_net.dhcp.frame import dotted
from cocoon_net.dhcp.lease import Lease, State
from cocoon_net.dhcp.wire import MAC_LENGTH
from cocoon_net.errors import CocoonError
from cocoon_net.formats import lease_file
from cocoon_net.node.files import write_atomic

AT_ONCE = 1_000
"""Rows up to which a write takes a fraction of a millisecond."""

APART = 0.03
"""Seconds between two writes of a large table: 60,000 rows are 5 MB."""

_PAGE = 8
"""Bits of a row's number within its page."""


class LeaseFile:
    """Writes the bound leases to ``path`` as ``[{"mac", "ip", "expiry"}]``, by rename, its time always moving on.

    ``update`` belongs to the server's loop. A failure is logged and tried again with the next change: the file is a
    courtesy to others, and the book has the truth.
    """

    def __init__(self, path: Path, write: Callable[[Path, Sequence[bytes]], None] | None = None) -> None:
        self._path = path
        self._write = write or _replace
        self._pages: dict[int, dict[int, bytes]] = {}
        """Page -> address -> row; the newest lease last, for it is the one that counts where a MAC has several."""
        self._page_of: dict[int, int] = {}
        self._given = 0
        """Rows put into pages so far."""
        self._joined: dict[int, bytes] = {}
        """Page -> its rows in one piece; the writer's."""
        self._stale: set[int] = set()
        """Pages that changed since they were joined."""
        self._dirty = threading.Event()
        self._stop = threading.Event()
        self._writing = threading.Lock()
        self._writer: threading.Thread | None = None
        self.failures = 0
        self.writes = 0

    def load(self, leases: Iterable[Lease]) -> None:
        """Start from what the book holds, and write it."""
        for kept in (self._pages, self._page_of, self._joined, self._stale):
            kept.clear()
        self._render(leases)
        self._put()

    def update(self, leases: Iterable[Lease]) -> None:
        """Take in what was just committed; on return it is in the file, or will be after ``APART``."""
        self._render(leases)
        if len(self._page_of) <= AT_ONCE:
            self._put()
            return
        if self._writer is None:
            self._writer = threading.Thread(target=self._run, name="leases.json", daemon=True)
            self._writer.start()
        self._dirty.set()

    def close(self) -> None:
        """Write what is pending and stop the thread."""
        self._stop.set()
        self._dirty.set()
        if self._writer is not None:
            self._writer.join(timeout=5.0)
            self._writer = None

    def _render(self, leases: Iterable[Lease]) -> None:
        for lease in leases:
            address = lease.address
            number = self._page_of.get(address)
            if lease.state is State.BOUND and len(lease.mac) == MAC_LENGTH:  # its readers know no other hardware
                if number is None:
                    number = self._page_of[address] = self._given >> _PAGE
                    self._given += 1
                self._pages.setdefault(number, {})[address] = lease_file.row(
                    name(lease.mac), dotted(address), lease.ends
                )
            elif number is None:
                continue
            else:
                del self._page_of[address], self._pages[number][address]
            self._stale.add(number)  # after the change: a page that is joined meanwhile is joined again

    def _run(self) -> None:
        while not self._stop.is_set():
            self._dirty.wait()
            self._dirty.clear()
            self._put()
            self._stop.wait(APART)
        if self._dirty.is_set():
            self._put()

    def _put(self) -> None:
        with self._writing:
            data = lease_file.pieces(self._pages_joined())
            try:
                self._write(self._path, data)
            except CocoonError as error:
                self.failures += 1
                logger.error("{} is not up to date: {}", self._path, error.told)
            else:
                self.writes += 1

    def _pages_joined(self) -> list[bytes]:
        for number in sorted(self._stale):
            self._stale.discard(number)
            # One call into C, so that the loop cannot change the page while it is joined.
            piece = b",\n".join(self._pages[number].values())
            if piece:
                self._joined[number] = piece
                continue
            self._joined.pop(number, None)
            if number < self._given >> _PAGE:  # nothing is put there any more
                del self._pages[number]
        return list(self._joined.values())


def _replace(path: Path, data: Sequence[bytes]) -> None:
    # No fsync: after a power cut it is written again from the book before the first guest is served.
    write_atomic(path, data, 0o644, fsync=False)
