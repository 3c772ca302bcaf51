"""What an operator may set about DHCP: ``dhcp.toml``, read at the start and at each reload, every problem at once.

::

    lease-time = "24h"
    domain = "vms.example.org"
    search = ["vms.example.org", "example.org"]
    ntp = ["172.20.0.5"]
    routes = ["10.0.0.0/8 via 172.20.100.1"]

    [options]                                   # by code (RFC 2132): text, 0x and hex, or addresses
    252 = "http://wpad.example.org/wpad.dat"
    43 = "0x010400000002"
    44 = ["172.20.0.6"]
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from cocoon_net.dhcp.options import Code, classless, domains
from cocoon_net.errors import SpecError

OURS = frozenset({0, 1, 3, 26, 28, *range(50, 60), 61, 80, 82, 118, 255})
"""Codes that nobody sets by hand: the message's own, and those that the node's network decides."""

_ADDRESSES = frozenset({4, 5, 6, 7, 8, 9, 10, 11, 41, 42, 44, 45, 48, 49, 65, *range(68, 77)})
"""Codes whose value is one address after the other."""

_DURATION = re.compile(r"(\d+)(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_TERMS = {"lease-time": "lease", "offer-time": "offer", "cooling-time": "cooling", "quarantine-time": "quarantine"}
_LONGEST = 0xFFFF_FFFE
_SHORTEST = 3


@dataclass(frozen=True, slots=True)
class Terms:
    """How long things last, in seconds, and how promises are made."""

    lease: int = 86_400
    shortest: int = 10
    """The least lease time that a client can ask for (option 51); asking for more than ``lease`` gets ``lease``."""
    offer: int = 30
    cooling: int = 60
    """Between the end of a lease and the address's next client: old connections and ARP entries must die first."""
    quarantine: int = 600
    rapid_commit: bool = False
    """Whether a DISCOVER with option 80 is answered by an ACK (RFC 4039)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How long things last, and what guests are told beside what the pool knows."""

    terms: Terms = field(default_factory=Terms)
    options: Mapping[int, bytes] = field(default_factory=dict)
    """Code -> value."""


def parse(text: str, where: str = "dhcp.toml") -> Settings:
    """Read the file's text. Raises SpecError that lists every line which cannot be used."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{where} is not TOML: {error}", hint="see 'Settings of DHCP' in docs/operations.md") from error
    problems: list[str] = []
    terms: dict[str, Any] = {}
    options: dict[int, bytes] = {}

    def read(key: str, convert: Callable[[Any], Any], value: Any) -> Any:
        try:
            return convert(value)
        except (ValueError, TypeError) as error:
            problems.append(f"{where}: {key}: {error}")
            return None

    for key, value in data.items():
        match key:
            case "lease-time":
                terms["lease"] = read(key, _lease_time, value)
            case "offer-time" | "cooling-time" | "quarantine-time":
                terms[_TERMS[key]] = read(key, duration, value)
            case "rapid-commit":
                terms["rapid_commit"] = read(key, _switch, value)
            case "domain":
                options[Code.DOMAIN] = read(key, lambda name: _domain(name).encode(), value)
            case "search":
                options[Code.SEARCH] = read(key, lambda names: domains([_domain(n) for n in _list(names)]), value)
            case "ntp":
                options[Code.NTP] = read(key, lambda servers: _addresses(_list(servers)), value)
            case "routes":
                options[Code.ROUTES] = read(key, lambda routes: classless([_route(r) for r in _list(routes)]), value)
            case "options" if isinstance(value, dict):
                for code, one in value.items():
                    options |= read(f"options.{code}", _option, (code, one)) or {}
            case _:
                problems.append(f"{where}: {key}: not known; known are {', '.join((*_TERMS, *_OTHERS))}")
    if problems:
        raise SpecError(problems, hint="see 'Settings of DHCP' in docs/operations.md")
    return Settings(Terms(**terms), options)


_OTHERS = ("rapid-commit", "domain", "search", "ntp", "routes", "[options]")


def duration(text: Any) -> int:
    """Read seconds from ``90s``, ``10m``, ``24h`` or ``7d``. Raises ValueError."""
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{text!r} is not a time like 90s, 10m, 24h or 7d")
    seconds = int(found[1]) * _SECONDS[found[2]]
    if not seconds <= _LONGEST:
        raise ValueError(f"{text!r} is longer than DHCP can say")
    return seconds


def _lease_time(text: Any) -> int:
    """Read a time that T1 and T2 fit into, one after the other (RFC 2131 §4.4.5). Raises ValueError."""
    seconds = duration(text)
    if seconds < _SHORTEST:
        raise ValueError(f"{text!r} is shorter than three seconds")
    return seconds


def option(code: Any, value: Any) -> tuple[int, bytes]:
    """Read one option: text, ``0x`` and hex, or a list of addresses. Raises ValueError."""
    number = int(code)
    if not 0 <= number <= 255 or number in OURS:
        raise ValueError(f"{number} is not an option that can be set")
    match value:
        case list():
            data = _addresses(value)
        case str() if value.startswith("0x"):
            data = bytes.fromhex(value[2:])
        case str():
            data = value.encode()
        case _:
            raise ValueError(f"{value!r} is neither text, nor 0x and hex, nor a list of addresses")
    if not data:
        raise ValueError("it is empty")
    if number in _ADDRESSES and len(data) % 4:
        raise ValueError(f"{value!r} is not a list of addresses")
    return number, data


def assignment(text: str) -> tuple[int, bytes]:
    """Read one option of a command line, ``15=example.org``; addresses have commas between. Raises SpecError."""
    code, equals, value = text.partition("=")
    try:
        if not equals or not code.isdigit():
            raise ValueError(f"{text!r} is not an option like 15=example.org")
        return option(code, value.split(",") if int(code) in _ADDRESSES and not value.startswith("0x") else value)
    except ValueError as error:
        raise SpecError(f"--option: {error}", hint="code=text, code=0x and hex, or code=address,address") from error


def _option(pair: tuple[Any, Any]) -> dict[int, bytes]:
    return dict([option(*pair)])


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{value!r} is not a list")
    return value


def _addresses(values: list[Any]) -> bytes:
    return b"".join(IPv4Address(str(value)).packed for value in values)


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _domain(name: Any) -> str:
    labels = name.rstrip(".").split(".") if isinstance(name, str) else [""]
    if not all(_LABEL.fullmatch(label) for label in labels) or len(name) > 253:
        raise ValueError(f"{name!r} is not a domain name")
    return ".".join(labels)


def _route(text: Any) -> tuple[IPv4Network, IPv4Address]:
    network, via, gateway = str(text).partition(" via ")
    if not via:
        raise ValueError(f"{text!r} is not a route like 10.0.0.0/8 via 172.20.100.1")
    return IPv4Network(network.strip()), IPv4Address(gateway.strip())
