"""What guests do that somebody should see, as findings of this moment, beside those of the audits. Pure.

They are over by themselves: a quarantine ends, and a port counts as refused while it was within ten minutes.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from ipaddress import IPv4Address

from cocoon_net.audit.finding import Evidence, Finding, Kind, Sighting, Source
from cocoon_net.dhcp import guard
from cocoon_net.dhcp.decision import when
from cocoon_net.dhcp.lease import Lease, State


def findings(resting: Iterable[Lease], refused: Iterable[guard.Finding], now: datetime) -> list[Finding]:
    """Return addresses in quarantine, by address, then ports that were refused, the worst first."""
    quarantined = sorted(lease for lease in resting if lease.state is State.QUARANTINED)
    return [*(_quarantined(lease, now) for lease in quarantined), *(_refused(one) for one in refused)]


def _quarantined(lease: Lease, now: datetime) -> Finding:
    address, until = str(IPv4Address(lease.address)), when(lease.ends)
    at = f", last leased at {lease.port}" if lease.port else ""
    why = "its client declined it, or somebody answers for it without a lease"
    evidence = (Evidence(Source.GUEST, f"in quarantine since {when(lease.since):%H:%M:%S} UTC{at}"),)
    advice = f"arping -D -I cni0 {address}: an answer names who uses it; then it is leased again by itself"
    says = f"given to nobody until {until:%H:%M:%S} UTC: {why}"
    return Finding(Sighting(Kind.ADDRESS_QUARANTINED, address, says, evidence, advice), when(lease.since), 1, now)


def _refused(one: guard.Finding) -> Finding:
    says = f"{one.reason}: {one.total} messages, one of {one.mac or 'many'}"
    advice = "see 'A guest without an address' in docs/operations.md"
    evidence = (Evidence(Source.GUEST, f"the latest at {when(one.at):%H:%M:%S} UTC"),)
    seen = Sighting(Kind.PORT_REFUSED, one.port, says, evidence, advice)
    return Finding(seen, when(one.since), one.total, when(one.at))
