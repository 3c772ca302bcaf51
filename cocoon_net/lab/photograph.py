"""A photograph of the whole world of one node: the cloud, the kernel, the files, and what the product remembers.

Two worlds are equal when their photographs are. What the cloud chose (ids, MACs, which address went to which
interface) is named by what it is: ``172.20.100.17`` becomes ``address of eni-2``, and so does it in every file, rule
and row that speaks of it. What only tells of time is left out. A section is a sorted tuple of lines, one per thing.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocoon_net.errors import NodeError
from cocoon_net.lab import machine
from cocoon_net.lab.cloud import Admin
from cocoon_net.lab.lab import Lab

Section = tuple[str, ...]

_LOOK = (
    "ip -d -j addr",
    "ip -j -4 route show table all",
    "ip -j rule",
    "iptables-save",
    "sysctl -a -r '^net[.]ipv4[.](ip_forward|conf[.])' 2>/dev/null",
)
_PATIENCE = 3.0
"""Seconds for which the links are waited for."""
_BETWEEN = "--- next ---"
_TIMES = frozenset(
    {"created", "updated", "in_use_since", "updated_at", "updatedAt", "time", "index", "ifindex", "flags"}
)
"""Keys of JSON that tell of time, or of who came first."""
_UNSEEN = re.compile(r"cocoon-net\.db.*|.*\.lock")
"""Files that are never the same twice: the database is read by its rows, a lock's file stays."""


@dataclass(frozen=True, slots=True)
class Photograph:
    """The three parts of the world, each section by section."""

    cloud: Mapping[str, Section]
    node: Mapping[str, Section]
    memory: Mapping[str, Section]
    """The ledger and the open ends in the database; empty without one."""

    def differences(self, wanted: Photograph) -> list[str]:
        """Return a line for each thing that is there and not wanted (``+``), or wanted and not there (``-``)."""
        lines: list[str] = []
        for part, now, then in (
            ("cloud", self.cloud, wanted.cloud),
            ("node", self.node, wanted.node),
            ("memory", self.memory, wanted.memory),
        ):
            for section in sorted({*now, *then}):
                here, there = Counter(now.get(section, ())), Counter(then.get(section, ()))
                lines += [f"+ {part} {section}: {line}" for line in sorted((here - there).elements())]
                lines += [f"- {part} {section}: {line}" for line in sorted((there - here).elements())]
        return lines

    def leaked(self, wanted: Photograph) -> tuple[int, int]:
        """Return how many objects of the cloud and of the node there are more than wanted."""
        return _surplus(self.cloud, wanted.cloud), _surplus(self.node, wanted.node)


def take(lab: Lab, node: str = "node1") -> Photograph:
    """Photograph the world of a node of the lab, once its links are those that the cloud says are there.

    A link follows the attachment of its interface at its own pace. Raises NodeError when cloud or node cannot be
    looked at.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        state = Admin(lab.admin_socket).state()
        links, routes, policies, rules, settings = _look(lab, node)
        if time.monotonic() > deadline or _plugged(state, node) == _veths(json.loads(links)):
            break
        time.sleep(0.02)
    names = _names(state, json.loads(links))
    home = lab.directory / node
    return Photograph(
        cloud=_cloud(state, names),
        node={
            "links": _lines((_link(link) for link in json.loads(links)), names),
            "addresses": _lines(
                (
                    {"on": link["ifname"], "address": f"{each['local']}/{each['prefixlen']}"}
                    for link in json.loads(links)
                    for each in link["addr_info"]
                    if each["family"] == "inet"
                ),
                names,
            ),
            "routes": _lines(json.loads(routes), names),
            "policies": _lines(json.loads(policies), names),
            "rules": _lines(_rules(rules), names),
            "settings": _lines(settings.splitlines(), names),
            "files": _files(home, names),
        },
        memory=remember(home / "state" / "cocoon-net.db", names),
    )


def _look(lab: Lab, node: str) -> list[str]:
    """Ask the node's kernel for everything at once."""
    script = f"; echo; echo '{_BETWEEN}'; ".join(_LOOK)
    return machine.run(lab, node, ["sh", "-c", script]).out.split(f"{_BETWEEN}\n")


def _plugged(state: Mapping[str, Any], node: str) -> set[str]:
    """Return the MACs of the interfaces that the cloud says are in use by a node."""
    here = {row["id"] for row in state["instances"] if row["node"] == node}
    return {row["mac"] for row in state["interfaces"] if row["instance_id"] in here and row["status"] == "InUse"}


def _veths(links: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the MACs of the links that the fabric made."""
    return {link["address"] for link in links if re.fullmatch(r"eth\d+", link["ifname"])}


def remember(database: Path, names: Mapping[str, str]) -> dict[str, Section]:
    """Read what the product's memory says of the world: its ledger, and what is not at rest."""
    if not database.exists():
        return {}
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10.0)) as db:
            rows = [
                {"step": step, "key": key, "origin": origin, "record": _json(record), "before": _json(before)}
                for step, key, origin, record, before in db.execute(
                    "SELECT step, key, origin, record, before FROM ledger"
                )
            ]
            unfinished = db.execute("SELECT count(*) FROM runs WHERE state NOT IN ('done', 'abandoned')").fetchone()
            lineages = db.execute("SELECT count(*) FROM meta WHERE name = 'lineage'").fetchone()
            pool = [_json(record) for (record,) in db.execute("SELECT record FROM pool")]
    except sqlite3.Error as error:
        raise NodeError(f"cannot read {database}: {error}") from None
    return {
        "ledger": _lines(rows, names),
        "unfinished runs": (str(unfinished[0]),),
        "lineages": (str(lineages[0]),),
        "pool": _lines(pool, names),
    }


def finished(database: Path) -> set[str]:
    """Return the workflows of which a run is done; none where there is no database, or no table of runs yet."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10.0)) as db:
            return {workflow for (workflow,) in db.execute("SELECT workflow FROM runs WHERE state = 'done'")}
    except sqlite3.Error:
        return set()


def _cloud(state: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Section]:
    interfaces = [
        {
            **{key: value for key, value in row.items() if key != "secondaries"},
            "tags": sorted(key if key == "cocoon-net:lineage" else f"{key}={value}" for key, value in row["tags"]),
            "addresses": len(row["secondaries"]),
        }
        for row in state["interfaces"]
    ]
    rules = [
        {**{key: value for key, value in rule.items() if key != "id"}, "group": group["name"]}
        for group in state["groups"]
        for rule in group["rules"]
    ]
    subnets = [
        {**row, "tags": sorted(key if key == "cocoon-net:lineage" else f"{key}={value}" for key, value in row["tags"])}
        for row in state["subnets"]
    ]
    held = [address for row in state["interfaces"] for address in row["secondaries"]]
    return {
        "subnets": _lines(subnets, names),
        "interfaces": _lines(interfaces, names),
        "addresses": _lines(held, names),
        "group rules": _lines(rules, names),
    }


def _names(state: Mapping[str, Any], links: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return what the cloud chose -> what it is."""
    names: dict[str, str] = {row["id"]: f"subnet {row['cidr']}" for row in state["subnets"]}
    names |= {row["id"]: f"vpc {row['name']}" for row in state["vpcs"]}
    names |= {row["id"]: f"group {row['name']}" for row in state["groups"]}
    names |= {row["id"]: f"instance {row['node']}" for row in state["instances"]}
    for row in state["interfaces"]:
        label = row["name"]
        names |= {row["id"]: label, row["mac"]: f"mac of {label}", row["primary"]: f"primary of {label}"}
        names |= dict.fromkeys(row["secondaries"], f"address of {label}")
    names |= {
        link["ifname"]: names[link["address"]].replace("mac of", "link of")
        for link in links
        if link.get("address") in names
    }
    return names


def _link(link: Mapping[str, Any]) -> dict[str, Any]:
    kind = link.get("linkinfo", {})
    return {
        "name": link["ifname"],
        "kind": kind.get("info_kind", ""),
        "up": "UP" in link["flags"],
        "mtu": link["mtu"],
        "mac": link.get("address", ""),
        "alias": link.get("ifalias", ""),
        "master": link.get("master", ""),
    }


def _rules(saved: str) -> Iterator[str]:
    """Yield the rules in ``iptables-save``'s output with their table and place.

    Their order is part of them, but not among neighbours of one target: which interface came first is the cloud's
    choice. So a place is counted in runs of rules with the same target.
    """
    table = ""
    last: dict[str, str] = {}
    place: Counter[str] = Counter()
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":COCOON"):
            yield f"{table} {line.partition(' ')[0]}"
        elif line.startswith("-A"):
            chain = f"{table} {line.split()[1]}"
            target = line.partition(" -j ")[2]
            place[chain] += target != last.get(chain)
            last[chain] = target
            yield f"{chain} {place[chain]:02}: {line}"


def _files(home: Path, names: Mapping[str, str]) -> Section:
    lines = []
    for folder in ("state", "cni", "run"):
        for path in (home / folder).rglob("*"):
            if path.is_file() and not _UNSEEN.fullmatch(path.name):
                content = path.read_text(errors="replace")
                lines.append({"path": str(path.relative_to(home)), "mode": oct(path.stat().st_mode), "is": content})
    return _lines(lines, names)


def _lines(things: Iterable[Any], names: Mapping[str, str]) -> Section:
    """Write each thing on a line of its own, by its names."""
    lines = [plain if isinstance(plain := _plain(thing, names), str) else json.dumps(plain) for thing in things]
    return tuple(sorted(lines))


def _plain(value: Any, names: Mapping[str, str]) -> Any:
    match value:
        case dict():
            kept = {key: _plain(item, names) for key, item in value.items() if key not in _TIMES}
            return dict(sorted(kept.items()))
        case list():
            return sorted((_plain(item, names) for item in value), key=str)
        case str() if value.startswith("{") and (whole := _json_or_none(value)) is not None:
            return _plain(whole, names)
        case str():
            return re.sub(r"[\w:.-]+", lambda word: _named(word[0], names), value)
        case _:
            return value


def _named(word: str, names: Mapping[str, str]) -> str:
    if word in names:
        return names[word]
    # A setting's name has a link's inside of it: net.ipv4.conf.eth3.rp_filter.
    if word.startswith("net.ipv4.conf."):
        return ".".join(names.get(part, part) for part in word.split("."))
    return word


def _json(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _surplus(now: Mapping[str, Section], wanted: Mapping[str, Section]) -> int:
    return sum(max(0, len(lines) - len(wanted.get(section, ()))) for section, lines in now.items())
