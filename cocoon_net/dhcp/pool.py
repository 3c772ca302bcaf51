"""What may be leased and what goes with it, as integers and bytes that are worked out once per pool."""

from __future__ import annotations

from dataclasses import dataclass, field

from cocoon_net import records
from cocoon_net.dhcp.options import Options


@dataclass(frozen=True, slots=True)
class Terms:
    """How long things last, in seconds."""

    lease: int = 86_400
    shortest: int = 60
    """The least lease time that a client can ask for (option 51); asking for more than ``lease`` gets ``lease``."""
    offer: int = 30
    cooling: int = 60
    """Between the end of a lease and the address's next client: old connections and ARP entries must die first."""
    quarantine: int = 600


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

    @classmethod
    def of(cls, record: records.Pool, terms: Terms | None = None) -> Pool:
        """Work out the pool of a record; addresses outside the subnet are left out, too: no guest could use them."""
        terms = terms or Terms()
        network, mask = int(record.subnet.network_address), int(record.subnet.netmask)
        never = {network, int(record.subnet.broadcast_address), int(record.gateway)}
        return cls(
            network=network,
            mask=mask,
            server=int(record.gateway),
            members=frozenset(a for a in map(int, record.addresses) if a not in never and a & mask == network),
            options=Options.of(record),
            terms=terms,
        )

    def holds(self, address: int) -> bool:
        """Whether ``address`` is in our subnet, of the pool or not."""
        return address & self.mask == self.network

    def seconds(self, wished: bytes | None) -> int:
        """Return the lease time for a client that wished for this one (option 51; RFC 2131 §4.3.1)."""
        if wished is None:
            return self.terms.lease
        return min(max(int.from_bytes(wished), min(self.terms.shortest, self.terms.lease)), self.terms.lease)
