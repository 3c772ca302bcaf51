"""From security groups to the text of one nftables table (nft(8)); pure.

What a port may receive is decided where the VPC hands a packet to it, statefully, as the provider does: an answer
always passes, what no rule of the port's groups accepts is dropped without a word. Egress is not filtered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address

from cocoon_net.lab.view import Port, Rule, View

TABLE = "lab"


def render(view: View, links: Mapping[str, str], *, strict_source: bool) -> str:
    """Return a script that replaces the whole table in one transaction.

    ``links``: interface id -> name of the link to it in the fabric. ``strict_source``: drop what a port sends from
    an address that the VPC does not deliver to it.
    """
    ports = [port for port in view.ports if port.interface_id in links]
    unions = sorted({port.security_groups for port in ports})
    chains = {union: f"union{number}" for number, union in enumerate(unions)}
    rules = {group.group_id: group.ingress for group in view.groups}
    sources = sorted({rule.source_group for of in rules.values() for rule in of if rule.source_group})
    lines = [f"table ip {TABLE} {{}}", f"delete table ip {TABLE}", f"table ip {TABLE} {{"]
    for group in sources:
        addresses = sorted(a for port in ports if group in port.security_groups for a in port.addresses)
        lines += _set(group, "ipv4_addr", map(str, addresses))
    for union, chain in chains.items():
        ordered = sorted((rule for group in union for rule in rules.get(group, ())), key=_precedence)
        lines += [f"  chain {chain} {{", *(f"    {text}" for rule in ordered if (text := statement(rule)))]
        lines += ["    counter drop", "  }"]
    lines += ["  chain forward {", "    type filter hook forward priority filter; policy drop;"]
    lines += ["    ct state established,related accept"]
    if ports:
        verdicts = (f'"{links[port.interface_id]}" : goto {chains[port.security_groups]}' for port in ports)
        lines += [f"    oifname vmap {{ {', '.join(verdicts)} }}"]
    lines += ["  }"]
    if strict_source:
        lines += _set("owned", "ifname . ipv4_addr", _owned(ports, links))
        lines += ["  chain prerouting {", "    type filter hook prerouting priority raw; policy accept;"]
        lines += ['    iifname != "lo" iifname . ip saddr != @owned counter drop', "  }"]
    return "\n".join([*lines, "}", ""])


def statement(rule: Rule) -> str:
    """Return a rule as nft says it; an empty string for what cannot match in IPv4."""
    ports = f"{rule.port_start}-{rule.port_end}"
    match rule.protocol:
        case "tcp" | "udp" if rule.port_start > 0:
            what = [f"{rule.protocol} dport {ports}"]
        case "tcp" | "udp" | "icmp":
            what = [f"meta l4proto {rule.protocol}"]
        case "all":
            what = []
        case _:
            return ""
    if rule.cidr is not None and rule.cidr.prefixlen > 0:
        what.insert(0, f"ip saddr {rule.cidr}")
    elif rule.source_group is not None:
        what.insert(0, f"ip saddr @{rule.source_group}")
    return " ".join([*what, "counter", rule.policy])


def _precedence(rule: Rule) -> tuple[int, bool]:
    """Smaller priority first; among equals a drop before an accept."""
    return rule.priority, rule.policy != "drop"


def _owned(ports: Iterable[Port], links: Mapping[str, str]) -> Iterable[str]:
    pairs: list[tuple[str, IPv4Address]] = [(links[p.interface_id], a) for p in ports for a in p.addresses]
    return (f'"{link}" . {address}' for link, address in pairs)


def _set(name: str, kind: str, elements: Iterable[str]) -> list[str]:
    inside = ", ".join(elements)
    return [f"  set {name} {{", f"    type {kind};", *([f"    elements = {{ {inside} }}"] if inside else []), "  }"]
