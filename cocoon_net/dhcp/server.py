"""The DHCP server: its loop, and what other threads may ask of it. What is said on the bridge: ``exchange``.

One thread owns the table, the book's connection and the sockets; others leave orders in a queue and wait for it.
"""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from loguru import logger

from cocoon_net import records
from cocoon_net.clock import Clock, Jumps, SystemClock
from cocoon_net.dhcp import wire
from cocoon_net.dhcp.book import Book, Note
from cocoon_net.dhcp.choice import adopt
from cocoon_net.dhcp.conflict import Conflicts
from cocoon_net.dhcp.decision import end, release
from cocoon_net.dhcp.exchange import Exchange
from cocoon_net.dhcp.guard import Finding, Guard
from cocoon_net.dhcp.lease import Client, Lease, State, moved
from cocoon_net.dhcp.limits import Limits
from cocoon_net.dhcp.orders import Orders
from cocoon_net.dhcp.pool import Pool
from cocoon_net.dhcp.ports import Ports
from cocoon_net.dhcp.projection import LeaseFile
from cocoon_net.dhcp.routes import Routes, Wire
from cocoon_net.dhcp.settings import Settings
from cocoon_net.dhcp.snapshot import Snapshot, take
from cocoon_net.dhcp.table import Table
from cocoon_net.dhcp.trace import Traced
from cocoon_net.dhcp.watch import Watch
from cocoon_net.errors import CocoonError, NodeTransient, SpecError, StoreError
from cocoon_net.events import Bus
from cocoon_net.node.routewire import RouteWire
from cocoon_net.records import BRIDGE

_TICK = 1.0
"""Seconds between two looks at what has run out of time."""
_LINGER, _CROWD = 0.002, 4
"""Seconds that the loop waits for more to come when there were so many frames at once: a commit costs a batch of ten as
much as one of fifty, and beside it the clients' host has the processor for itself."""
_SWEEP = 2_048


class Server:
    """Serves ``pool`` on the bridge ``link`` from ``book``. ``run`` is called in the network namespace to serve.

    ``changed`` is called in the loop after each durable batch, before its replies, with the leases as they are now;
    ``beat`` with the monotonic time, once a second while the loop lives.
    """

    def __init__(
        self,
        book: Book,
        pool: records.Pool,
        link: str = BRIDGE,
        *,
        settings: Settings | None = None,
        limits: Limits | None = None,
        check_conflicts: bool = False,
        clock: Clock | None = None,
        bus: Bus | None = None,
        lease_file: LeaseFile | None = None,
        changed: Callable[[Sequence[Lease]], None] | None = None,
        connect: Callable[[int], Wire] = RouteWire,
        beat: Callable[[float], None] = lambda now: None,
    ) -> None:
        self._book = book
        self._link = link
        self._settings = settings or Settings()
        self._check_conflicts = check_conflicts
        self._clock = clock or SystemClock()
        self._jumps = Jumps(self._clock)
        self._bus = bus or Bus()
        self._lease_file = lease_file
        self._changed = changed
        self._connect = connect
        self._beat = beat
        self._table = Table(self._compiled(pool), book.leases(), book.returned())
        self._routes = Routes(self._bus, self._clock.now)
        self._unrouted: set[int] = set()
        self._guard = Guard(self._table, limits or Limits(), self._bus.publish)
        self._ports: Ports | None = None
        self._disturbances = -1
        self._orders = Orders()
        self._crowded = False
        self._conflicts: Conflicts | None = None
        self._exchange = Exchange(
            self._table, self._routes, book, self._guard, self._bus, self._clock, self._now, self._durable
        )

    # What other threads may call

    def release(self, mac: str) -> bool:
        """End the lease of ``mac`` at once; False when it has none. Its address stays its own while nobody needs it.

        Raises SpecError for what is not a MAC, StoreError when it could not be made durable (the lease is kept then),
        NodeTransient when the loop does not answer.
        """
        try:
            key = bytes.fromhex(mac.replace(":", "").replace("-", ""))
        except ValueError:
            key = b""
        if len(key) not in (wire.MAC_LENGTH, wire.HARDWARE_LENGTH):
            raise SpecError(f"{mac!r} is not a MAC", hint="e.g. 02:00:5e:10:00:01")
        return self._orders.ask(lambda now: self._release(key, now))

    def reload(self, pool: records.Pool, settings: Settings | None = None) -> None:
        """Serve another pool from now on, with the book's reservations and other settings (None: those of before).

        Leases of addresses that left it, or are reserved for others now, end when their clients ask again.
        Raises SpecError for a pool without addresses, StoreError, NodeTransient when the loop does not answer.
        """
        self._orders.ask(lambda now: self._adopt(pool, settings or self._settings))

    def reconcile(self) -> None:
        """Look at the kernel's routes again, have those of the leases and no other; done within a second.

        For an audit that found a difference: routes that others removed are not noticed otherwise.
        """
        self._orders.ask(lambda now: self._routes.doubt())

    def reroute(self, addresses: Collection[int]) -> list[int]:
        """Set the routes to those of ``addresses`` that are leased, whatever others made of them; returns those set.

        Raises NodeTransient when the loop does not answer.
        """
        return self._orders.ask(lambda now: self._reroute(addresses))

    def project(self) -> None:
        """Write leases.json anew, for an audit that found it changed by others."""
        if self._lease_file is not None:
            file = self._lease_file
            self._orders.ask(lambda now: file.update(()))

    def serves(self, address: int) -> bool:
        """Whether an address may be leased now; the lease of one that may not is stranded until its client asks."""
        return address in self._table.pool.members

    def leases(self) -> list[Lease]:
        """Return the bound leases."""
        return [lease for lease in list(self._table.leases.values()) if lease.state is State.BOUND]

    def offers(self) -> list[Lease]:
        """Return what is on offer."""
        return list(self._table.offers.values())

    def leases_of(self, mac: bytes) -> list[Lease]:
        """Return the leases that name a MAC, in whatever state, the last one of a client that is gone among them."""
        return [lease for lease in list(self._table.leases.values()) if lease.mac == mac]

    def others(self) -> list[Lease]:
        """Return the addresses that rest: cooling and quarantined."""
        return [
            lease for lease in list(self._table.leases.values()) if lease.state in (State.COOLING, State.QUARANTINED)
        ]

    def trace(self, mac: bytes, since: int = 0) -> tuple[list[Traced], int]:
        """Return what was decided about a client lately, after number ``since``, and the number to ask with next."""
        return self._exchange.trace.of(mac, since)

    def findings(self, seconds: int = 600) -> list[Finding]:
        """Return what the guard refused at which port within the last so many seconds."""
        return self._guard.findings(self._now() - seconds)

    def snapshot(self) -> Snapshot:
        """Return the counts of this moment; cheap."""
        return take(self._ports is not None, self._table, self._routes, self._book, self._exchange, self._guard)

    def check(self) -> None:
        """Have the loop do nothing at all. Raises NodeTransient when it does not come to that."""
        self._orders.ask(lambda now: None)

    def wake(self) -> None:
        """Have the loop look at its ``stop`` now."""
        self._orders.wake()

    def wait(self, seconds: float) -> bool:
        """Wait until the server serves; False when it does not within ``seconds``."""
        return self._orders.wait(seconds)

    # The loop

    def run(self, stop: threading.Event) -> None:
        """Serve until ``stop``, at most a second longer unless there is a ``wake``. Routes stay when it ends.

        Raises NodeTransient when there is no such bridge, NodeError when port 67 is taken, Refused, StoreError.
        A bridge that goes away later is waited for.
        """
        with contextlib.ExitStack() as stack:
            watch = Watch(self._link)
            stack.callback(watch.close)
            stack.callback(self._close)
            self._open(watch)
            if self._lease_file is not None:
                self._lease_file.load(self.leases())
                stack.callback(self._lease_file.close)
            poller = select.poll()
            for descriptor in (self._orders.descriptor, watch.socket.fileno()):
                poller.register(descriptor, select.POLLIN)
            heard: set[int] = set()
            self._orders.open()
            stack.callback(self._orders.close)
            tick = 0.0
            while not stop.is_set():
                if self._ports is not None and self._ports.socket.fileno() not in heard:
                    heard = self._listen(poller, self._ports)
                ready = {descriptor for descriptor, _ in poller.poll(1000 * self._patience(tick))}
                self._keep_time()
                if watch.socket.fileno() in ready:
                    watch.drain()
                if self._orders.descriptor in ready:
                    self._orders.obey(self._now())
                if self._ports is not None and self._ports.socket.fileno() in ready:
                    self._hear(self._ports)
                time = self._clock.monotonic()
                if self._ports is not None and self._conflicts is not None:
                    self._exchange.offer_held(self._ports, self._conflicts, time)
                if self._ports is not None and self._guard.due(time):
                    self._ports.mute(self._guard.quiet(time))
                disturbed = watch.disturbances != self._disturbances
                if disturbed or time >= tick:
                    tick = time + _TICK
                    self._beat(time)
                    if self._ports is None or disturbed or self._routes.doubtful:
                        while heard:
                            poller.unregister(heard.pop())
                        self._reopen(watch)
                    self._sweep()

    def _hear(self, ports: Ports) -> None:
        if self._crowded:
            self._clock.sleep(_LINGER)
        try:
            self._crowded = self._exchange.hear(ports, self._conflicts) >= _CROWD
        except NodeTransient as error:
            logger.warning("{}", error.told)
            self._close()

    def _listen(self, poller: select.poll, ports: Ports) -> set[int]:
        """Have the poller wake us for what the sockets of the bridge hear; returns their descriptors."""
        sockets = [ports.socket, *([self._conflicts.socket] if self._conflicts is not None else [])]
        for one in sockets:
            poller.register(one.fileno(), select.POLLIN)
        return {one.fileno() for one in sockets}

    def _patience(self, tick: float) -> float:
        """Return how long the loop may sleep: until the next tick, or what is due before it."""
        due = self._conflicts.next() if self._conflicts is not None else None
        first = min(at for at in (tick, due, self._guard.next()) if at is not None)
        return min(_TICK, max(0.0, first - self._clock.monotonic()) + 0.001)

    def _open(self, watch: Watch) -> None:
        self._close()
        self._disturbances = watch.disturbances
        pool = self._table.pool
        ports = Ports(watch, self._link, pool.server, pool.everybody)
        try:
            bound = {lease.address for lease in self.leases()}
            self._unrouted = self._routes.connect(self._connect(watch.index), bound) & bound
            if self._check_conflicts:
                self._conflicts = Conflicts(watch.index, ports.mac)
        except BaseException:
            ports.close()
            raise
        self._ports = ports

    def _reopen(self, watch: Watch) -> None:
        before = self._ports
        try:
            self._open(watch)
        except CocoonError as error:
            if before is not None:
                logger.warning("not serving: {}", error.told)
        else:
            logger.info("serving on {} (link {}), {} leases routed", self._link, watch.index, len(self._routes))

    def _close(self) -> None:
        if self._ports is not None:
            self._ports.close()
            self._ports = None
        if self._conflicts is not None:
            self._conflicts.close()
            self._conflicts = None
        self._routes.disconnect()

    def _durable(self, leases: Sequence[Lease]) -> None:
        if self._lease_file is not None:
            self._lease_file.update(leases)
        if self._changed is not None:
            self._changed(leases)

    def _sweep(self) -> None:
        """End what has run out of time; an address whose route will not go is not given to anybody."""
        now = self._now()
        wanted = [address for address in self._unrouted if self._is_bound(address)]
        self._unrouted = self._routes.install(wanted)
        # A client counts from the moment of its question, we in whole seconds: the second after, it is over for both.
        due = self._table.due(now - 1, _SWEEP)
        if not due:
            return
        resting = [lease.address for lease in due if lease.state in (State.COOLING, State.QUARANTINED)]
        stuck = self._routes.withdraw(resting)
        decisions = []
        for lease in due:
            if lease.address in stuck:
                self._table.remind(lease.address, now + 1)
            else:
                decisions.append(end(self._table, lease, now))
        self._exchange.carry_out(decisions, now)

    def _keep_time(self) -> None:
        """Move all times along when the wall clock jumped: a lease lasts as long as was promised, whatever the hour."""
        by = round(self._jumps.look())
        if not by:
            return
        leases = [moved(lease, by) for lease in self._table.leases.values()]
        try:
            self._book.commit(leases, [Note(self._now() + by, 0, "", "clock", f"jumped by {by} s")])
        except StoreError as error:
            logger.error("the clock jumped by {} s, and the leases cannot be moved along: {}", by, error.told)
            return
        self._jumps.accept()
        self._table.shift(by)
        logger.warning("the clock jumped by {} s: each of {} leases keeps the time it had left", by, len(leases))
        self._durable(leases)

    def _is_bound(self, address: int) -> bool:
        lease = self._table.leases.get(address)
        return lease is not None and lease.state is State.BOUND

    # Orders

    def _release(self, mac: bytes, now: int) -> bool:
        """End every lease of a MAC: it has several when several client identifiers speak from it."""
        while (offer := self._table.offered(Client(mac))) is not None:
            self._table.withdraw(offer.address)
        bound = [lease for lease in self._table.of_mac(mac) if lease.state is State.BOUND]
        if not bound:
            return False
        settled = self._exchange.carry_out([release(self._table, lease, now, "control") for lease in bound], now)
        if settled.error is not None:
            raise settled.error
        # vk-cocoon ends the lease of a VM that it hibernates, too: no clone of it gets the address by naming it.
        self._table.returned.difference_update(lease.address for lease in bound)
        return True

    def _reroute(self, addresses: Collection[int]) -> list[int]:
        bound = [address for address in addresses if self._is_bound(address)]
        self._routes.lose(bound)
        failed = self._routes.install(bound)
        self._unrouted |= failed
        return [address for address in bound if address not in failed]

    def _adopt(self, pool: records.Pool, settings: Settings) -> None:
        before, after = self._table.pool, self._compiled(pool, settings)
        self._settings = settings
        adopt(self._table, after)
        if (before.server, before.everybody) != (after.server, after.everybody):
            self._disturbances = -1  # the kernel's filter knows the old addresses

    def _compiled(self, pool: records.Pool, settings: Settings | None = None) -> Pool:
        reservations = self._book.reservations()
        settings = settings or self._settings
        if self._check_conflicts and settings.terms.rapid_commit:  # an ACK cannot wait for the answers to a probe
            settings = replace(settings, terms=replace(settings.terms, rapid_commit=False))
        compiled = Pool.of(pool, settings, reservations)
        if not compiled.members:
            raise SpecError("the pool has no address to lease", hint="see `cocoon-net workflow show`: did init finish?")
        for one in reservations:
            if one.mac not in compiled.kept:
                logger.warning("{} is reserved for {} and is not of the pool", one.address, one.mac.hex(":"))
        return compiled

    def _now(self) -> int:
        """Return the time that the table's times are of: a jump that nobody moved them along for has not been yet."""
        return int(self._jumps.now())
