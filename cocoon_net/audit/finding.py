"""What audits find, and when it counts. Pure: time is an argument.

A *sighting* is what one pass saw; a *finding* is a sighting that goes on: since when, how often confirmed, resolved
when. What is cloud-side and would take addresses away from guests needs two sources that agree, ``ENOUGH`` passes in
a row; an area that could not be looked at is *unknown*: its findings stay as they are, neither confirmed nor resolved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Any

ENOUGH = 3
"""Passes in a row that must agree on a destructive conclusion."""


class Source(StrEnum):
    """Who says so."""

    CLOUD = "cloud"
    METADATA = "metadata"
    KERNEL = "kernel"
    GUEST = "guest"
    LEDGER = "ledger"
    FILE = "file"


class Severity(StrEnum):
    """How soon somebody should look."""

    NOTICE = "notice"
    WARNING = "warning"
    CRITICAL = "critical"
    """Guests are, or soon will be, without network."""


class Kind(StrEnum):
    """What is wrong; what to type about each is in docs/operations.md."""

    UNKNOWN = "unknown"
    """An area could not be looked at; its key is the area."""
    SUBNET = "subnet"
    INTERFACE_GONE = "interface-gone"
    INTERFACE_DETACHED = "interface-detached"
    INTERFACE_ELSEWHERE = "interface-elsewhere"
    INTERFACE_GROUPS = "interface-groups"
    INTERFACE_EXTRA = "interface-extra"
    INGRESS = "ingress"
    ADDRESS_GONE = "address-gone"
    ADDRESS_MOVED = "address-moved"
    ADDRESS_ADDED = "address-added"
    LINK_MISSING = "link-missing"
    LINK_DOWN = "link-down"
    LINK_RENAMED = "link-renamed"
    LINK_MTU = "link-mtu"
    LINK_MAC = "link-mac"
    BRIDGE = "bridge"
    SYSCTL = "sysctl"
    ROUTE_MISSING = "route-missing"
    ROUTE_STRAY = "route-stray"
    FIREWALL = "firewall"
    FIREWALL_FOREIGN = "firewall-foreign"
    CONFLIST = "conflist"
    CONFLIST_NEIGHBOUR = "conflist-neighbour"
    POOL = "pool"
    LEASE_FILE = "lease-file"
    DHCP_PORT = "dhcp-port"
    CLOCK = "clock"
    ADDRESS_QUARANTINED = "address-quarantined"
    PORT_REFUSED = "port-refused"
    """The last two are what guests do, which no audit looks at: the daemon sees them itself."""


AREAS: Mapping[Kind, str] = {
    Kind.SUBNET: "subnet",
    Kind.INTERFACE_GONE: "enis",
    Kind.INTERFACE_GROUPS: "enis",
    Kind.INTERFACE_EXTRA: "enis",
    Kind.INGRESS: "ingress",
    Kind.INTERFACE_DETACHED: "attach",
    Kind.INTERFACE_ELSEWHERE: "attach",
    Kind.ADDRESS_GONE: "addresses",
    Kind.ADDRESS_MOVED: "addresses",
    Kind.ADDRESS_ADDED: "addresses",
    Kind.LINK_MISSING: "links",
    Kind.LINK_DOWN: "links",
    Kind.LINK_RENAMED: "links",
    Kind.LINK_MTU: "links",
    Kind.LINK_MAC: "links",
    Kind.BRIDGE: "bridge",
    Kind.SYSCTL: "sysctl",
    Kind.ROUTE_MISSING: "routes",
    Kind.ROUTE_STRAY: "routes",
    Kind.FIREWALL: "firewall",
    Kind.FIREWALL_FOREIGN: "rules of others",
    Kind.CONFLIST: "cni",
    Kind.CONFLIST_NEIGHBOUR: "cni",
    Kind.POOL: "dhcp",
    Kind.LEASE_FILE: "leases",
    Kind.DHCP_PORT: "dhcp port",
    Kind.CLOCK: "clock",
    Kind.ADDRESS_QUARANTINED: "guests",
    Kind.PORT_REFUSED: "guests",
}
"""Kind -> the area that must have been looked at to say that it is gone: a step's name, or a check of the audit's."""

DESTRUCTIVE = frozenset({Kind.INTERFACE_GONE, Kind.INTERFACE_DETACHED, Kind.INTERFACE_ELSEWHERE, Kind.ADDRESS_GONE})
"""Kinds that, once they count, take addresses away from guests."""

_SEVERITIES = {
    **dict.fromkeys(DESTRUCTIVE, Severity.CRITICAL),
    **dict.fromkeys((Kind.LINK_MISSING, Kind.FIREWALL_FOREIGN, Kind.DHCP_PORT), Severity.CRITICAL),
    **dict.fromkeys((Kind.ADDRESS_ADDED, Kind.ADDRESS_MOVED, Kind.INTERFACE_EXTRA), Severity.NOTICE),
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one source says; ``agrees`` is whether it bears the sighting out."""

    source: Source
    says: str
    agrees: bool = True


Place = tuple[Kind, str]
"""A kind and the key in its keyspace: ``(link-down, eni-3)``."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """One thing that one pass saw wrong."""

    kind: Kind
    key: str
    says: str
    """One line for people, without the kind."""
    evidence: tuple[Evidence, ...] = ()
    advice: str = ""
    """The command to type, or what happens by itself."""

    @property
    def place(self) -> Place:
        """Where it is."""
        return self.kind, self.key

    def as_json(self) -> dict[str, Any]:
        """Return JSON-ready values that ``from_json`` reads back."""
        evidence = [{"source": str(e.source), "says": e.says, "agrees": e.agrees} for e in self.evidence]
        return {
            "kind": str(self.kind),
            "key": self.key,
            "says": self.says,
            "advice": self.advice,
            "evidence": evidence,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sighting:
        """Read a sighting back."""
        evidence = tuple(Evidence(Source(e["source"]), str(e["says"]), bool(e["agrees"])) for e in data["evidence"])
        return cls(Kind(data["kind"]), str(data["key"]), str(data["says"]), evidence, str(data["advice"]))


@dataclass(frozen=True, slots=True)
class Finding:
    """A sighting that goes on, or went on until ``resolved``."""

    sighting: Sighting
    first_seen: datetime
    confirmed: int
    """Passes that bore it out; of a destructive one, those in a row in which two sources agreed."""
    last_seen: datetime
    resolved: datetime | None = None

    @property
    def kind(self) -> Kind:
        """What is wrong."""
        return self.sighting.kind

    @property
    def key(self) -> str:
        """Where."""
        return self.sighting.key

    @property
    def area(self) -> str:
        """Where one has to look to see that it is over."""
        return AREAS.get(self.kind, self.key)

    @property
    def severity(self) -> Severity:
        """How soon somebody should look."""
        return _SEVERITIES.get(self.kind, Severity.WARNING)

    @property
    def counts(self) -> bool:
        """Whether it may be acted on."""
        return self.resolved is None and (self.kind not in DESTRUCTIVE or self.confirmed >= ENOUGH)

    def as_json(self) -> dict[str, Any]:
        """Return JSON-ready values, as ``GET /v1/findings`` and ``audit --json`` show them."""
        return {
            **self.sighting.as_json(),
            "severity": str(self.severity),
            "first_seen": self.first_seen.isoformat(timespec="seconds"),
            "confirmed": self.confirmed,
            "counts": self.counts,
            "last_seen": self.last_seen.isoformat(timespec="seconds"),
            "resolved": self.resolved.isoformat(timespec="seconds") if self.resolved else None,
        }


@dataclass(frozen=True, slots=True)
class Pass:
    """One audit: what it looked at, what it saw wrong, what it could not tell, and what it put right."""

    at: datetime
    seconds: float
    looked: frozenset[str]
    """Areas of which it knows that nothing else is wrong."""
    sightings: tuple[Sighting, ...] = ()
    unknown: Mapping[str, str] | None = None
    """Area -> why it could not be looked at."""
    repaired: tuple[str, ...] = ()
    """One line each."""
    calls: Mapping[tuple[str, str], int] | None = None
    """(action, code) -> calls of the cloud's API; no code is success."""

    @property
    def drift(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.sightings)

    def as_json(self) -> dict[str, Any]:
        """Return JSON-ready values that ``from_json`` reads back."""
        return {
            "at": self.at.isoformat(),
            "seconds": round(self.seconds, 3),
            "looked": sorted(self.looked),
            "sightings": [sighting.as_json() for sighting in self.sightings],
            "unknown": dict(self.unknown or {}),
            "repaired": list(self.repaired),
            "calls": [[action, code, count] for (action, code), count in (self.calls or {}).items()],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Pass:
        """Read a pass back. Raises ValueError, KeyError, TypeError for what is none."""
        return cls(
            datetime.fromisoformat(data["at"]),
            float(data["seconds"]),
            frozenset(map(str, data["looked"])),
            tuple(map(Sighting.from_json, data["sightings"])),
            {str(area): str(why) for area, why in data["unknown"].items()},
            tuple(map(str, data["repaired"])),
            {(str(action), str(code)): int(count) for action, code, count in data.get("calls", ())},
        )


def settle(known: Mapping[Place, Finding], seen: Pass) -> list[Finding]:
    """Return what a pass makes of the open findings: those that are new, confirmed again, or over."""
    now = seen.at
    blind = (Sighting(Kind.UNKNOWN, area, why) for area, why in (seen.unknown or {}).items())
    out: list[Finding] = []
    there: set[Place] = set()
    for sighting in (*seen.sightings, *blind):
        if sighting.place in there:
            continue
        there.add(sighting.place)
        before = known.get(sighting.place)
        first = before.first_seen if before else now
        out.append(Finding(sighting, first, _confirmed(sighting, before.confirmed if before else 0), now))
    for place, finding in known.items():
        if place not in there and finding.area in seen.looked:
            out.append(replace(finding, resolved=now))
    return out


def _confirmed(sighting: Sighting, before: int) -> int:
    """Count a pass: two sources that agree add one, a source that contradicts begins anew, silence changes nothing."""
    if sighting.kind not in DESTRUCTIVE:
        return before + 1
    said = [evidence.agrees for evidence in sighting.evidence if evidence.source is not Source.LEDGER]
    if sum(said) >= 2:
        return before + 1
    return before if all(said) else 0


def withdrawn(findings: Iterable[Finding], addresses: Mapping[str, Collection[IPv4Address]]) -> frozenset[IPv4Address]:
    """Return the addresses that no guest may be given: the cloud does not deliver to this node what is sent to them.

    ``addresses`` is what the ledger knows of each interface.
    """
    gone: set[IPv4Address] = set()
    for finding in findings:
        if finding.counts and finding.kind is Kind.ADDRESS_GONE:
            gone.add(IPv4Address(finding.key))
        elif finding.counts and finding.kind in DESTRUCTIVE:
            gone.update(addresses.get(finding.key, ()))
    return frozenset(gone)
