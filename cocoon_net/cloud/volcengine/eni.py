"""What the API tells of a network interface (ENI), and how interfaces are listed and looked up.

States: Creating → Available → Attaching → InUse → Detaching → Available → Deleting → gone, or Error
(DescribeNetworkInterfaceAttributes).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import AddressValueError, IPv4Address
from typing import Any

from cocoon_net.cloud.volcengine.client import Client
from cocoon_net.cloud.volcengine.tags import KEY, ours, tags_of
from cocoon_net.engine.model import Context, Later
from cocoon_net.errors import CloudGone, CloudTransient, InvariantError
from cocoon_net.records import Instance, Interface

DESCRIBE = "DescribeNetworkInterfaces"
READ = "DescribeNetworkInterfaceAttributes"
SETS = "NetworkInterfaceSets"

_MOST_IDS = 100


@dataclass(frozen=True, slots=True)
class Eni:
    """An interface as the API shows it."""

    id: str
    subnet_id: str
    status: str
    mac: str
    """Lower case, colons."""
    primary: IPv4Address
    secondaries: tuple[IPv4Address, ...]
    """Sorted."""
    security_groups: tuple[str, ...]
    """In the API's order."""
    instance_id: str
    """Where it is, or is about to be, attached; empty when nowhere."""
    is_primary: bool
    service_managed: bool
    tags: Mapping[str, str]
    updated: datetime | None = None
    """When it last changed, by the API's clock; None where that is not told."""

    @property
    def key(self) -> str:
        """The key that we tagged it with."""
        return self.tags.get(KEY, "")

    def ours(self, node: str) -> bool | None:
        """Return True for a mark of ours, False for another's or a thing never to be touched, None for none."""
        if self.is_primary or self.service_managed:
            return False
        return ours(self.tags, node)


def parse(thing: Mapping[str, Any]) -> Eni:
    """Read one element of ``NetworkInterfaceSets``. Raises CloudTransient when it lacks what all have."""
    attachment = thing.get("Attachment") or {}
    listed = (thing.get("PrivateIpSets") or {}).get("PrivateIpSet") or []
    try:
        primary = IPv4Address(thing["PrimaryIpAddress"])
        others = (IPv4Address(item["PrivateIpAddress"]) for item in listed if not item.get("Primary"))
        return Eni(
            id=str(thing["NetworkInterfaceId"]),
            subnet_id=str(thing["SubnetId"]),
            status=str(thing["Status"]),
            mac=str(thing.get("MacAddress") or "").lower(),
            primary=primary,
            secondaries=tuple(sorted(set(others) - {primary})),
            security_groups=tuple(str(group) for group in thing.get("SecurityGroupIds") or []),
            instance_id=str(attachment.get("InstanceId") or thing.get("DeviceId") or ""),
            is_primary=thing.get("Type") == "primary",
            service_managed=bool(thing.get("ServiceManaged")),
            tags=tags_of(thing),
            updated=_moment(thing.get("UpdatedAt")),
        )
    except (KeyError, TypeError, AddressValueError):
        name = thing.get("NetworkInterfaceId") or "an interface"
        raise CloudTransient(f"{DESCRIBE} tells too little of {name}", code="Unreadable") from None


def _moment(text: object) -> datetime | None:
    """Read a time such as 2021-04-09T08:36:47+08:00; None for anything else."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None


def listing(client: Client, **params: object) -> Iterator[Eni]:
    """List interfaces (DescribeNetworkInterfaces), all pages."""
    return map(parse, client.pages(DESCRIBE, params, SETS))


def look_up(client: Client, ids: Iterable[str]) -> dict[str, Eni]:
    """Return those of the interfaces that exist, by id; one call for each hundred. A failing call raises."""
    wanted = sorted(set(ids))
    found: dict[str, Eni] = {}
    for start in range(0, len(wanted), _MOST_IDS):
        found |= _some(client, wanted[start : start + _MOST_IDS])
    return {key: eni for key, eni in found.items() if key in wanted}


def read(client: Client, identifier: str) -> Eni | None:
    """Read one interface anew (DescribeNetworkInterfaceAttributes); None when it is gone."""
    try:
        thing = client.call(READ, {"NetworkInterfaceId": identifier})
    except CloudGone:
        return None
    return parse(thing) if thing.get("NetworkInterfaceId") else None


def _some(client: Client, ids: list[str]) -> dict[str, Eni]:
    try:
        return {eni.id: eni for eni in listing(client, NetworkInterfaceIds=ids)}
    except CloudGone:
        # Whether an unknown id among others is left out or refused is not documented.
        if len(ids) == 1:
            return {}
        return {key: eni for each in ids for key, eni in _some(client, [each]).items()}


def instance_of(cx: Context) -> Instance:
    """Return the instance's facts; InvariantError where a cloud inventory is used without them."""
    if cx.instance is None:
        raise InvariantError("an inventory of the cloud was used without the instance's facts")
    return cx.instance


def known_ids(cx: Context) -> dict[str, str]:
    """Return key -> id of the interfaces in the ledger."""
    return {key: r.id for key, r in cx.records("enis").items() if isinstance(r, Interface) and r.id}


def id_of(cx: Context, key: str) -> str:
    """Return the id of an interface, a Later where it is not made yet."""
    return known_ids(cx).get(key) or Later(f"(of {key})")


def waiting_for(key: str, status: str) -> str:
    """Return what to wait for in a state that passes by itself, e.g. ``eni-3 to attach``; empty at rest."""
    match status:
        case "Creating":
            return f"{key} to become Available"
        case "Attaching":
            return f"{key} to attach"
        case "Detaching":
            return f"{key} to detach"
        case "Deleting":
            return f"{key} to be deleted"
        case "Available" | "InUse" | "Error":
            return ""
        case _:
            return f"{key} to leave the state {status}"
