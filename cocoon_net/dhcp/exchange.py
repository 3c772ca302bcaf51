"""What is said on the bridge, batch by batch: frames in, decisions, one commit, replies out, events.

::

    frames ─▶ admit ─▶ unwrap ─▶ decode ─▶ decide ─▶ [ routes ─▶ one commit ─▶ leases.json ] ─▶ replies ─▶ events

Whatever needs nothing written down is answered at once; the rest when its batch is durable and routed, or not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from loguru import logger

from cocoon_net.clock import Clock
from cocoon_net.dhcp import frame, wire
from cocoon_net.dhcp.batch import Batch, Settled
from cocoon_net.dhcp.book import Book
from cocoon_net.dhcp.conflict import WAIT, Conflicts
from cocoon_net.dhcp.decision import RENEWED, Decision, Reason, conflicting, promised
from cocoon_net.dhcp.guard import Guard
from cocoon_net.dhcp.histogram import Histogram
from cocoon_net.dhcp.lease import Lease
from cocoon_net.dhcp.options import ACK, INFORM, OFFER, SAID
from cocoon_net.dhcp.reply import Destination, destination, render
from cocoon_net.dhcp.routes import PRESENT, Routes
from cocoon_net.dhcp.table import Table
from cocoon_net.dhcp.trace import Trace
from cocoon_net.dhcp.wire import Packet
from cocoon_net.events import Bus, LeaseBound, LeaseRenewed

_COMPLAIN_EVERY = 10.0

TYPES = 256
"""Of messages, as many as option 53 can say."""


class Air(Protocol):
    """Where frames come from and replies go to: the bridge's Ports."""

    @property
    def present(self) -> Mapping[str, int]:
        """The ports of the bridge, name -> index."""
        ...

    def receive(self) -> list[tuple[bytes, str]]:
        """Return the frames that have come, each with its port. Raises NodeTransient."""
        ...

    def send(self, payload: bytes, destination: Destination, mac: bytes, port: str, kind: int = 0) -> None:
        """Have a reply sent by the next ``flush`` at the latest."""
        ...

    def flush(self) -> list[int]:
        """Send what waits; returns the kinds of what was refused."""
        ...


class Exchange:
    """Serves what was heard. Belongs to the server's loop; its counts may be read by anybody.

    ``now`` is the time that the table's times are of, in Unix seconds; ``durable`` is called after each commit, before
    the replies, with the leases as they are now.
    """

    def __init__(
        self,
        table: Table,
        routes: Routes,
        book: Book,
        guard: Guard,
        bus: Bus,
        clock: Clock,
        now: Callable[[], int],
        durable: Callable[[Sequence[Lease]], None],
    ) -> None:
        self._table, self._routes, self._book, self._guard = table, routes, book, guard
        self._bus, self._clock, self._now, self._durable = bus, clock, now, durable
        self._complain_at = 0.0
        self.trace = Trace()
        self.decided: Counter[str] = Counter()
        self.malformed: Counter[str] = Counter()
        self.received, self.sent = [0] * TYPES, [0] * TYPES
        """Messages by their type: to add to a list costs 20 ns, to a Counter three times that."""
        self._spoken = [0] * TYPES
        """Replies that the kernel has not taken yet."""
        self.commit_failures = self.unsent = 0
        self.offer_times, self.ack_times = Histogram(), Histogram()

    def hear(self, ports: Air, conflicts: Conflicts | None) -> int:
        """Serve what has come since the last time, as one batch; returns how many frames it was.

        Raises NodeTransient when the socket is of no use.
        """
        began = self._clock.monotonic()
        frames = ports.receive()
        # After the last of them was asked: a lease that we count from an earlier second would end before its client's.
        now, table = self._now(), self._table
        guard, trace, batch, received = self._guard, self.trace, Batch(table, now), self.received
        offered = 0
        guard.begin(began, now, ports.present, len(frames))
        asked: list[tuple[Decision, Packet]] = []
        for data, port in frames:
            if not guard.admit(port):
                self.decided[Reason.TOO_OFTEN] += 1
                continue
            payload = frame.unwrap(data)
            if payload is None:
                self.malformed["frame"] += 1
                continue
            packet = wire.decode(payload, port)
            if not isinstance(packet, Packet):
                self.malformed[packet] += 1
                continue
            kind = packet.type
            received[kind] += 1
            if kind == INFORM and not packet.ciaddr:
                packet = packet._replace(source=frame.source(data))
            decision = guard.decide(packet, data[6:12], now)
            self.decided[decision.reason] += 1
            batch.take(decision)
            if decision.changes:
                asked.append((decision, packet))
            elif decision.offer is not None and conflicts is not None and conflicts.hold(decision, packet, began):
                continue
            else:  # nothing to wait for
                trace.note(packet, decision, now)
                self._speak(ports, decision, packet)
                offered += decision.kind is OFFER
                if decision.events:
                    self._bus.publish(decision.events)
        self._flush(ports)
        if offered:
            self.offer_times.observe(self._clock.monotonic() - began, offered)
        if not asked:
            return len(frames)
        settled = self._settle(batch)
        told: list[Decision] = []
        for decision, packet in asked:
            if settled.holds(decision):
                told.append(decision)
                self._speak(ports, decision, packet)
                trace.note(packet, decision, now)
            else:
                self.decided[Reason.UNKEPT] += 1
                trace.note(packet, decision, now, Reason.UNKEPT)
        self._flush(ports)
        promises = sum(decision.kind is ACK for decision in told)
        if promises:
            self.ack_times.observe(self._clock.monotonic() - began, promises)
        tell(self._bus, told, now)
        return len(frames)

    def _speak(self, ports: Air, decision: Decision, packet: Packet) -> None:
        if decision.kind is None:
            return
        promises = decision.kind is ACK and decision.seconds
        if promises and self._routes.state(decision.address) is not PRESENT:
            return
        payload = render(decision, packet, self._table.pool)
        ports.send(payload, destination(decision, packet), packet.chaddr, packet.port, decision.kind)
        self._spoken[decision.kind] += 1

    def _flush(self, ports: Air) -> None:
        for kind in ports.flush():
            self._spoken[kind] -= 1
            self.unsent += 1
        for kind in SAID:
            self.sent[kind] += self._spoken[kind]
            self._spoken[kind] = 0

    def _settle(self, batch: Batch) -> Settled:
        settled = batch.settle(self._routes, self._book, self._durable)
        if settled.error is not None:
            self.commit_failures += 1
            time = self._clock.monotonic()
            if time >= self._complain_at:  # each client asks again and again
                self._complain_at = time + _COMPLAIN_EVERY
                logger.error("silent, for leases cannot be written: {}", settled.error.told)
        return settled

    def offer_held(self, ports: Air, conflicts: Conflicts, time: float) -> None:
        """Speak the offers that nobody answered for; an address that somebody uses is quarantined, not offered."""
        now = self._now()
        for address, mac, held in conflicts.hear():
            self.trace.note(held.packet, held.decision, now, Reason.CONFLICT)
            if address in self._table.offers:
                self.carry_out([conflicting(self._table, address, mac, now)], now)
            again = self._guard.decide(held.packet, held.packet.chaddr, now)
            if again.offer is not None:
                self._table.offer(again.offer, again.seconds)
                if not conflicts.hold(again, held.packet, time):
                    self._speak(ports, again, held.packet)
        for held in conflicts.due(time):
            offer = self._table.offers.get(held.decision.address)
            if offer is not None and offer.mac == held.packet.hardware:
                self.trace.note(held.packet, held.decision, now)
                self._speak(ports, held.decision, held.packet)
                self.offer_times.observe(WAIT)
        self._flush(ports)

    def carry_out(self, decisions: Iterable[Decision], now: int) -> Settled:
        """Do what a timer or an order decided, as one batch; nobody is answered."""
        batch = Batch(self._table, now)
        done = list(decisions)
        for decision in done:
            self.decided[decision.reason] += 1
            batch.take(decision)
        settled = self._settle(batch)
        for decision in done:
            if settled.holds(decision):
                self._bus.publish(decision.events)
                for lease in decision.changes:
                    if lease.mac:
                        self.trace.change(lease.mac, lease.address, now, decision.reason)
        return settled


def tell(bus: Bus, decisions: Sequence[Decision], now: int) -> None:
    """Publish what decisions that hold have changed, in their order; of promises only as many as will be told."""
    promises = sum(decision.kind is ACK for decision in decisions)
    renewals = sum(decision.reason is RENEWED for decision in decisions)
    renewals_left = bus.wants(LeaseRenewed, renewals) if renewals else 0
    others_left = bus.wants(LeaseBound, promises - renewals) if promises > renewals else 0
    for decision in decisions:
        if decision.events:
            bus.publish(decision.events)
        if decision.reason is RENEWED:
            if renewals_left:
                renewals_left -= 1
                bus.publish((promised(decision, now),))
        elif decision.kind is ACK and others_left:
            others_left -= 1
            bus.publish((promised(decision, now),))
