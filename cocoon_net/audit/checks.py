"""What no step wants and an audit looks at all the same: rules and files of others, port 67, the clock, leases.json.

The comparisons are pure and take what was read; ``read_*`` do the reading.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from cocoon_net.audit.finding import Evidence, Kind, Sighting, Source
from cocoon_net.errors import NodeError, SpecError
from cocoon_net.formats import iptables, lease_file

SKEW = 60.0
"""Seconds that the clock may be off; the API refuses requests that are off by fifteen minutes."""

_BOOTPS = 67
_OF_IPTABLES = frozenset({"filter", "nat", "mangle", "raw", "security"})


def broken_neighbours(files: Mapping[str, str], ours: str, name: str) -> list[Sighting]:
    """Tell which other conflists cocoon cannot load, or would take for ours. ``files``: name -> content."""
    out: list[Sighting] = []
    for path, text in sorted(files.items()):
        if path == ours:
            continue
        try:
            data = json.loads(text)
            problem = "it has no list of plugins" if not isinstance(data.get("plugins"), list) else ""
            problem = problem or (f"it is called {name!r}, too" if data.get("name") == name else "")
        except (ValueError, AttributeError) as error:
            problem = f"it does not parse: {error}"
        if problem:
            says = f"{path} beside ours: {problem}; cocoon gives no VM a network while it is there"
            advice = f"mend it, or move it away: `mv {path} {path}.broken` in the CNI directory"
            out.append(Sighting(Kind.CONFLIST_NEIGHBOUR, path, says, (Evidence(Source.FILE, problem),), advice))
    return out


def foreign_rules(
    save: str, nft: Iterable[Mapping[str, Any]], subnet: IPv4Network, links: Iterable[str]
) -> list[Sighting]:
    """Tell what rules of others drop of the VMs' traffic. ``nft`` is the list of ``nft -j list ruleset``.

    In FORWARD itself they matter only while our jump is not at its head: what our chain accepts is accepted there.
    """
    ours = iptables.parse(save)
    headed = ours is not None and ours.forward_jump == 1
    wires = frozenset(links)
    return [*_of_iptables(save, subnet, wires, headed=headed), *_of_nft(nft, subnet, wires)]


def _of_iptables(save: str, subnet: IPv4Network, links: frozenset[str], *, headed: bool) -> Iterator[Sighting]:
    table = ""
    for line in save.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
            continue
        words = line.split()
        chain = words[1] if line.startswith("-A ") else words[0][1:] if line.startswith(":") else ""
        if chain not in ("FORWARD", "PREROUTING", "POSTROUTING") or (table == "filter" and headed):
            continue
        where = f"{table} {chain}"
        if line.startswith(":") and words[1] == "DROP":
            yield _rule(f"{where} policy", f"the policy of {where} is DROP", f"`iptables -t {table} -P {chain} ACCEPT`")
        elif not line.startswith(":") and "cocoon-net-drop" not in line and _meets(words[2:], subnet, links):
            rule = line.removeprefix("-A ")
            yield _rule(f"{where} {rule}", f"a rule of {where} drops: {rule}", f"`iptables -t {table} -D {rule}`")


def _meets(words: list[str], subnet: IPv4Network, links: frozenset[str]) -> bool:
    """Whether a rule drops the VMs' traffic as such: no more than links and addresses, and those are theirs.

    One with further conditions (a port, a state) is somebody's considered wish, one for other addresses, too.
    """
    end = words.index("-j") if "-j" in words else len(words)
    rule, verdict = words[:end], words[end + 1 :]
    if verdict[:1] not in (["DROP"], ["REJECT"]):
        return False
    nets: list[IPv4Network] = []
    while rule:
        negated = rule[0] == "!"
        flag, value, *rule = rule[1:] if negated else rule
        match flag:
            case _ if negated and flag in ("-i", "-o", "-s", "-d"):
                pass
            case "-i" | "-o" if any(
                link == value or (value[-1] == "+" and link.startswith(value[:-1])) for link in links
            ):
                pass
            case "-s" | "-d":
                nets.append(IPv4Network(value, strict=False))
            case _:
                return False
    return not nets or any(net.overlaps(subnet) for net in nets)


def _of_nft(nft: Iterable[Mapping[str, Any]], subnet: IPv4Network, links: frozenset[str]) -> Iterator[Sighting]:
    forward: set[tuple[str, str, str]] = set()
    for item in nft:
        if (chain := item.get("chain")) and chain.get("hook") in ("forward", "prerouting"):
            place = (chain["family"], chain["table"], chain["name"])
            if chain["family"] not in ("ip", "inet") or chain["table"] in _OF_IPTABLES:
                continue
            forward.add(place)
            if chain.get("policy") == "drop":
                where = " ".join(place)
                yield _rule(f"nft {where} policy", f"the policy of nft {where} is drop", f"`nft list chain {where}`")
    for item in nft:
        rule = item.get("rule")
        if rule and (rule["family"], rule["table"], rule["chain"]) in forward and _drops(rule["expr"], subnet, links):
            where = f"{rule['family']} {rule['table']} {rule['chain']}"
            advice = f"`nft delete rule {where} handle {rule['handle']}`"
            yield _rule(f"nft {where} {rule['handle']}", f"a rule of nft {where} drops the VMs' traffic", advice)


def _drops(expressions: list[Any], subnet: IPv4Network, links: frozenset[str]) -> bool:
    """Whether a rule drops all, or what it names is ours: a link of the VMs' traffic, an address of their subnet."""
    if not any(isinstance(each, dict) and ("drop" in each or "reject" in each) for each in expressions):
        return False
    matches = [each["match"] for each in expressions if isinstance(each, dict) and "match" in each]
    return all(_is_ours(match.get("right"), subnet, links) for match in matches)


def _is_ours(value: Any, subnet: IPv4Network, links: frozenset[str]) -> bool:
    match value:
        case str() if value in links:
            return True
        case str():
            try:
                return IPv4Network(value).overlaps(subnet)
            except ValueError:
                return False
        case {"prefix": {"addr": str(address), "len": int(length)}} if ":" not in address:
            return IPv4Network(f"{address}/{length}").overlaps(subnet)
        case _:
            return False


def _rule(key: str, says: str, advice: str) -> Sighting:
    return Sighting(Kind.FIREWALL_FOREIGN, key, says, (Evidence(Source.KERNEL, says),), advice)


def lease_file_differs(text: str | None, bound: Mapping[str, frozenset[IPv4Address]], path: str) -> list[Sighting]:
    """Compare leases.json with the bound leases, MAC -> addresses; ``text`` is None where there is no file."""
    if text is None:
        problem = "it is not there" if bound else ""
    else:
        try:
            rows, wrong = lease_file.parse(text, path)
            there = {row.mac: row.address for row in rows}
            strange = sorted(mac for mac, address in there.items() if address not in bound.get(mac, ()))
            missing = sorted(set(bound) - set(there))
            count = len(set(strange) | set(missing))
            problem = wrong[0] if wrong else ""
            problem = problem or (
                f"{count} clients are not in it as leased: {[*strange, *missing][0]}" if count else ""
            )
        except SpecError as error:
            problem = error.message
    if not problem:
        return []
    advice = "the service writes it anew; without one, `cocoon-net daemon` does at its start"
    says = problem if problem.startswith(path) else f"{path}: {problem}"
    return [Sighting(Kind.LEASE_FILE, "leases.json", says, (Evidence(Source.FILE, problem),), advice)]


def port_taken(owners: Mapping[int, str], daemon: int | None) -> list[Sighting]:
    """Tell who else listens on UDP port 67; ``owners`` is pid -> name, ``daemon`` ours."""
    others = {pid: name for pid, name in owners.items() if pid != daemon}
    if not others:
        return []
    who = ", ".join(f"{name or 'somebody'} (pid {pid})" for pid, name in sorted(others.items()))
    said = (Evidence(Source.KERNEL, who),)
    return [Sighting(Kind.DHCP_PORT, "67", f"UDP port 67 is taken by {who}", said, "stop it: `ss -lunp sport = :67`")]


def clock_is_off(here: datetime, there: datetime | None) -> list[Sighting]:
    """Compare our clock with that of the metadata service."""
    off = (here - there).total_seconds() if there is not None else 0.0
    if abs(off) <= SKEW:
        return []
    says = f"the clock is {abs(off):.0f} s {'ahead' if off > 0 else 'behind'}"
    return [Sighting(Kind.CLOCK, "clock", says, (Evidence(Source.METADATA, f"{there:%H:%M:%S} UTC"),), _CHRONY)]


_CHRONY = "`timedatectl set-ntp true`; the cloud refuses requests that are off by 15 minutes"


# Reading


def read_conflists(directory: Path) -> dict[str, str]:
    """Return name -> content of every conflist. Raises NodeError."""
    try:
        return {path.name: path.read_text(errors="replace") for path in sorted(directory.glob("*.conflist"))}
    except OSError as error:
        raise NodeError(f"{directory} cannot be read: {error.strerror}") from error


def read_nft() -> list[Mapping[str, Any]]:
    """Return the list of ``nft -j list ruleset``; empty where there is no nft. Raises NodeError."""
    if shutil.which("nft") is None:
        return []
    done = subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, text=True, timeout=20)
    try:
        return list(json.loads(done.stdout)["nftables"])
    except (ValueError, KeyError) as error:
        raise NodeError(f"nft does not tell its rules: {done.stderr.strip() or error}") from error


def read_port_owners(proc: Path = Path("/proc")) -> dict[int, str]:
    """Return pid -> name of those that have UDP port 67 of this network namespace; pid 0 where nobody is found."""
    rows = [line.split() for line in (proc / "net/udp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if int(row[1].rpartition(":")[2], 16) == _BOOTPS}
    if not inodes:
        return {}
    sockets = {f"socket:[{inode}]" for inode in inodes}
    owners: dict[int, str] = {}
    found: set[str] = set()
    for home in proc.glob("[0-9]*"):
        try:
            mine = {str(fd.readlink()) for fd in (home / "fd").iterdir()} & sockets
            if mine:
                owners[int(home.name)] = (home / "comm").read_text().strip()
                found |= mine
        except OSError:
            continue
    return owners if found == sockets else {**owners, 0: ""}
