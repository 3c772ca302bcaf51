"""The instance metadata service: who and where this instance is, and the keys of its role.

It is asked directly: proxies from the environment never apply to it. Images know three trees of names, of which only
the first is documented ("查看实例元数据"); whichever answers with a value of the right shape is believed.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import AddressValueError, IPv4Address
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from cocoon_net.errors import CloudError, CloudGone, CloudTransient

TIMEOUT = 2.0
"""Seconds for one step of one exchange."""

PATIENCE = 10.0
"""Seconds for everything that one question may need."""

_TOKEN_PATH = "/latest/api/token"
_TOKEN_HEADER = "X-volc-ecs-metadata-token"
_ROLE_ROOTS = ("/volcstack/latest/iam/security_credentials", "/latest/iam/security_credentials")
_INTERFACE_ROOTS = tuple(f"{root}/network/interfaces/macs" for root in ("/latest", "/volcstack/latest"))
_LARGEST = 1 << 16

_PATHS: Mapping[str, tuple[str, ...]] = {
    "instance_id": ("/latest/instance_id", "/volcstack/latest/instance_id", "/latest/meta-data/instance-id"),
    "instance_type": (
        "/latest/instance_type_id",
        "/volcstack/latest/instance_type",
        "/latest/meta-data/instance-type",
        "/latest/meta-data/instance/instance-type",
    ),
    "vpc_id": ("/latest/vpc_id", "/volcstack/latest/vpc_id", "/latest/meta-data/vpc-id"),
    "vpc_cidr": ("/latest/vpc_cidr_block", "/volcstack/latest/vpc_cidr_block"),
    "zone": (
        "/latest/availability_zone",
        "/volcstack/latest/availability_zone",
        "/latest/meta-data/placement/availability-zone",
    ),
    "region": ("/latest/region_id", "/volcstack/latest/region_id", "/latest/meta-data/region-id"),
    "mac": ("/latest/mac", "/volcstack/latest/mac", "/latest/meta-data/mac"),
}
_SHAPES = {
    "instance_id": re.compile(r"i-[A-Za-z0-9-]{2,64}"),
    "instance_type": re.compile(r"[a-z0-9]+(\.[a-zA-Z0-9-]+)+"),
    "vpc_id": re.compile(r"vpc-[A-Za-z0-9-]{2,64}"),
    "vpc_cidr": re.compile(r"(\d{1,3}\.){3}\d{1,3}/\d{1,2}"),
    "zone": re.compile(r"[a-z]+(-[a-z0-9]+)+-[a-z]"),
    "region": re.compile(r"[a-z]+(-[a-z0-9]+)+"),
    "mac": re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}"),
}


@dataclass(frozen=True, slots=True)
class Identity:
    """What metadata says of this instance; ``instance_type`` and ``mac`` are empty where it does not say."""

    instance_id: str
    instance_type: str
    vpc_id: str
    zone: str
    region: str
    mac: str
    """Of the primary interface; lower case, colons."""
    vpc_cidr: str = ""
    """Empty where metadata does not say it: not every image's tree has it."""


@dataclass(frozen=True, slots=True, repr=False)
class RoleKeys:
    """The temporary keys of the instance's role."""

    role: str
    access_key: str
    secret_key: str
    session_token: str
    expires: datetime

    def __repr__(self) -> str:
        return f"RoleKeys(role={self.role!r}, expires={self.expires.isoformat()})"


class Metadata:
    """A client of the service at ``base_url``; remembers a session token where the instance demands one."""

    def __init__(self, base_url: str, *, timeout: float = TIMEOUT, patience: float = PATIENCE) -> None:
        self.base_url = base_url
        self._url: SplitResult = urlsplit(base_url)
        self._timeout = timeout
        self._patience = patience
        self._token = ""
        self.clock: datetime | None = None
        """The service's own time, as the last answer told it."""

    def attached(self) -> dict[str, frozenset[IPv4Address]]:
        """Return the interfaces that the instance has: MAC -> secondary addresses. Raises as ``instance_id``."""
        deadline = self._deadline()
        for root in _INTERFACE_ROOTS:
            listing = self._get(f"{root}/", deadline)
            if not listing:
                continue
            found: dict[str, frozenset[IPv4Address]] = {}
            for name in listing.split():
                text = self._get(f"{root}/{name.strip('/')}/private_ipv4s", deadline)
                try:
                    addresses = frozenset(map(IPv4Address, (text or "").replace(",", " ").split()))
                except AddressValueError:
                    raise CloudError(f"{self.base_url} tells addresses that cannot be read: {text!r:.60}") from None
                if text is not None:
                    found[name.strip("/").lower().replace("-", ":")] = addresses
            return found
        raise CloudGone(f"{self.base_url} does not tell this instance's interfaces")

    def instance_id(self) -> str:
        """Return this instance's id. Raises CloudTransient when nobody answers, CloudGone when nobody knows."""
        return self._fact("instance_id", self._deadline())

    def region(self) -> str:
        """Return this instance's region. Raises as ``instance_id``."""
        return self._region(self._deadline())

    def identity(self) -> Identity:
        """Return all that is known of this instance. Raises as ``instance_id``."""
        deadline = self._deadline()
        return Identity(
            instance_id=self._fact("instance_id", deadline),
            instance_type=self._fact("instance_type", deadline, needed=False),
            vpc_id=self._fact("vpc_id", deadline),
            zone=self._fact("zone", deadline),
            region=self._region(deadline),
            mac=self._fact("mac", deadline, needed=False),
            vpc_cidr=self._fact("vpc_cidr", deadline, needed=False),
        )

    def role_keys(self, role: str = "") -> RoleKeys:
        """Return the keys of ``role``, or of the instance's first role. Raises CloudGone when it has none."""
        deadline = self._deadline()
        for root in _ROLE_ROOTS:
            name = role or self._first_role(root, deadline)
            answer = self._get(f"{root}/{quote(name, safe='')}", deadline) if name else None
            if answer is not None:
                return _role_keys(name, answer)
        raise CloudGone(f"{self.base_url} knows no {f'role {role!r}' if role else 'role'} of this instance")

    def _first_role(self, root: str, deadline: float) -> str:
        listing = self._get(f"{root}?type=user&format=json", deadline) or ""
        try:
            names = json.loads(listing)
        except ValueError:
            names = listing.split()
        return str(names[0]) if isinstance(names, list) and names else ""

    def _region(self, deadline: float) -> str:
        if region := self._fact("region", deadline, needed=False):
            return region
        # A zone is its region and a letter: cn-beijing-a.
        return self._fact("zone", deadline).rpartition("-")[0]

    def _fact(self, name: str, deadline: float, *, needed: bool = True) -> str:
        """Return the first value of the right shape; an empty one where none is ``needed``."""
        odd = ""
        for path in _PATHS[name]:
            value = (self._get(path, deadline) or "").strip()
            if name == "mac":
                value = value.lower().replace("-", ":")
            if _SHAPES[name].fullmatch(value):
                return value
            odd = odd or value
        if needed:
            seen = f"; it says {odd[:40]!r}" if odd else ""
            raise CloudGone(f"{self.base_url} does not know this instance's {name.replace('_', ' ')}{seen}")
        return ""

    def _deadline(self) -> float:
        return time.monotonic() + self._patience

    def _get(self, path: str, deadline: float) -> str | None:
        """Return the text at ``path``, None where there is none. Raises CloudTransient, CloudError."""
        status, text = self._exchange("GET", path, self._headers(), deadline)
        if status in (401, 403):
            status_of_token, token = self._exchange(
                "PUT", _TOKEN_PATH, {f"{_TOKEN_HEADER}-ttl-seconds": "21600"}, deadline
            )
            if status_of_token != 200 or not token.strip():
                raise CloudError(
                    f"{self.base_url} wants a session token and does not give one (HTTP {status_of_token})"
                )
            self._token = token.strip()
            status, text = self._exchange("GET", path, self._headers(), deadline)
        match status:
            case 200:
                return text
            case 404 | 400:
                return None
            case _ if status >= 500 or status == 429:
                raise CloudTransient(f"{self.base_url}{path} answers with HTTP {status}")
            case _:
                raise CloudError(f"{self.base_url}{path} answers with HTTP {status}")

    def _headers(self) -> dict[str, str]:
        return {_TOKEN_HEADER: self._token} if self._token else {}

    def _exchange(self, method: str, path: str, headers: dict[str, str], deadline: float) -> tuple[int, str]:
        from http.client import HTTPConnection, HTTPException

        left = deadline - time.monotonic()
        if left <= 0:
            raise CloudTransient(f"{self.base_url} did not answer within {self._patience:g} s")
        if self._url.scheme != "http" or not self._url.hostname:
            raise CloudError(f"{self.base_url!r} is not the URL of a metadata service", hint="it begins with http://")
        connection = HTTPConnection(self._url.hostname, self._url.port, timeout=min(self._timeout, left))
        try:
            connection.request(method, f"{self._url.path}{path}", headers={**headers, "Accept": "*/*"})
            response = connection.getresponse()
            self.clock = _moment(response.getheader("Date"))
            body = b""
            while len(body) < _LARGEST and (piece := response.read1(4096)):
                body += piece
                if time.monotonic() > deadline:
                    raise TimeoutError("slow")
            return response.status, body.decode("utf-8", "replace")
        except (OSError, HTTPException) as error:
            why = "timed out" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
            raise CloudTransient(f"no instance metadata from {self.base_url}: {why}") from None
        finally:
            connection.close()


def _moment(text: str | None) -> datetime | None:
    """Read the ``Date`` of an answer (RFC 9110 §6.6.1); None where there is none, or another thing."""
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(text) if text else None
    except ValueError:
        return None


def _role_keys(role: str, text: str) -> RoleKeys:
    """Read the JSON of one role; nothing of it is ever repeated in an error."""
    unreadable = CloudError(f"the metadata service gave the role {role!r} keys that cannot be read")
    try:
        data: Any = json.loads(text)
        keys = RoleKeys(
            role,
            str(data["AccessKeyId"]),
            str(data["SecretAccessKey"]),
            str(data["SessionToken"]),
            datetime.fromisoformat(str(data["ExpiredTime"])),
        )
    except (ValueError, KeyError, TypeError):
        raise unreadable from None
    if not (keys.access_key and keys.secret_key and keys.session_token) or keys.expires.tzinfo is None:
        raise unreadable
    return keys
