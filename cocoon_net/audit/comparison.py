"""What differs between the ledger and what the sources show, as sightings. Pure.

The engine's own diff says what a step would change. Here that is told in the words of whoever has to act, together
with what the diff passes over: facts such as a link's name or which addresses an interface has.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from cocoon_net.audit.finding import Evidence, Kind, Sighting, Source
from cocoon_net.engine.forecast import Outlook, Planned, differing
from cocoon_net.engine.model import Busy, Change, Context, Seen, Verb
from cocoon_net.engine.plan import natural
from cocoon_net.records import AddressSet, Attachment, Interface, Link, Record, Route
from cocoon_net.spec import DEFAULT_DNS, POOL_SIZE_INIT, Spec

STEPS: Mapping[str, Kind] = {
    "bridge": Kind.BRIDGE,
    "sysctl": Kind.SYSCTL,
    "firewall": Kind.FIREWALL,
    "cni": Kind.CONFLIST,
    "dhcp": Kind.POOL,
}
"""Steps of the node whose changes are told as they are."""


@dataclass(frozen=True, slots=True)
class Others:
    """What the other sources say of interfaces, by MAC; None for a source that could not be asked."""

    metadata: Mapping[str, frozenset[IPv4Address]] | None = None
    links: frozenset[str] | None = None
    """MACs of the kernel's links."""

    def of(self, mac: str) -> tuple[Evidence, ...]:
        """Return what they say of an interface that the cloud says is not here."""
        out: list[Evidence] = []
        if self.metadata is not None and mac:
            there = mac in self.metadata
            out.append(Evidence(Source.METADATA, f"{mac} is {'' if there else 'not '}attached", agrees=not there))
        if self.links is not None and mac:
            there = mac in self.links
            out.append(Evidence(Source.KERNEL, f"{'a' if there else 'no'} link has {mac}", agrees=not there))
        return tuple(out)


def command(workflow: str, spec: Spec) -> str:
    """Return the command that brings the node to where ``spec`` wants it."""
    words = ["cocoon-net", workflow, "--platform", spec.platform, "--node-name", spec.node_name]
    words += ["--subnet", str(spec.subnet)]
    if spec.gateway != spec.subnet[1]:
        words += ["--gateway", str(spec.gateway)]
    if spec.pool_size != POOL_SIZE_INIT:
        words += ["--pool-size", str(spec.pool_size)]
    if (dns := ",".join(map(str, spec.dns))) != ",".join(DEFAULT_DNS):
        words += ["--dns", dns]
    for flag, value in (
        ("--primary-nic", spec.primary_nic),
        ("--security-group", spec.security_group),
        ("--region", spec.region),
        ("--endpoint", spec.endpoint),
        ("--credentials-file", spec.credentials_file),
    ):
        words += [flag, value] if value else []
    words += ["--drop-internal-access"] if spec.drop_internal_access else []
    for cidr in spec.drop_cidrs:
        words += ["--drop-cidr", str(cidr)]
    return f"`{shlex.join(words)}`"


def of_cloud(outlook: Outlook, cx: Context, there: Collection[str], others: Others, mend: str) -> list[Sighting]:
    """Tell what the cloud shows otherwise at one of its steps; ``mend`` is the command that puts it right.

    ``there`` are the interfaces that exist: of one that is gone, nothing else is told.
    """
    match outlook.step:
        case "enis":
            return [*_interfaces(outlook, cx, others, mend)]
        case "attach":
            return [*_attachments(outlook, cx, there, others, mend)]
        case "addresses":
            return [*_addresses(outlook.seen, cx, there, others, mend)]
        case step:
            return [_changed(Kind(step), planned, Source.CLOUD, mend) for planned in outlook.changes]


def of_node(kind: Kind, changes: Iterable[Planned], *, repaired: bool) -> list[Sighting]:
    """Tell what one of the node's steps would change."""
    source = Source.FILE if kind in (Kind.CONFLIST, Kind.POOL) else Source.KERNEL
    auto = "the service puts it right by itself; `cocoon-net audit --repair` does it now"
    return [_changed(kind, planned, source, auto if repaired else _calls(planned)) for planned in changes]


MENDABLE = (Kind.LINK_DOWN, Kind.ROUTE_MISSING, Kind.BRIDGE, Kind.SYSCTL, Kind.FIREWALL)
"""What a notice of the kernel can lead to."""


def of_mended(change: Change) -> Sighting:
    """Tell what the service put right of itself, by what it changed."""
    kind = Kind.LINK_DOWN if change.step == "links" else STEPS[change.step]
    return _changed(kind, Planned(change, ()), Source.KERNEL, _MENDED)


def of_rerouted(address: int) -> Sighting:
    """Tell of a lease's route that others removed or replaced, and that was set again."""
    key = f"{IPv4Address(address)}/32"
    said = (Evidence(Source.KERNEL, "removed or replaced by somebody else"),)
    return Sighting(Kind.ROUTE_MISSING, key, f"the route to {key} was taken away", said, _MENDED)


def of_links(outlook: Outlook, cx: Context, names: Mapping[str, str], *, repaired: bool) -> list[Sighting]:
    """Tell which links are missing, down, or not as the ledger has them; ``names`` is the kernel's: name -> MAC."""
    known = {key: record for key, record in cx.records("links").items() if isinstance(record, Link)}
    out: list[Sighting] = []
    for key in sorted({*known, *outlook.wanted}, key=natural):
        before, now = known.get(key), outlook.seen.get(key)
        name = before.name if before else ""
        match now:
            case None if before and name in names:
                mac = Evidence(Source.KERNEL, f"{name} has {names[name]}")
                advice = f"`ip link set {name} address {before.mac}`"
                out.append(Sighting(Kind.LINK_MAC, key, f"{name} should have the MAC {before.mac}", (mac,), advice))
            case None:
                said = (Evidence(Source.KERNEL, "no such link"),)
                advice = "`cocoon-net audit` tells whether the interface is attached; `dmesg` why no link appeared"
                out.append(Sighting(Kind.LINK_MISSING, key, f"the link of {key} ({name}) is missing", said, advice))
            case Link():
                out += _link(key, before, now, repaired=repaired)
            case _:
                pass
    return out


def _link(key: str, before: Link | None, now: Link, *, repaired: bool) -> Iterator[Sighting]:
    if not now.up:
        advice = "the service sets it up by itself" if repaired else f"`ip link set {now.name} up`"
        yield Sighting(Kind.LINK_DOWN, key, f"{now.name} is down", (Evidence(Source.KERNEL, "down"),), advice)
    if before is None:
        return
    if before.mtu and now.mtu != before.mtu:
        told = Evidence(Source.KERNEL, f"mtu {now.mtu}")
        advice = f"`ip link set {now.name} mtu {before.mtu}`"
        yield Sighting(Kind.LINK_MTU, key, f"{now.name} has an MTU of {now.mtu}, not {before.mtu}", (told,), advice)
    if before.name and now.name != before.name:
        told = Evidence(Source.KERNEL, f"{now.mac} is {now.name}")
        advice = f"`ip link set {now.name} down name {before.name} && ip link set {before.name} up`"
        yield Sighting(Kind.LINK_RENAMED, key, f"{before.name} is called {now.name}", (told,), advice)


def of_routes(bound: frozenset[IPv4Address], seen: Seen, link: str) -> list[Sighting]:
    """Tell which bound lease has no route to ``link``, and which route of ours has no lease."""
    there = {record.destination for record in seen.values() if isinstance(record, Route) and record.link == link}
    elsewhere = {r.destination: r.link for r in seen.values() if isinstance(r, Route) and r.link != link}
    out: list[Sighting] = []
    for address in sorted(bound - there):
        says = f"{address} is leased and has no route to {link}"
        told = Evidence(Source.KERNEL, f"its route leads to {elsewhere[address]}" if address in elsewhere else "none")
        out.append(Sighting(Kind.ROUTE_MISSING, f"{address}/32", says, (told,), _ROUTES))
    for address in sorted((there | set(elsewhere)) - bound):
        told = Evidence(Source.KERNEL, f"dev {elsewhere.get(address, link)}")
        out.append(Sighting(Kind.ROUTE_STRAY, f"{address}/32", f"{address} has a route and no lease", (told,), _ROUTES))
    return out


_MENDED = "the service put it right"
_ROUTES = "the service puts its routes right by itself; without one, `cocoon-net daemon` does at its start"


def _interfaces(outlook: Outlook, cx: Context, others: Others, mend: str) -> Iterator[Sighting]:
    known = {key: record for key, record in cx.records("enis").items() if isinstance(record, Interface)}
    for key in sorted(set(known) - set(outlook.seen), key=natural):
        record = known[key]
        told = (Evidence(Source.CLOUD, f"{record.id} does not exist"), *others.of(record.mac))
        says = f"{key} ({record.id}) is gone; its addresses reach nobody"
        yield Sighting(Kind.INTERFACE_GONE, key, says, told, f"{mend} makes another one")
    for planned in outlook.changes:
        change = planned.change
        match change.want, change.seen:
            case Interface(security_groups=want), Interface(security_groups=seen) if want != seen:
                told = (Evidence(Source.CLOUD, f"in {', '.join(seen)}"),)
                says = f"{key_of(change.key, change.seen)} is in {', '.join(seen)}, not in {', '.join(want)}"
                yield Sighting(Kind.INTERFACE_GROUPS, change.key, says, told, planned.refused or f"{mend} puts it back")
            case _:
                pass
    for key in sorted(set(outlook.seen) - set(known), key=natural):
        now = outlook.seen[key]
        if isinstance(now, Interface):
            told = (Evidence(Source.CLOUD, f"{now.id} is {now.instance_id or 'not attached'}"),)
            advice = f"{mend} takes it, `cocoon-net gc` removes what nobody has"
            yield Sighting(Kind.INTERFACE_EXTRA, key, f"{now.id} is ours, and the ledger has it not", told, advice)


def key_of(key: str, record: Record | Busy | None) -> str:
    """Name an interface for people."""
    return f"{key} ({record.id})" if isinstance(record, Interface) else key


def _attachments(
    outlook: Outlook, cx: Context, there: Collection[str], others: Others, mend: str
) -> Iterator[Sighting]:
    known = {key: record for key, record in cx.records("enis").items() if isinstance(record, Interface)}
    for planned in outlook.changes:
        change, record = planned.change, known.get(planned.change.key)
        if record is None or change.key not in there:
            continue
        name, evidence = f"{change.key} ({record.id})", others.of(record.mac)
        match change.verb, change.seen:
            case Verb.CREATE, _:
                told = (Evidence(Source.CLOUD, "attached to nothing"), *evidence)
                says = f"{name} is attached to nothing; its addresses reach nobody"
                yield Sighting(Kind.INTERFACE_DETACHED, change.key, says, told, f"{mend} attaches it again")
            case Verb.UPDATE, Attachment(instance_id=other):
                told = (Evidence(Source.CLOUD, f"attached to {other}"), *evidence)
                advice = f"detach it from {other}, then {mend}; each node needs a --node-name of its own"
                yield Sighting(Kind.INTERFACE_ELSEWHERE, change.key, f"{name} is attached to {other}", told, advice)
            case _:
                pass


def _addresses(seen: Seen, cx: Context, existing: Collection[str], others: Others, mend: str) -> Iterator[Sighting]:
    macs = {key: record.mac for key, record in cx.records("enis").items() if isinstance(record, Interface)}
    known = {key: r.addresses for key, r in cx.records("addresses").items() if isinstance(r, AddressSet)}
    now = {key: r.addresses for key, r in seen.items() if isinstance(r, AddressSet)}
    holder = {address: key for key, addresses in now.items() for address in addresses}
    all_known = {address for addresses in known.values() for address in addresses}
    for key in sorted(known, key=natural):
        if key not in existing or isinstance(seen.get(key), Busy):
            continue
        for address in sorted(set(known[key]) - set(now.get(key, ()))):
            if (other := holder.get(address)) is not None:
                told = Evidence(Source.CLOUD, f"on {other}")
                says = f"{address} moved from {key} to {other}; it still reaches this node"
                yield Sighting(Kind.ADDRESS_MOVED, str(address), says, (told,), f"{mend} takes note of it")
                continue
            evidence = [Evidence(Source.CLOUD, f"not on {key}")]
            if others.metadata is not None and macs.get(key):
                there = address in others.metadata.get(macs[key], ())
                evidence.append(Evidence(Source.METADATA, f"{'' if there else 'not '}on {key}", agrees=not there))
            says = f"{address} was taken away from {key}"
            yield Sighting(Kind.ADDRESS_GONE, str(address), says, tuple(evidence), f"{mend} assigns another one")
    for address in sorted(set(holder) - all_known):
        told = Evidence(Source.CLOUD, f"on {holder[address]}")
        says = f"{address} was added to {holder[address]} by hand; it is not leased"
        yield Sighting(Kind.ADDRESS_ADDED, str(address), says, (told,), f"{mend} takes it into the pool")


def _changed(kind: Kind, planned: Planned, source: Source, advice: str) -> Sighting:
    change = planned.change
    match change.verb:
        case Verb.CREATE:
            says, seen = f"{change.key} is missing", "absent"
        case Verb.DELETE:
            says, seen = f"{change.key} should not be there", "there"
        case Verb.UPDATE:
            found = differing(change)
            says = f"{change.key}: " + ", ".join(_difference(name, now, want) for name, now, want in found)
            seen = ", ".join(f"{name} {_short(now)}" for name, now, _ in found)
    return Sighting(kind, change.key, says, (Evidence(source, seen),), planned.refused or advice)


def _difference(name: str, now: object, want: object) -> str:
    """Say how a field differs: of rules the first that is not as wanted, of a whole file no more than that it does."""
    match now, want:
        case tuple(), tuple():
            lacks, more = [one for one in want if one not in now], [one for one in now if one not in want]
            told = [f"lacks {_first(lacks)}"] if lacks else []
            told += [f"has {_first(more)} too much"] if more else []
            return f"{name} {' and '.join(told) or 'is in another order'}"
        case str(), str() if "\n" in now or "\n" in want:
            return f"{name} is not what we wrote"
        case _:
            return f"{name} is {_short(now)}, not {_short(want)}"


def _first(some: Sequence[object]) -> str:
    more = f" and {len(some) - 1} more" if len(some) > 1 else ""
    return f"{_short(some[0])}{more}"


def _calls(planned: Planned) -> str:
    return "; ".join(f"`{call}`" for call in planned.calls)


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    text = " ".join(text.split()) or "empty"
    return text if len(text) <= 60 else f"{text[:57]}..."
