"""What one bridge port may have of the server: its own leases, its share of the addresses, its share of the time.

A guest chooses its MACs, its packets and how many it sends; the one thing that it cannot choose is the port of the
bridge that it speaks from. So everything here hangs on the port, as in a switch's DHCP snooping::

    frame ─▶ admit (token bucket, before anything is read) ─▶ decode ─▶ decide ─▶ [ its port? its share? ] ─▶ batch

What limits a port protects its neighbours, and where there is none it is not limited:

- addresses: a port always gets a first one, up to its share while every other port that holds none could still get one,
  and beyond its share while another one's share (of a small pool an eighth) would stay free besides; on a bridge that
  never had a second port nothing is kept back.
- beyond that, an offer that a client of the port did not take goes to another one behind it, and so does what rests
  after one of them; what others gave back as well, while enough is left.
- messages: where many come at once, a port is held to its rate while another one was heard within ten seconds, or,
  where there is another one, while more is waiting than one batch takes.

Why a lease belongs to a port, and what a second port with the same MAC gets: docs/decisions/0005-a-lease-has-a-port.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from cocoon_net.dhcp import choice, reply
from cocoon_net.dhcp.decision import Decision, Reason, name, silence, when
from cocoon_net.dhcp.lease import BOUND, COOLING, FREE, OFFERED
from cocoon_net.dhcp.limits import BATCH, Limits
from cocoon_net.dhcp.table import Table
from cocoon_net.dhcp.wire import ETHERNET, Packet
from cocoon_net.events import Event, PortRefused

MUTE_AFTER = 512
"""Messages beyond its rate after which the kernel is told to drop what a port sends."""

MUTE_FOR = 0.25
"""Seconds; afterwards the port has its rate again, and loses it again."""

MOST_MUTED = 64
"""Ports that the kernel's filter names at once; each costs every DHCP frame an instruction."""

CONTENDED = 10.0
"""Seconds for which a port that was heard has its neighbours held to their rate."""

KEPT = 8
"""Of the pool no port gets more than all but one in so many beyond its share, where that is less than a share."""

FEW = 8
"""Frames of a batch that keep nobody waiting: they are served within a millisecond, whoever sent them."""

QUIET = 60
"""Seconds between two events about the same refusal at the same port."""

REFUSALS = (Reason.TOO_OFTEN, Reason.FORGED, Reason.FOREIGN_RELAY, Reason.OTHER_PORT, Reason.CROWDED)
"""The reasons that are the guard's."""


def spared(pool: int, limits: Limits) -> int:
    """Return how many of a pool's addresses stay free for ports that are plugged in later: one share at most."""
    return min(limits.addresses, pool // KEPT)


class _Port:
    """What is known of one port."""

    __slots__ = ("addresses", "at", "counted", "excess", "muted_until", "tokens", "trusted")

    def __init__(self, trusted: bool, tokens: float, at: float) -> None:
        self.trusted = trusted
        self.tokens = tokens
        self.at = at
        self.excess = 0
        self.muted_until = 0.0
        self.addresses: set[int] = set()
        self.counted = 0


@dataclass(slots=True)
class Finding:
    """A refusal at a port, since it was last told: ``mac`` is the latest of ``count``."""

    port: str
    reason: Reason
    mac: str = ""
    count: int = 0
    total: int = 0
    at: int = 0
    told: int = 0
    since: int = 0


class Guard:
    """Decides who of ``table``'s clients may be decided about. Not thread-safe: the server's loop owns it.

    ``publish`` gets a PortRefused for the first refusal of a kind at a port, then at most one a minute.
    """

    def __init__(self, table: Table, limits: Limits, publish: Callable[[Iterable[Event]], None]) -> None:
        self._table = table
        self.limits = limits
        self._publish = publish
        self._known: dict[str, _Port] = {}
        self._findings: dict[tuple[str, Reason], Finding] = {}
        self._present: Mapping[str, int] = {}
        self._time = 0.0
        self._now = 0
        self._speaker = ""
        self._heard = self._others_heard = float("-inf")
        """When the port that spoke last was heard, and any other one."""
        self._few = self._backlog = False
        self._spare = 0
        """How many addresses stay free for ports that are plugged in later."""
        self._unmute = 0.0
        self.muted = 0
        """How often a port was muted, since the start."""
        self.changed = False
        """Whether ``quiet`` has another answer than before."""
        for lease in table.leases.values():  # a restart gives nobody a second share
            if lease.port and lease.state is not FREE:
                state = self._known.get(lease.port) or self._meet(lease.port)
                state.addresses.add(lease.address)
        self._shared = len(self._known) > 1
        """Whether there ever was a second port."""

    def begin(self, time: float, now: int, present: Mapping[str, int], frames: int) -> None:
        """Start a batch of ``frames`` at ``time`` (monotonic) and ``now`` (Unix seconds); ``present``: the ports.

        Where it is as many as a batch takes, more may have come, and what one port sends keeps others waiting.
        """
        self._time, self._now, self._few, self._backlog = time, now, frames <= FEW, frames >= BATCH
        self._spare = spared(len(self._table.pool.members), self.limits)
        if present is not self._present:
            self._present = present
            self._shared = self._shared or len(present) > 1
            for gone in self._known.keys() - present.keys():
                if not self._count(gone, self._known[gone]):  # one that comes back finds its account as it was
                    del self._known[gone]
            for key in [key for key in self._findings if key[0] not in present]:
                del self._findings[key]

    def admit(self, port: str) -> bool:
        """Whether ``port`` may have another message read; costs next to nothing, for a flood pays it per frame."""
        state = self._known.get(port)
        if state is None:
            state = self._meet(port)
        if port != self._speaker:
            self._speaker, self._others_heard = port, self._heard
        self._heard = self._time
        limits = self.limits
        if state.trusted or not limits.rate or self._few:
            return True
        if self._time - self._others_heard >= CONTENDED and not (self._backlog and self._shared):
            return True
        if state.at != self._time:
            state.tokens = min(float(limits.burst), state.tokens + (self._time - state.at) * limits.rate)
            state.at = self._time
            if state.tokens >= 1.0:
                state.excess = 0
        if state.tokens >= 1.0:
            state.tokens -= 1.0
            return True
        state.excess += 1
        if state.excess == MUTE_AFTER:
            state.excess = 0
            state.muted_until = self._time + MUTE_FOR
            self._unmute = min(self._unmute or state.muted_until, state.muted_until)
            self.muted += 1
            self.changed = True
        self._note(port, Reason.TOO_OFTEN, b"")
        return False

    def quiet(self, time: float) -> list[str]:
        """Return the ports that the kernel should not let us hear at ``time``."""
        self.changed = False
        muted = [(state.muted_until, port) for port, state in self._known.items() if state.muted_until > time]
        self._unmute = min((until for until, _ in muted), default=0.0)
        return [port for _, port in muted[:MOST_MUTED]]

    def next(self) -> float | None:
        """Return when ``due`` comes true next, if it is known."""
        return self._unmute or None

    def due(self, time: float) -> bool:
        """Whether ``quiet`` should be asked again: a port was muted, or has been muted for long enough."""
        return self.changed or bool(self._unmute and time >= self._unmute)

    def decide(self, packet: Packet, source: bytes, now: int) -> Decision:
        """Decide about a message that came from the MAC ``source`` by ``packet.port``; the guard's refusal is silence.

        Pure but for its own accounts: the table stays as it is.
        """
        table, port, mac = self._table, packet.port, packet.chaddr
        if packet.giaddr:
            # A relay's client is behind the relay's MAC; a guest that plays relay must not have us talk to others.
            relay = table.leases.get(packet.giaddr)
            if relay is not None and relay.state is BOUND and self._elsewhere(relay.port, port):
                return self._refuse(Reason.FOREIGN_RELAY, packet)
        elif source != mac and (self._served_elsewhere(mac, port) or self._served_elsewhere(source, port)):
            return self._refuse(Reason.FORGED, packet)
        if self._served_elsewhere(mac, port):
            return self._refuse(Reason.OTHER_PORT, packet)
        if packet.htype != ETHERNET:
            mac = packet.hardware
            if self._served_elsewhere(mac, port):
                return self._refuse(Reason.OTHER_PORT, packet)
        decision = reply.decide(table, packet, now)
        address = decision.address
        if not address and decision.reason is Reason.INFORMED:
            # Its answer may travel by the kernel to the address that it names; that must not be another guest's.
            lease = table.leases.get(packet.ciaddr)
            if lease is not None and lease.state is BOUND and self._elsewhere(lease.port, port):
                return self._refuse(Reason.FORGED, packet)
        if address and not self._shares(address, mac, port):
            other = self._unmissed(mac, port, now) if decision.offer is not None else None
            if other is None:
                return self._refuse(Reason.CROWDED, packet)
            return reply.offer(table, packet, other, now)
        return decision

    def findings(self, since: int) -> list[Finding]:
        """Return what was refused at a port since then, the most frequent first."""
        found = [one for one in list(self._findings.values()) if one.at >= since]
        return sorted(found, key=lambda one: -one.total)

    def _elsewhere(self, owner: str, port: str) -> bool:
        """Whether ``owner`` is another port than ``port`` and still there; a port that is gone owns nothing."""
        return owner != port and owner in self._present

    def _served_elsewhere(self, mac: bytes, port: str) -> bool:
        """Whether a client with ``mac`` has a lease or an offer at another port than ``port``."""
        table = self._table
        for lease in table.of_mac(mac):
            if lease.state is BOUND and self._elsewhere(lease.port, port):
                return True
        offer = table.offered_to(mac)
        return offer is not None and self._elsewhere(offer.port, port)

    def _shares(self, address: int, mac: bytes, port: str) -> bool:
        """Whether ``port`` may have ``address``; looks at the accounts only when few addresses are left."""
        state = self._known.get(port)
        if state is None:
            state = self._meet(port)
        if not self.limits.addresses or state.trusted or address in state.addresses:
            return True
        # Where more is left than could have to stay free, the accounts are not looked at.
        if self._shared and self._table.free <= len(self._present) + self._spare:
            lease, left = self._table.at(address), self._table.free - 1
            # One that cools, or that another port's client did not take, counts like a free one.
            takes = lease.state is FREE or (lease.state in (COOLING, OFFERED) and lease.mac != mac)
            if lease.state is COOLING:  # who needs one gets what cools, too; those that nobody had are kept
                left += len(self._table.resting)
            if takes and max(left, 0) < self._kept_from(port, state):
                return False
        state.addresses.add(address)
        return True

    def _unmissed(self, mac: bytes, port: str, now: int) -> int | None:
        """Return an address that costs nobody one: an offer of ``port`` that nobody took, or what rests."""
        found = choice.lapsed(self._table, port, now)
        if found is None:
            found = choice.rested(self._table, port)
            if found is not None and not self._shares(found, mac, port):
                return None
        return found

    def _kept_from(self, port: str, state: _Port) -> int:
        """Return how many addresses have to stay free when ``port`` gets another one."""
        held = self._count(port, state)
        if not held:
            return 0
        others = [(other, self._known.get(other)) for other in self._present if other != port]
        kept = sum(account is None or not self._count(other, account) for other, account in others)
        return kept if held < self.limits.addresses else max(kept, self._spare)

    def _count(self, port: str, state: _Port) -> int:
        """Strike off the account of ``port`` what it has no more, once a second; returns how many are left on it."""
        if state.counted != self._now:
            state.counted = self._now
            state.addresses = {address for address in state.addresses if self._holds(address, port)}
        return len(state.addresses)

    def _holds(self, address: int, port: str) -> bool:
        """Whether an address that went to ``port`` is still on its account: until another client could have it."""
        lease = self._table.at(address)
        return lease.state is not FREE and lease.port == port

    def _meet(self, port: str) -> _Port:
        trusted = any(fnmatchcase(port, pattern) for pattern in self.limits.trusted)
        state = self._known[port] = _Port(trusted, float(self.limits.burst), self._time)
        return state

    def _refuse(self, reason: Reason, packet: Packet) -> Decision:
        self._note(packet.port, reason, packet.chaddr)
        return silence(reason)

    def _note(self, port: str, reason: Reason, mac: bytes) -> None:
        finding = self._findings.get((port, reason))
        if finding is None:
            finding = self._findings[port, reason] = Finding(port, reason, since=self._now)
        finding.count += 1
        finding.total += 1
        finding.at = self._now
        if self._now - finding.told >= QUIET:
            finding.mac = name(mac)
            self._publish([PortRefused(when(self._now), port, str(reason), finding.mac, finding.count)])
            finding.told, finding.count = self._now, 0
