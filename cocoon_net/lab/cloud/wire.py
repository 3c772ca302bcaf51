"""The wire format of the OpenAPI: flattened parameters in, envelopes out (the provider's page 公共错误码)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError

Fields = dict[str, object]
"""The fields of one object, or of a ``Result``, under their names on the wire."""

_BEIJING = timezone(timedelta(hours=8))

GATEWAY: Mapping[str, tuple[int | None, int, str]] = {
    "MissingParameter": (100002, 400, "The request is missing a required parameter."),
    "MissingAuthenticationToken": (100003, 401, "The request is missing the Authorization header."),
    "MissingRequestInfo": (100004, 400, "The request is missing the Action or Version parameter."),
    "InvalidTimestamp": (100006, 400, "The X-Date of the request is missing, malformed or too far off."),
    "ServiceNotFound": (100007, 404, "The service in the credential scope does not exist."),
    "InvalidActionOrVersion": (100008, 404, "The service has no such action in this version."),
    "InvalidAccessKey": (100009, 401, "The access key of the request is invalid."),
    "SignatureDoesNotMatch": (100010, 401, "The calculated signature differs from the one provided."),
    "AccessDenied": (100013, 403, "The user is not authorized to perform this action."),
    "InternalError": (100014, 500, "The request has failed because of an internal error."),
    "FlowLimitExceeded": (100018, 429, "The request speed is beyond the flow control limit of this API."),
    "AccountFlowLimitExceeded": (100027, 429, "The request speed is beyond the limit of this account."),
    "InvalidAuthorization": (None, 400, "The Authorization header is malformed."),
    "InvalidCredential": (None, 400, "The credential scope is malformed."),
    "InvalidSecretToken": (None, 401, "The security token is missing, wrong or expired."),
    "MethodNotAllowed": (None, 405, "Only GET and POST are allowed."),
    "InternalServiceError": (None, 502, "The service behind the gateway has failed."),
    "ServiceUnavailableTemp": (None, 503, "The service is temporarily unavailable."),
    "InternalServiceTimeout": (None, 504, "The service behind the gateway did not answer in time."),
}
"""Codes that the gateway itself answers: CodeN, HTTP status, message."""


class ApiError(Exception):
    """A refusal that goes out on the wire; ``number`` is the CodeN, which business errors do not have."""

    def __init__(self, code: str, message: str, status: int = 400, number: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.number = number


def gateway_error(code: str, status: int | None = None) -> ApiError:
    """Return one of the ``GATEWAY`` refusals, with another HTTP status if given."""
    number, usual, message = GATEWAY[code]
    return ApiError(code, message, usual if status is None else status, number)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an action: who asks, when, and the flattened parameters without Action and Version."""

    service: str
    action: str
    version: str
    region: str
    parameters: Mapping[str, str]
    request_id: str
    now: datetime

    def text(self, name: str, default: str = "") -> str:
        """Return a parameter as text."""
        return self.parameters.get(name, default)

    def required(self, name: str) -> str:
        """Return a parameter as text; raises ``ApiError`` MissingParameter."""
        value = self.parameters.get(name, "")
        if not value:
            raise missing(name)
        return value

    def integer(self, name: str, low: int, high: int) -> int | None:
        """Return a whole number within the bounds, None if not given; raises ``ApiError`` InvalidParameter."""
        text = self.parameters.get(name)
        if text is None:
            return None
        if not re.fullmatch(r"-?\d{1,9}", text) or not low <= int(text) <= high:
            raise invalid(name, f"a whole number from {low} to {high}")
        return int(text)

    def flag(self, name: str) -> bool | None:
        """Return a boolean, None if not given; raises ``ApiError`` InvalidParameter."""
        match self.parameters.get(name):
            case None:
                return None
            case "true" | "True":
                return True
            case "false" | "False":
                return False
            case _:
                raise invalid(name, "true or false")

    def listed(self, name: str, most: int = 100) -> tuple[str, ...]:
        """Return ``name.1``, ``name.2``, ... in order; raises ``ApiError`` when there are more than ``most``."""
        pattern = re.compile(re.escape(name) + r"\.(\d+)")
        found = {
            int(match[1]): value
            for key, value in self.parameters.items()
            if (match := pattern.fullmatch(key)) is not None
        }
        if len(found) > most:
            raise invalid(name, f"at most {most} values")
        return tuple(found[index] for index in sorted(found))

    def tags(self) -> tuple[tuple[str, str], ...]:
        """Return ``Tags.N.Key`` and ``Tags.N.Value``; limits of TagResources: 20 a call, key 1-128, value 0-256."""
        tags = {self.text(f"Tags.{n}.Key"): self.text(f"Tags.{n}.Value") for n in self._numbers("Tags")}
        if len(tags) > 20:
            raise invalid("Tags", "at most 20 tags in a call")
        for key, value in tags.items():
            if not 1 <= len(key) <= 128 or key.startswith(("volc:", "sys:")):
                raise invalid("Tags.N.Key", "1 to 128 characters, not starting with volc: or sys:")
            if len(value) > 256:
                raise invalid("Tags.N.Value", "at most 256 characters")
        return tuple(sorted(tags.items()))

    def tag_filters(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return ``TagFilters``: at most 10 keys, all of which must match, each with at most 3 values."""
        numbers = self._numbers("TagFilters")
        if len(numbers) > 10:
            raise invalid("TagFilters", "at most 10 keys")
        return tuple(
            (self.required(f"TagFilters.{n}.Key"), self.listed(f"TagFilters.{n}.Values", most=3)) for n in numbers
        )

    def _numbers(self, name: str) -> list[int]:
        pattern = re.compile(re.escape(name) + r"\.(\d+)\.")
        return sorted({int(match[1]) for key in self.parameters if (match := pattern.match(key)) is not None})


def missing(name: str) -> ApiError:
    """Return the refusal of a call without the parameter ``name``."""
    return ApiError("MissingParameter", f"The required parameter {name} is missing.", number=100002)


def invalid(name: str, wanted: str) -> ApiError:
    """Return the refusal of a parameter whose value is not ``wanted``."""
    return ApiError("InvalidParameter", f"The parameter {name} is not valid: wanted {wanted}.")


def address(name: str, text: str) -> IPv4Address:
    """Parse an address; raises ``ApiError`` InvalidPrivateIp.Malformed."""
    try:
        return IPv4Address(text)
    except AddressValueError:
        raise ApiError("InvalidPrivateIp.Malformed", f"{name} is not an IPv4 address.") from None


def network(name: str, text: str) -> IPv4Network:
    """Parse a network without host bits; raises ``ApiError`` InvalidCidr.Malformed."""
    try:
        return IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError):
        raise ApiError("InvalidCidr.Malformed", f"{name} is not an IPv4 network.") from None


def stamp(when: datetime) -> str:
    """Write a time as the API does: RFC 3339 in China's time zone."""
    return when.astimezone(_BEIJING).isoformat(timespec="seconds")


def flatten(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Flatten a JSON body into the names that a query would have: ``Tags.1.Key``."""
    match value:
        case dict():
            for name, item in value.items():
                yield from flatten(item, f"{prefix}.{name}" if prefix else str(name))
        case list():
            for index, item in enumerate(value, 1):
                yield from flatten(item, f"{prefix}.{index}")
        case bool():
            yield prefix, "true" if value else "false"
        case None:
            return
        case _:
            yield prefix, str(value)


def success(call: Call, result: Fields, empty_lists: str) -> bytes:
    """Render the envelope of a result; empty lists are written as ``[]``, ``null`` or not at all."""
    body: Fields = {
        "ResponseMetadata": _metadata(call),
        "Result": {**_thin(result, empty_lists), "RequestId": call.request_id},
    }
    return json.dumps(body, separators=(",", ":")).encode()


def failure(call: Call, error: ApiError) -> bytes:
    """Render the envelope of a refusal."""
    code: Fields = {} if error.number is None else {"CodeN": error.number}
    metadata = {**_metadata(call), "Error": {**code, "Code": error.code, "Message": error.message}}
    return json.dumps({"ResponseMetadata": metadata}, separators=(",", ":")).encode()


def _metadata(call: Call) -> Fields:
    return {
        "RequestId": call.request_id,
        "Action": call.action,
        "Version": call.version,
        "Service": call.service,
        "Region": call.region,
    }


def _thin(fields: Fields, empty_lists: str) -> Fields:
    if empty_lists == "[]":
        return fields
    return {
        name: _thin_value(value, empty_lists)
        for name, value in fields.items()
        if not (value == [] and empty_lists == "missing")
    }


def _thin_value(value: object, empty_lists: str) -> object:
    match value:
        case []:
            return None
        case list():
            return [_thin_value(item, empty_lists) for item in value]
        case dict():
            return _thin(value, empty_lists)
        case _:
            return value


def request_id(now: datetime, noise: str) -> str:
    """Return an id as the gateway makes them: the local time and some hexadecimal noise."""
    return f"{now.astimezone(_BEIJING):%Y%m%d%H%M%S}{noise.upper()}"
