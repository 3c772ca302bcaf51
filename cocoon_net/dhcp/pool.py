"""What may be leased and what goes with it, as integers and bytes that are worked out once per pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cocoon_net import records
from cocoon_net.dhcp.options import Code, Options
from cocoon_net.dhcp.reservation import Reservation
from cocoon_net.dhcp.settings import Settings, Terms


class Kept(NamedTuple):
    """What a reservation keeps for its client."""

    address: int
    options: Options


@dataclass(frozen=True, slots=True)
class Pool:
    """One subnet's addresses, its server and its options."""

    network: int
    mask: int
    server: int
    """Our own address, the gateway: the server identifier (option 54)."""
    members: frozenset[int]
    """Never the gateway, the network or its broadcast address."""
    options: Options
    terms: Terms = field(default_factory=Terms)
    mtu: int = 1500
    kept: Mapping[bytes, Kept] = field(default_factory=dict)
    """MAC -> what is reserved for it."""
    owners: Mapping[int, bytes] = field(default_factory=dict)
    """Reserved address -> MAC."""

    @classmethod
    def of(
        cls, record: records.Pool, settings: Settings | None = None, reservations: Iterable[Reservation] = ()
    ) -> Pool:
        """Work out the pool of a record; addresses outside the subnet are left out, too: no guest could use them.

        So are reservations of addresses that are not of the pool: their clients are served like any other.
        """
        settings = settings or Settings()
        network, mask = int(record.subnet.network_address), int(record.subnet.netmask)
        never = {network, int(record.subnet.broadcast_address), int(record.gateway)}
        members = frozenset(a for a in map(int, record.addresses) if a not in never and a & mask == network)
        kept: dict[bytes, Kept] = {}
        for one in reservations:
            if int(one.address) in members:
                named = {int(Code.HOSTNAME): one.hostname.encode()} if one.hostname else {}
                kept[one.mac] = Kept(int(one.address), Options.of(record, settings.options, named, one.options))
        return cls(
            network=network,
            mask=mask,
            server=int(record.gateway),
            members=members,
            options=Options.of(record, settings.options),
            terms=settings.terms,
            mtu=record.mtu,
            kept=kept,
            owners={one.address: mac for mac, one in kept.items()},
        )

    @property
    def everybody(self) -> tuple[int, ...]:
        """The addresses that are every host's of the subnet; the older forms are all zeros (RFC 1122 §3.3.6)."""
        return 0xFFFF_FFFF, self.network | ~self.mask & 0xFFFF_FFFF, 0, self.network

    def holds(self, address: int) -> bool:
        """Whether ``address`` is in our subnet, of the pool or not."""
        return address & self.mask == self.network

    def seconds(self, wished: bytes | None) -> int:
        """Return the lease time for a client that wished for this one (option 51; RFC 2131 §4.3.1)."""
        if wished is None:
            return self.terms.lease
        return min(max(int.from_bytes(wished), min(self.terms.shortest, self.terms.lease)), self.terms.lease)

    def options_of(self, mac: bytes) -> Options:
        """Return what ``mac`` is told."""
        kept = self.kept.get(mac)
        return self.options if kept is None else kept.options
