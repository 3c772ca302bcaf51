"""Every address of the pool and who has it, in memory: no operation looks at more than it touches.

``leases`` is exactly what the book holds on disk. Offers lie over it in a table of their own, so that a guest which
only ever asks, under however many MACs, cannot make us forget whose address an address was.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Collection, Iterable

from cocoon_net.dhcp.lease import BOUND, COOLING, FREE, OFFERED, Client, Lease, State, moved, owns
from cocoon_net.dhcp.pool import Pool


class Table:
    """The table of leases and offers of one pool. Not thread-safe: the server's loop owns it.

    A client is a MAC and a client identifier (docs/decisions/0006-who-is-a-client.md); it is named by at most one
    lease and by at most one offer. The gateway never enters.
    """

    def __init__(self, pool: Pool, leases: Iterable[Lease] = (), returned: Collection[int] = ()) -> None:
        self.pool = pool
        self.leases: dict[int, Lease] = {}
        self.offers: OrderedDict[int, Lease] = OrderedDict()
        """The longest on offer first: one that is made again goes to the end."""
        self.lease_times: dict[int, int] = {}
        """The lease time of each offer: an ACK SHOULD NOT conflict with it (RFC 2131 §4.3.2)."""
        self.counts: dict[State, int] = dict.fromkeys(State, 0)
        """How many addresses are in each state; of ``FREE`` see ``free``."""
        self._held: dict[tuple[bytes, bytes], int] = {}
        """MAC and client identifier -> address."""
        self._of_mac: dict[bytes, list[int]] = {}
        """The latest last."""
        self._of_port: dict[tuple[str, bytes], int] = {}
        """Bridge port and client identifier -> address."""
        self._offered: dict[tuple[bytes, bytes], int] = {}
        self._offered_mac: dict[bytes, int] = {}
        self._offered_port: dict[tuple[str, bytes], int] = {}
        self.resting: OrderedDict[int, None] = OrderedDict()
        """Cooling addresses that anybody could be given and that are not on offer, the longest first."""
        self.returned: set[int] = set()
        """Cooling addresses that their clients gave back: they are anybody's who asks for them by name."""
        known = sorted(leases, key=lambda lease: lease.since)
        unused = pool.members.difference(pool.owners, (lease.address for lease in known))
        self.unused: OrderedDict[int, None] = OrderedDict.fromkeys(sorted(unused))
        """The longest unused first: those that nobody ever had, then by when they became free."""
        self._timers: list[tuple[int, int]] = []
        self._scheduled: dict[int, int] = {}
        for lease in known:
            self.put(lease)
            if lease.state is COOLING and lease.address in returned:
                self.returned.add(lease.address)

    def held(self, client: Client) -> Lease | None:
        """Return the one lease that names a client: bound, cooling, or its last one, still free.

        Without an identifier, the latest of its MAC.
        """
        mac, name, port = client
        address = self._held.get((mac, name))
        if address is not None:
            return self.leases[address]
        if not name:
            addresses = self._of_mac.get(mac)
            return self.leases[addresses[-1]] if addresses else None
        address = self._held.get((mac, b""))  # it had no identifier when it got the lease
        if address is None and port:
            address = self._of_port.get((port, name))
        return None if address is None else self.leases[address]

    def of_mac(self, mac: bytes) -> list[Lease]:
        """Return every lease that names ``mac``, the latest last."""
        addresses = self._of_mac.get(mac)
        return [self.leases[address] for address in addresses] if addresses else []

    def offered_to(self, mac: bytes) -> Lease | None:
        """Return the latest offer to ``mac``, whatever its client identifier."""
        address = self._offered_mac.get(mac)
        return None if address is None else self.offers[address]

    def offered(self, client: Client) -> Lease | None:
        """Return what is on offer to a client; without an identifier, the latest offer to its MAC."""
        mac, name, port = client
        address = self._offered.get((mac, name))
        if address is None:
            address = self._offered_mac.get(mac)
            if address is None or not owns(self.offers[address], client):
                address = self._offered_port.get((port, name)) if name and port else None
        return None if address is None else self.offers[address]

    def known(self, address: int) -> Lease | None:
        """Return the offer of ``address``, or its lease; None for one that never had either."""
        return self.offers.get(address) or self.leases.get(address)

    def at(self, address: int) -> Lease:
        """Return what is known of ``address``: its offer, its lease, or that it is free."""
        return self.known(address) or Lease(address, FREE, 0)

    def put(self, lease: Lease) -> None:
        """Write a lease down; an offer of the same address, or to the same client once bound, has served its turn."""
        address, state = lease.address, lease.state
        old = self.leases.get(address)
        self.leases[address] = lease
        if old is None:
            self._name(lease)
        else:
            if old.state is not FREE:
                self.counts[old.state] -= 1
                if old.state is COOLING:
                    self.resting.pop(address, None)
                    self.returned.discard(address)
            if old.mac != lease.mac or old.client_id != lease.client_id or old.port != lease.port:
                self._unname(old)
                self._name(lease)
        if state is FREE:
            if address not in self.offers:
                self._queue(address)
        else:
            if state is COOLING:
                self._rest(address)
                if old is not None and _given_back(old, lease):
                    self.returned.add(address)
            self.counts[state] += 1
            if address in self.offers:  # and so not among the unused
                self._forget(address)
            else:
                self.unused.pop(address, None)
            self.remind(address, lease.ends)
            if state is BOUND:
                given = self._offered.get((lease.mac, lease.client_id))
                if given is not None:
                    self.withdraw(given)

    def restore(self, address: int, lease: Lease | None) -> None:
        """Put back what was there before a change that could not be kept; None for a row that did not exist."""
        if lease is not None:
            self.put(lease)
            return
        old = self.leases.pop(address, None)
        if old is not None:
            self._unname(old)
            if old.state is not FREE:
                self.counts[old.state] -= 1
                self.resting.pop(address, None)
                self.returned.discard(address)
        if address not in self.offers:
            self._queue(address)

    def _queue(self, address: int) -> None:
        if self._open(address):
            self.unused[address] = None

    def _rest(self, address: int) -> None:
        if self._open(address):
            self.resting[address] = None

    def _open(self, address: int) -> bool:
        """Whether an address may go to a client without a reservation."""
        return address in self.pool.members and address not in self.pool.owners

    def _name(self, lease: Lease) -> None:
        mac, client_id, address = lease.mac, lease.client_id, lease.address
        if mac:
            self._held[mac, client_id] = address
            self._of_mac.setdefault(mac, []).append(address)
            if client_id and lease.port:
                self._of_port[lease.port, client_id] = address

    def _unname(self, lease: Lease) -> None:
        mac, client_id, address = lease.mac, lease.client_id, lease.address
        if mac:
            if self._held.get((mac, client_id)) == address:
                del self._held[mac, client_id]
            addresses = self._of_mac[mac]
            addresses.remove(address)
            if not addresses:
                del self._of_mac[mac]
            if self._of_port.get((lease.port, client_id)) == address:
                del self._of_port[lease.port, client_id]

    def offer(self, lease: Lease, seconds: int = 0) -> None:
        """Hold an address for a client until ``lease.ends``; it holds at most one. ``seconds`` is what was offered."""
        key = (lease.mac, lease.client_id)
        before, other = self._offered.get(key), self.offers.get(lease.address)
        if before is not None and before != lease.address:
            self.withdraw(before)
        if other is not None and before != lease.address:  # its client had no identifier when it first asked, or had
            self.withdraw(lease.address)
        self.offers[lease.address] = lease
        if before == lease.address:
            self.offers.move_to_end(before)
        self._offered[key] = self._offered_mac[lease.mac] = lease.address
        if lease.client_id and lease.port:
            self._offered_port[lease.port, lease.client_id] = lease.address
        self.lease_times[lease.address] = seconds
        self.unused.pop(lease.address, None)
        if self.resting:
            self.resting.pop(lease.address, None)
        self.remind(lease.address, lease.ends)
        self.counts[OFFERED] = len(self.offers)

    def withdraw(self, address: int) -> None:
        """Forget the offer of ``address``, if there is one; it queues behind the other free ones.

        A client whose REQUEST comes late then still finds it free.
        """
        if address not in self.offers:
            return
        self._forget(address)
        lease = self.leases.get(address)
        if lease is None or lease.state is FREE:
            self._queue(address)
        elif lease.state is COOLING:
            self._rest(address)

    def _forget(self, address: int) -> None:
        """Strike off an offer; where its address goes then is the caller's."""
        offer = self.offers.pop(address)
        del self.lease_times[address]
        del self._offered[offer.mac, offer.client_id]
        if self._offered_mac.get(offer.mac) == address:
            del self._offered_mac[offer.mac]
        if offer.client_id and self._offered_port.get((offer.port, offer.client_id)) == address:
            del self._offered_port[offer.port, offer.client_id]
        self.counts[OFFERED] = len(self.offers)

    @property
    def free(self) -> int:
        """How many addresses could be offered to a client that we do not know."""
        return len(self.unused)

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

    def shift(self, by: int) -> None:
        """Move all times by ``by`` seconds: the clock jumped, and what was promised for an hour is to last an hour."""
        self.leases = {address: moved(lease, by) for address, lease in self.leases.items()}
        self.offers = OrderedDict((address, moved(lease, by)) for address, lease in self.offers.items())
        self._timers = [(when + by, address) for when, address in self._timers]
        self._scheduled = {address: when + by for address, when in self._scheduled.items()}

    def due(self, now: int, most: int) -> list[Lease]:
        """Take up to ``most`` offers and leases whose time is up; whoever cannot end one must ``remind`` of it."""
        out: list[Lease] = []
        while self._timers and self._timers[0][0] <= now and len(out) < most:
            when, address = heapq.heappop(self._timers)
            if self._scheduled.get(address) != when:
                continue
            del self._scheduled[address]
            for lease in (self.offers.get(address), self.leases.get(address)):
                if lease is None or lease.state is FREE:
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
        before, now = self.pool.members.difference(self.pool.owners), pool.members.difference(pool.owners)
        self.pool = pool
        for address in before - now:
            self.unused.pop(address, None)
            self.resting.pop(address, None)
        for address in sorted(now - before):
            if self.at(address).state is FREE:
                self._queue(address)
        for address in sorted(now - before, key=lambda address: self.at(address).since):
            if self.at(address).state is COOLING:
                self._rest(address)


def _given_back(old: Lease, new: Lease) -> bool:
    """Whether a lease that begins to cool was ended by its client before its time."""
    return old.state is BOUND and old.mac == new.mac and old.since <= new.since < old.ends
