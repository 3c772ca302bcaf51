"""What the operator asked for: one frozen value, parsed once, every problem reported at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Network, NetmaskValueError, ip_network
from typing import Any

from cocoon_net.errors import SpecError

PLATFORMS = ("volcengine", "gke")
DEFAULT_DNS = ("8.8.8.8", "1.1.1.1")
POOL_SIZE_INIT = 140
POOL_SIZE_ADOPT = 253
RESERVED = 3
"""Addresses that the VPC keeps in each subnet (Volcengine: TotalIpv4Count of a /24 is 253)."""

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_GROUP = re.compile(r"sg-[A-Za-z0-9-]+")
_REGION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.-]+(:\d+)?/?")
_LINK = re.compile(r"[^\s/:]{1,15}")


@dataclass(frozen=True, slots=True)
class Spec:
    """One node's network as its operator wants it."""

    platform: str
    node_name: str
    subnet: IPv4Network
    gateway: IPv4Address
    pool_size: int = POOL_SIZE_INIT
    dns: tuple[IPv4Address, ...] = tuple(IPv4Address(a) for a in DEFAULT_DNS)
    primary_nic: str = ""
    """Empty means the link with the primary interface's MAC."""
    security_group: str = ""
    """Empty means those of the primary interface."""
    drop_internal_access: bool = False
    drop_cidrs: tuple[IPv4Network, ...] = ()
    manage_iptables: bool = True
    region: str = ""
    """Empty means that of the environment, the credentials file or the metadata."""
    endpoint: str = ""
    """Of the cloud's API; empty lets the SDK choose by region."""
    credentials_file: str = ""
    """Empty means ``~/.volcengine/config.json``; its content is never kept."""

    def as_json(self) -> dict[str, Any]:
        """Return JSON-ready values that ``from_json`` reads back."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Spec:
        """Read ``as_json``'s values back; a key that this version does not know is a SpecError."""
        unknown = sorted(set(data) - {f.name for f in fields(cls)})
        if unknown:
            raise SpecError(f"the stored spec has unknown fields: {', '.join(unknown)}")
        return parse(
            platform=data["platform"],
            node_name=data["node_name"],
            subnet=data["subnet"],
            gateway=data["gateway"],
            pool_size=data["pool_size"],
            dns=data["dns"],
            primary_nic=data["primary_nic"],
            security_group=data["security_group"],
            drop_internal_access=data["drop_internal_access"],
            drop_cidrs=data["drop_cidrs"],
            manage_iptables=data["manage_iptables"],
            region=data["region"],
            endpoint=data["endpoint"],
            credentials_file=data["credentials_file"],
            check_size=False,
        )

    def differences(self, other: Spec) -> list[str]:
        """Say, one line each, what ``other`` asks for that we do not: ``--subnet: 10.0.0.0/24, not 10.0.1.0/24``."""
        mine, theirs = self.as_json(), other.as_json()
        return [
            f"--{name.replace('_', '-')}: {_show(theirs[name])}, not {_show(mine[name])}"
            for name in mine
            if mine[name] != theirs[name]
        ]


def parse(
    *,
    platform: str,
    node_name: str,
    subnet: str,
    gateway: str = "",
    pool_size: int = POOL_SIZE_INIT,
    dns: Sequence[str] = DEFAULT_DNS,
    primary_nic: str = "",
    security_group: str = "",
    drop_internal_access: bool = False,
    drop_cidrs: Sequence[str] = (),
    manage_iptables: bool = True,
    region: str = "",
    endpoint: str = "",
    credentials_file: str = "",
    check_size: bool = True,
) -> Spec:
    """Turn flags into a Spec, or raise one SpecError that lists every problem.

    ``check_size=False`` accepts a pool larger than the subnet, as the Go tool's default of 253 for ``adopt`` is.
    """
    problems: list[str] = []

    if platform not in PLATFORMS:
        problems.append(f"--platform: {platform!r} is not known; known are: {', '.join(PLATFORMS)}")
    elif platform == "gke":
        problems.append("--platform: gke is not supported by this version; keep the Go cocoon-net on GKE nodes")
    if not node_name:
        problems.append("--node-name: missing; it names the node's objects in the cloud")
    elif not _NAME.fullmatch(node_name):
        problems.append(
            f"--node-name: {node_name!r} must be 1-63 letters, digits, '.', '_', '-', none of them at an end"
        )

    network = _subnet(subnet, problems)
    router = _gateway(gateway, network, problems)
    if isinstance(pool_size, bool) or pool_size < 1:
        problems.append(f"--pool-size: {pool_size} is not a number of addresses; ask for at least 1")
    elif check_size and network is not None and pool_size > network.num_addresses - RESERVED:
        problems.append(
            f"--pool-size: {pool_size} addresses do not fit into {network}, "
            f"which has {network.num_addresses - RESERVED} after the cloud's {RESERVED}"
        )
    servers = tuple(_address("--dns", text, problems) for text in dns if text)
    if not servers:
        problems.append("--dns: no server given; guests would resolve nothing")
    if primary_nic and not _LINK.fullmatch(primary_nic):
        problems.append(f"--primary-nic: {primary_nic!r} is not a link's name")
    if security_group and not _GROUP.fullmatch(security_group):
        problems.append(f"--security-group: {security_group!r} does not look like sg-...")
    if region and not _REGION.fullmatch(region):
        problems.append(f"--region: {region!r} does not look like cn-hongkong")
    if endpoint and not _ENDPOINT.fullmatch(endpoint):
        problems.append(f"--endpoint: {endpoint!r} does not look like https://open.volcengineapi.com")
    drops = tuple(_network("--drop-cidr", text, problems, strict=False) for text in drop_cidrs)

    if problems or network is None or router is None:
        raise SpecError(problems, hint="cocoon-net init --help explains each flag")
    return Spec(
        platform=platform,
        node_name=node_name,
        subnet=network,
        gateway=router,
        pool_size=pool_size,
        dns=tuple(a for a in servers if a is not None),
        primary_nic=primary_nic,
        security_group=security_group,
        drop_internal_access=drop_internal_access,
        drop_cidrs=tuple(n for n in drops if n is not None),
        manage_iptables=manage_iptables,
        region=region,
        endpoint=endpoint.rstrip("/"),
        credentials_file=credentials_file,
    )


def _subnet(text: str, problems: list[str]) -> IPv4Network | None:
    if not text:
        problems.append("--subnet: missing; e.g. 172.20.100.0/24, one per node, inside the VPC")
        return None
    network = _network("--subnet", text, problems, strict=True)
    if network is not None and not 8 <= network.prefixlen <= 29:
        problems.append(f"--subnet: {network} must be between a /8 and a /29")
        return None
    return network


def _gateway(text: str, network: IPv4Network | None, problems: list[str]) -> IPv4Address | None:
    if not text:
        return network[1] if network is not None else None
    address = _address("--gateway", text, problems)
    if address is None or network is None:
        return address
    if address not in network or address in (network.network_address, network.broadcast_address):
        problems.append(f"--gateway: {address} is not a host of {network}")
    return address


def _address(flag: str, text: str, problems: list[str]) -> IPv4Address | None:
    try:
        return IPv4Address(text.strip())
    except AddressValueError:
        problems.append(f"{flag}: {text!r} is not an IPv4 address")
        return None


def _network(flag: str, text: str, problems: list[str], *, strict: bool) -> IPv4Network | None:
    text = text.strip()
    try:
        return IPv4Network(text, strict=strict)
    except (AddressValueError, NetmaskValueError):
        problems.append(
            f"{flag}: {text!r} is IPv6; only IPv4 is served" if _is_ipv6(text) else f"{flag}: {text!r} is not a network"
        )
    except ValueError:
        problems.append(f"{flag}: {text!r} has host bits set; did you mean {IPv4Network(text, strict=False)}?")
    return None


def _is_ipv6(text: str) -> bool:
    try:
        return isinstance(ip_network(text, strict=False), IPv6Network)
    except ValueError:
        return False


def _plain(value: Any) -> Any:
    match value:
        case tuple():
            return [str(item) for item in value]
        case bool() | int() | str():
            return value
        case _:
            return str(value)


def _show(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)
