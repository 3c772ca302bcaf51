"""Every address of the pool and who has it, in memory: no operation looks at more than it touches.

``leases`` is exactly what the book holds on disk. Offers lie over it in a table of their own, so that a guest which
only ever asks, under however many MACs, cannot make us forget whose address an address was.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable

from cocoon_net.dhcp.lease import Lease, State
from cocoon_net.dhcp.pool import Pool


class Allocator:
    """The table of leases and offers of one pool. Not thread-safe: the server's loop owns it.

    A MAC is named by at most one lease and by at most one offer; the gateway never enters.
    """

    def __init__(self, pool: Pool, leases: Iterable[Lease] = ()) -> None:
        self.pool = pool
        self.leases: dict[int, Lease] = {}
        self.offers: dict[int, Lease] = {}
        self.counts: dict[State, int] = dict.fromkeys(State, 0)
        """How many addresses are in each state; of ``FREE`` see ``free``."""
        self._held: dict[bytes, int] = {}
        self._offered: dict[bytes, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(sorted(pool.members))
        self._timers: list[tuple[int, int]] = []
        self._scheduled: dict[int, int] = {}
        for lease in sorted(leases, key=lambda lease: lease.since):
            self.put(lease)

    def held(self, mac: bytes) -> Lease | None:
        """Return the one lease that names ``mac``: bound, cooling, or its last one, still free."""
        address = self._held.get(mac)
        return None if address is None else self.leases[address]

    def offered(self, mac: bytes) -> Lease | None:
        """Return what is on offer to ``mac``."""
        address = self._offered.get(mac)
        return None if address is None else self.offers[address]

    def at(self, address: int) -> Lease:
        """Return what is known of ``address``: its offer, its lease, or that it is free."""
        return self.offers.get(address) or self.leases.get(address) or Lease(address, State.FREE, 0)

    def takes(self, address: int, mac: bytes) -> bool:
        """Whether ``mac`` could have ``address`` now."""
        if address not in self.pool.members:
            return False
        lease = self.at(address)
        match lease.state:
            case State.FREE:
                return True
            case State.QUARANTINED:
                return False
            case _:
                return lease.mac == mac

    def choose(self, mac: bytes, wished: int) -> int | None:
        """Choose the address to offer: the client's own, the one on offer to it, its wish, the longest unused."""
        own = self._held.get(mac)
        if own is not None and self.takes(own, mac):
            return own
        given = self._offered.get(mac)
        if given is not None:
            return given
        if wished in self._free:
            return wished
        return next(iter(self._free), None)

    def put(self, lease: Lease) -> None:
        """Write a lease down; an offer of the same address, or to the same client once bound, has served its turn."""
        address, state = lease.address, lease.state
        self._remove(address)
        if address in self.offers:
            self.withdraw(address)
        self.leases[address] = lease
        if lease.mac:
            self._held[lease.mac] = address
        if state is State.FREE:
            self._queue(address)
        else:
            self.counts[state] += 1
            self._free.pop(address, None)
            self.remind(address, lease.ends)
            if state is State.BOUND and lease.mac in self._offered:
                self.withdraw(self._offered[lease.mac])

    def restore(self, address: int, lease: Lease | None) -> None:
        """Put back what was there before a change that could not be kept; None for a row that did not exist."""
        if lease is not None:
            self.put(lease)
            return
        self._remove(address)
        self.leases.pop(address, None)
        if address not in self.offers:
            self._queue(address)

    def _queue(self, address: int) -> None:
        if address in self.pool.members:
            self._free[address] = None
            self._free.move_to_end(address)

    def _remove(self, address: int) -> None:
        old = self.leases.get(address)
        if old is None:
            return
        if self._held.get(old.mac) == address:
            del self._held[old.mac]
        if old.state is not State.FREE:
            self.counts[old.state] -= 1

    def offer(self, lease: Lease) -> None:
        """Hold an address for a client until ``lease.ends``; it holds at most one."""
        before = self._offered.get(lease.mac)
        if before is not None and before != lease.address:
            self.withdraw(before)
        self.offers[lease.address] = lease
        self._offered[lease.mac] = lease.address
        self._free.pop(lease.address, None)
        self.remind(lease.address, lease.ends)
        self.counts[State.OFFERED] = len(self.offers)

    def withdraw(self, address: int) -> None:
        """Forget the offer of ``address``, if there is one; it queues behind the other free ones.

        A client whose REQUEST comes late then still finds it free.
        """
        offer = self.offers.pop(address, None)
        if offer is None:
            return
        del self._offered[offer.mac]
        self.counts[State.OFFERED] = len(self.offers)
        lease = self.leases.get(address)
        if lease is None or lease.state is State.FREE:
            self._queue(address)

    @property
    def free(self) -> int:
        """How many addresses could be offered to a client that we do not know."""
        return len(self._free)

    def remind(self, address: int, when: int) -> None:
        """Have ``due`` look at ``address`` at ``when``. One entry per address is enough: it is moved on when it rings.

        So a renewal costs nothing here, and the heap stays as small as the pool.
        """
        if when < self._scheduled.get(address, when + 1):
            self._scheduled[address] = when
            heapq.heappush(self._timers, (when, address))
            if len(self._timers) > 4 * len(self._scheduled) + 64:
                self._timers = [(at, one) for one, at in self._scheduled.items()]
                heapq.heapify(self._timers)

    def due(self, now: int, most: int) -> list[Lease]:
        """Take up to ``most`` offers and leases whose time is up; whoever cannot end one must ``remind`` of it."""
        out: list[Lease] = []
        while self._timers and self._timers[0][0] <= now and len(out) < most:
            when, address = heapq.heappop(self._timers)
            if self._scheduled.get(address) != when:
                continue
            del self._scheduled[address]
            for lease in (self.offers.get(address), self.leases.get(address)):
                if lease is None or lease.state is State.FREE:
                    continue
                if lease.ends <= now:
                    out.append(lease)
                else:
                    self.remind(address, lease.ends)
        return out

    def adopt(self, pool: Pool) -> None:
        """Serve another pool from now on: addresses that left it are no longer given, those leased stay until they end.

        Their clients get a NAK when they renew, and a new address.
        """
        gone, come = self.pool.members - pool.members, pool.members - self.pool.members
        self.pool = pool
        for address in gone:
            self.withdraw(address)
            self._free.pop(address, None)
        for address in sorted(come):
            if self.at(address).state is State.FREE:
                self._queue(address)
