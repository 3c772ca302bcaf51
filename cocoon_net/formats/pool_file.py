"""``pool.json``: the state file of the Go cocoon-net, read to take a node over, written for a roll-back.

Fields, order and indentation are the Go tool's; fields that are empty are left out where it leaves them out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from cocoon_net.errors import SpecError


@dataclass(frozen=True, slots=True)
class PoolFile:
    """What the file says; ``updated_at`` is aware, in UTC, with whole seconds on disk."""

    platform: str
    node_name: str
    subnet: IPv4Network
    gateway: IPv4Address
    ips: tuple[IPv4Address, ...]
    updated_at: datetime
    primary_nic: str = ""
    secondary_nics: tuple[str, ...] = ()
    eni_ids: tuple[str, ...] = ()
    subnet_id: str = ""
    alias_range_name: str = ""
    dns_servers: tuple[IPv4Address, ...] = ()
    drop_internal_access: bool = False
    drop_cidrs: tuple[IPv4Network, ...] = ()


def render(pool: PoolFile) -> str:
    """Return the file's text."""
    data: dict[str, Any] = {
        "platform": pool.platform,
        "nodeName": pool.node_name,
        "subnet": str(pool.subnet),
        "gateway": str(pool.gateway),
    }
    optional: dict[str, Any] = {
        "primaryNIC": pool.primary_nic,
        "secondaryNICs": list(pool.secondary_nics),
        "ips": [str(address) for address in pool.ips],
        "eniIDs": list(pool.eni_ids),
        "subnetID": pool.subnet_id,
        "aliasRangeName": pool.alias_range_name,
        "dnsServers": [str(address) for address in pool.dns_servers],
        "dropInternalAccess": pool.drop_internal_access,
        "dropCIDRs": [str(network) for network in pool.drop_cidrs],
    }
    data |= {name: value for name, value in optional.items() if value or name == "ips"}
    data["updatedAt"] = pool.updated_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps(data, indent=2) + "\n"


def parse(text: str, where: str = "pool.json") -> PoolFile:
    """Read the file. Raises SpecError that lists every field which cannot be used."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise SpecError(f"{where} is not JSON: {error}", hint="restore it, or run `cocoon-net adopt`") from error
    if not isinstance(data, dict):
        raise SpecError(f"{where} is not a JSON object", hint="restore it, or run `cocoon-net adopt`")
    problems: list[str] = []

    def read(name: str, convert: Any, default: Any = None) -> Any:
        value = data.get(name)
        if value is None and default is not None:
            return default
        try:
            return tuple(convert(v) for v in value) if isinstance(value, list) else convert(value)
        except (ValueError, TypeError) as error:
            problems.append(f"{where}: {name} cannot be used: {error}")
            return default

    pool = PoolFile(
        platform=read("platform", str, ""),
        node_name=read("nodeName", str, ""),
        subnet=read("subnet", lambda v: IPv4Network(v, strict=False)),
        gateway=read("gateway", IPv4Address),
        ips=read("ips", IPv4Address, ()),
        updated_at=read("updatedAt", _time, datetime.fromtimestamp(0, UTC)),
        primary_nic=read("primaryNIC", str, ""),
        secondary_nics=read("secondaryNICs", str, ()),
        eni_ids=read("eniIDs", str, ()),
        subnet_id=read("subnetID", str, ""),
        alias_range_name=read("aliasRangeName", str, ""),
        dns_servers=read("dnsServers", IPv4Address, ()),
        drop_internal_access=bool(data.get("dropInternalAccess", False)),
        drop_cidrs=read("dropCIDRs", lambda v: IPv4Network(v, strict=False), ()),
    )
    if problems:
        raise SpecError(problems, hint="restore the file, or run `cocoon-net adopt`")
    return pool


def same(one: str, other: str) -> bool:
    """Say whether two texts differ in nothing but ``updatedAt``."""
    return _timeless(one) == _timeless(other)


def _timeless(text: str) -> Sequence[str]:
    return [line for line in text.splitlines() if not line.startswith('  "updatedAt"')]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
