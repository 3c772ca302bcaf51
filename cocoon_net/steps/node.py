"""What the node's side should be: links up, the bridge, kernel settings, rules, the CNI file and the pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

from cocoon_net.engine.model import Busy, Context, Wanted
from cocoon_net.engine.plan import natural
from cocoon_net.errors import Unsupported
from cocoon_net.formats import conflist, iptables, pool_file
from cocoon_net.records import (
    BRIDGE,
    IP_FORWARD,
    AddressSet,
    Bridge,
    File,
    Interface,
    Link,
    Pool,
    Record,
    Route,
    Ruleset,
    Sysctl,
    pinned_mac,
    rp_filter,
)
from cocoon_net.site import CONFLIST

DEFAULT_MTU = 1500
"""Where no interface is known to carry another: an Ethernet frame's payload."""


def links(cx: Context, seen: Mapping[str, Record]) -> Wanted:
    """Want the link of every interface up; it needs no address, the VPC delivers to its MAC.

    Where attaching was skipped, too: without a link, an interface's addresses would be leased and reach nobody.
    """
    keys = {*cx.records("attach"), *(cx.records("enis") if "attach" in cx.skipped else ())}
    return dict.fromkeys(sorted(keys, key=natural), Link(up=True))


def bridge(cx: Context, seen: Mapping[str, Record]) -> Wanted:
    """Want ``cni0`` with the gateway's address, a MAC that no port can change, and the MTU of the interfaces."""
    address = IPv4Interface(f"{cx.spec.gateway}/{cx.spec.subnet.prefixlen}")
    mac = pinned_mac(cx.spec.node_name, cx.spec.subnet)
    return {BRIDGE: Bridge(BRIDGE, address, mac, mtu(cx))}


def mtu(cx: Context) -> int:
    """Return the one MTU decision: the smallest of the interfaces' links; bridge, CNI and DHCP follow it."""
    sizes = [link.mtu for link in cx.records("links").values() if isinstance(link, Link) and link.mtu]
    return min(sizes, default=DEFAULT_MTU)


def sysctl(cx: Context, seen: Mapping[str, Record]) -> Wanted:
    """Want forwarding, and no reverse-path check: packets come in by one interface and go out by another."""
    return {name: Sysctl(name, "1" if name == IP_FORWARD else "0") for name in settings(cx)}


def settings(cx: Context) -> tuple[str, ...]:
    """Return the names of the kernel settings that are ours to want."""
    return (IP_FORWARD, *(rp_filter(name) for name in ("all", *settled_links(cx))))


def primary(cx: Context) -> str:
    """Return the name of the link that carries the node's own address; empty where nobody knows it."""
    return cx.spec.primary_nic or (cx.instance.primary_link if cx.instance else "")


def settled_links(cx: Context) -> tuple[str, ...]:
    """Return the names of the links that VM traffic crosses: the bridge, the primary one, the interfaces'."""
    return tuple(dict.fromkeys(name for name in (BRIDGE, primary(cx), *secondaries(cx)) if name))


def renamed(cx: Context, seen: Mapping[str, Record | Busy]) -> Context:
    """Return the context with the links called as the kernel calls them now: rules and settings have to name them so.

    The ledger itself changes with the next run.
    """
    ledger = dict(cx.ledger)
    for key, link in seen.items():
        row = ledger.get(("links", key))
        if row is not None and isinstance(row.record, Link) and isinstance(link, Link):
            ledger["links", key] = replace(row, record=replace(row.record, name=link.name, index=link.index))
    return replace(cx, ledger=ledger)


def secondaries(cx: Context) -> tuple[str, ...]:
    """Return the names of the interfaces' links, in the order of people; before they appear (a plan), what for."""
    names = (link.name or f"(link of {key})" for key, link in cx.records("links").items())
    return tuple(sorted(names, key=natural))


def routes(cx: Context, seen: Mapping[str, Record]) -> Wanted:
    """Want the routes that are there: which leases are bound is the DHCP server's to know, and it keeps them."""
    return {key: record for key, record in seen.items() if isinstance(record, Route) and record.link == BRIDGE}


def firewall(cx: Context, seen: Mapping[str, Record]) -> Wanted:
    """Want our chains as the guide prescribes; nothing where the operator keeps the rules himself."""
    if not cx.spec.manage_iptables:
        return {}
    drops = (*((cx.spec.subnet,) if cx.spec.drop_internal_access else ()), *cx.spec.drop_cidrs)
    filter_rules, nat_rules = iptables.rules(cx.spec.subnet, secondaries(cx), primary(cx), drops)
    return {"iptables": Ruleset(filter_rules, nat_rules)}


def cni(cx: Context, seen: Mapping[str, Record]) -> Wanted:
    """Want the CNI file that cocoon loads, byte for byte."""
    return {CONFLIST: File(CONFLIST, conflist.render(mtu(cx)))}


def dhcp(cx: Context, seen: Mapping[str, Record]) -> Wanted:
    """Want the pool: every secondary address the interfaces really have, but never the gateway's."""
    addresses = pool_addresses(cx)
    if not any(isinstance(record, AddressSet) and record.count for record in cx.records("addresses").values()):
        raise Unsupported(
            f"there is no address to lease in {cx.spec.subnet}: none of this node's interfaces has a secondary address",
            hint="`cocoon-net init` makes interfaces and addresses; `adopt` only takes those that are there",
        )
    pool = Pool(cx.spec.subnet, cx.spec.gateway, cx.spec.dns, addresses, mtu(cx))
    rendered = pool_file.render(pool_of(cx, pool))
    now = seen.get("pool.json")
    if isinstance(now, File) and pool_file.same(now.content, rendered):
        rendered = now.content  # only its time differs
    return {"pool": pool, "pool.json": File("pool.json", rendered)}


def pool_addresses(cx: Context) -> tuple[IPv4Address, ...]:
    """Return what guests may lease, sorted."""
    sets = [record for record in cx.records("addresses").values() if isinstance(record, AddressSet)]
    primaries = {r.primary_address for r in cx.records("enis").values() if isinstance(r, Interface)}
    found = {address for record in sets for address in record.addresses if address in cx.spec.subnet}
    return tuple(sorted(found - primaries - {cx.spec.gateway}))


def pool_of(cx: Context, pool: Pool) -> pool_file.PoolFile:
    """Return the projection that a Go cocoon-net reads, should we be rolled back to it."""
    interfaces = [r for r in cx.records("enis").values() if isinstance(r, Interface)]
    subnets = cx.records("subnet")
    return pool_file.PoolFile(
        platform=cx.spec.platform,
        node_name=cx.spec.node_name,
        subnet=pool.subnet,
        gateway=pool.gateway,
        primary_nic=primary(cx),
        secondary_nics=secondaries(cx),
        ips=pool.addresses,
        eni_ids=tuple(interface.id for interface in interfaces),
        subnet_id=subnets["subnet"].id if "subnet" in subnets else "",
        dns_servers=pool.dns,
        drop_internal_access=cx.spec.drop_internal_access,
        drop_cidrs=cx.spec.drop_cidrs,
        updated_at=cx.now,
    )
