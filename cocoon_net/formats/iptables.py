"""iptables as text: the rules that the guide prescribes, what ``iptables-save`` says, and the restore that changes it.

All of ours stands in two chains of our own, jumped to from the head of FORWARD and from POSTROUTING. Rules are
spelled exactly as ``iptables-save`` spells them, so that wanted and seen compare as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network

from cocoon_net.records import BRIDGE, Ruleset

FORWARD, POSTROUTING = "COCOON-NET-FORWARD", "COCOON-NET-POSTROUTING"
DROP_COMMENT = "cocoon-net-drop"
"""The comment of the Go tool's drop rules, kept so that those who look for it find ours."""

_DROP = f" -m comment --comment {DROP_COMMENT} "


def rules(
    subnet: IPv4Network, links: Sequence[str], primary: str, drops: Sequence[IPv4Network]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the bodies of our filter and nat chains.

    Drops come first, so that nothing before them accepts. VM traffic leaves by the primary link too, so it is let
    through there even where somebody (Docker) set FORWARD's policy to DROP.
    """
    everywhere = IPv4Network("0.0.0.0/0")  # what iptables-save does not spell out
    body = [f"{'' if cidr == everywhere else f'-d {cidr} '}-i {BRIDGE}{_DROP}-j DROP" for cidr in drops]
    for link in links:
        body += [f"-i {link} -o {BRIDGE} -j ACCEPT", f"-i {BRIDGE} -o {link} -j ACCEPT"]
    body.append(f"-i {BRIDGE} -o {BRIDGE} -j ACCEPT")
    if primary and primary not in links:
        body.append(f"-i {BRIDGE} -o {primary} -j ACCEPT")
        body.append(f"-i {primary} -o {BRIDGE} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
    return tuple(body), (f"-s {subnet} ! -o {BRIDGE} -j MASQUERADE",)


def parse(save: str) -> Ruleset | None:
    """Read our chains and jumps from ``iptables-save``; None when none of them is there.

    A jump's position counts the rules of FORWARD or POSTROUTING from 1; a jump that stands there twice, or with
    conditions, counts as position 0, so that it differs from what is wanted and is set anew.
    """
    table = ""
    chains: set[tuple[str, str]] = set()
    bodies: dict[tuple[str, str], list[str]] = {}
    for line in save.splitlines():
        match line[:1]:
            case "*":
                table = line[1:].strip()
            case ":":
                chains.add((table, line[1:].split()[0]))
            case "-":
                _, chain, *rest = line.split(" ", 2)
                bodies.setdefault((table, chain), []).append(rest[0] if rest else "")
    ours = ("filter", FORWARD), ("nat", POSTROUTING)
    if not chains & set(ours):
        return None
    return Ruleset(
        tuple(bodies.get(ours[0], ())),
        tuple(bodies.get(ours[1], ())),
        _position(bodies.get(("filter", "FORWARD"), []), FORWARD),
        _position(bodies.get(("nat", "POSTROUTING"), []), POSTROUTING),
        ours=True,
    )


def restore(want: Ruleset | None, save: str) -> str:
    """Return the one ``iptables-restore --noflush`` input that leads from ``save`` to ``want``; None removes all.

    What is marked ours and stands outside of our chains goes: every jump to them (a removal takes those from other
    chains too, else ours could not go), and the drop rules of the Go tool. Each is deleted as it stands, since a
    deletion of a rule that is not there aborts the whole input. Empty when there is nothing to do.
    """
    out: list[str] = []
    for table, base, chain, body in (
        ("filter", "FORWARD", FORWARD, want.filter_rules if want else ()),
        ("nat", "POSTROUTING", POSTROUTING, want.nat_rules if want else ()),
    ):
        there, outside = _ours(save, table, base, chain)
        deletions = [f"-D {where} {rule}" for where, rule in outside if where == base or want is None]
        if want is not None:
            filled = [f"-A {chain} {rule}" for rule in body]
            out += [f"*{table}", f":{chain} - [0:0]", *deletions, f"-F {chain}", *filled]
            out += [f"-I {base} 1 -j {chain}", "COMMIT"]
        elif there:
            out += [f"*{table}", *deletions, f"-F {chain}", f"-X {chain}", "COMMIT"]
        elif deletions:
            out += [f"*{table}", *deletions, "COMMIT"]
    return "".join(f"{line}\n" for line in out)


def _position(rules_of_base: Sequence[str], chain: str) -> int:
    places = [number for number, rule in enumerate(rules_of_base, 1) if _jumps(rule, chain)]
    plain = rules_of_base.count(f"-j {chain}")
    return places[0] if len(places) == plain == 1 else 0


def _ours(save: str, wanted: str, base: str, chain: str) -> tuple[bool, list[tuple[str, str]]]:
    """Return whether our chain is there, and what is ours outside of it: (chain, rule)."""
    table, there = "", False
    outside: list[tuple[str, str]] = []
    for line in save.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif table == wanted and line.startswith(f":{chain} "):
            there = True
        elif table == wanted and line.startswith("-A "):
            where, _, rule = line.removeprefix("-A ").partition(" ")
            if where != chain and (_jumps(rule, chain) or (where == base and _DROP in f" {rule} ")):
                outside.append((where, rule))
    return there, outside


def _jumps(rule: str, chain: str) -> bool:
    words = rule.split()
    return any(words[i : i + 2] in (["-j", chain], ["-g", chain]) for i in range(len(words) - 1))
