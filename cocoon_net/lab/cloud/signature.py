"""Check the signature of a request to the OpenAPI (``SignerV4``; the provider's pages 6369/67269 and 67270).

Pure: a request, a secret and a time go in; a verdict comes out. The list of signed headers is taken from the
``Authorization`` header and never assumed, and the query is decoded and encoded again, because clients differ
in how they put spaces on the wire.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from cocoon_net.lab.cloud.wire import gateway_error

ALGORITHM = "HMAC-SHA256"
WINDOW = timedelta(minutes=15)
"""How far a client's clock may be off; the provider does not document it."""

_AUTHORIZATION = re.compile(
    r"HMAC-SHA256 Credential=(?P<key>[^/\s]+)/(?P<day>\d{8})/(?P<region>[^/\s]*)/(?P<service>[^/\s]*)/request, *"
    r"SignedHeaders=(?P<headers>[a-z0-9;-]+), *Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request as it came: the query decoded, the names of the headers in lower case."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    body: bytes
    source: str = ""
    """The address of the client, for the log of calls and for the metadata service."""


@dataclass(frozen=True, slots=True)
class Authorization:
    """The parts of the ``Authorization`` header."""

    access_key: str
    day: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str


def parse_authorization(request: Request) -> Authorization:
    """Take the header apart; raises ``ApiError`` with the gateway's code when it is missing or malformed."""
    text = request.headers.get("authorization")
    if not text:
        raise gateway_error("MissingAuthenticationToken")
    match = _AUTHORIZATION.fullmatch(text.strip())
    if match is None:
        raise gateway_error("InvalidAuthorization")
    return Authorization(
        access_key=match["key"],
        day=match["day"],
        region=match["region"],
        service=match["service"],
        signed_headers=tuple(match["headers"].split(";")),
        signature=match["signature"],
    )


def sign(secret: str, request: Request, authorization: Authorization) -> str:
    """Return the signature (hex) that ``request`` should carry, for the scope in ``authorization``."""
    names = authorization.signed_headers
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in request.query)
    canonical = "\n".join(
        [
            request.method,
            quote(request.path or "/", safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in pairs),
            *(f"{name}:{_header(request, name)}" for name in names),
            "",
            ";".join(names),
            hashlib.sha256(request.body).hexdigest(),
        ]
    )
    scope = f"{authorization.day}/{authorization.region}/{authorization.service}/request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = "\n".join([ALGORITHM, request.headers.get("x-date", ""), scope, digest])
    key = secret.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, to_sign.encode(), "sha256").hexdigest()


def verify(secret: str, request: Request, authorization: Authorization, now: datetime) -> None:
    """Return if the signature is right; raises ``ApiError`` InvalidTimestamp or SignatureDoesNotMatch."""
    date = request.headers.get("x-date", "")
    try:
        signed_at = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise gateway_error("InvalidTimestamp") from None
    if abs(now - signed_at) > WINDOW:
        raise gateway_error("InvalidTimestamp")
    if not {"host", "x-date"} <= set(authorization.signed_headers) or not date.startswith(authorization.day):
        raise gateway_error("SignatureDoesNotMatch")
    declared = request.headers.get("x-content-sha256")
    if declared is not None and declared != hashlib.sha256(request.body).hexdigest():
        raise gateway_error("SignatureDoesNotMatch")
    if not hmac.compare_digest(sign(secret, request, authorization), authorization.signature):
        raise gateway_error("SignatureDoesNotMatch")


def _header(request: Request, name: str) -> str:
    value = request.headers.get(name, "").strip()
    # The default ports do not belong to the signed host; any other port does.
    return re.sub(r":(80|443)$", "", value) if name == "host" else value
