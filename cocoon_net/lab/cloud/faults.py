"""The knobs of the simulated cloud: delays, failures, limits, and the points on which the API's pages disagree.

``Faults`` is one frozen value. It is read from ``key=value`` settings (``cocoon-net lab fault api-latency=50ms``)
and written back as such; a setting without a value (``api-latency=``) returns to its default.
One-shot faults count down: the cloud replaces the value when one is spent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from cocoon_net.errors import SpecError


@dataclass(frozen=True, slots=True)
class Failure:
    """Calls of ``action`` (``*``: of any) are refused with ``code`` and ``status``, ``times`` times or for good."""

    action: str
    code: str
    status: int
    times: int | None = None

    def __str__(self) -> str:
        return f"{self.code}@{self.status}" + ("" if self.times is None else f",{self.times}")


@dataclass(frozen=True, slots=True)
class Loss:
    """The replies to the next ``times`` calls of ``action`` are lost after the effect."""

    action: str
    times: int = 1


@dataclass(frozen=True, slots=True)
class Faults:
    """All knobs, with their defaults: no delay, no failure, the provider's documented limits."""

    api_latency: float = 0.0
    """Seconds before each call is looked at."""
    state_latency: float = 0.0
    """Seconds that each asynchronous transition takes."""
    link_delay: float = 0.0
    """Seconds from InUse until the link is visible in the instance."""
    metadata_lag: float = 0.0
    """Seconds by which the metadata service lags behind the API."""
    describe_lag: int = 0
    """How many Describe calls still see the state of an object before a change."""

    error_rate: float = 0.0
    """Part of the calls (0..1) that fail in some way; the ambiguous ways happen after the effect half the time."""
    throttle: float = 0.0
    """Calls per second and action beyond which FlowLimitExceeded is answered; 0: no limit."""
    throttle_all: float = 0.0
    """Calls per second of the whole account beyond which AccountFlowLimitExceeded is answered; 0: no limit."""
    lose_reply: float = 0.0
    """Part of the calls (0..1) whose reply is lost after the effect."""
    lose: tuple[Loss, ...] = ()
    """Replies lost once: ``lose=CreateSubnet,AttachNetworkInterface*2``."""
    lose_hang: float = 0.0
    """Seconds for which a connection hangs before it is closed without the reply."""
    attach_fail: int = 0
    """The next so many accepted attaches fall back to Available."""
    attach_stuck: int = 0
    """The so-manyth attach from now does not leave Attaching before this is set to 0 again; 0: none."""
    failures: tuple[Failure, ...] = ()
    """Refusals by action: ``fail.CreateSubnet=InvalidVpc.InvalidStatus@400,2``."""

    instance_quota: int | None = None
    """Interfaces per instance, the primary included; None: as the instance type says."""
    ips_per_eni: int | None = None
    """Addresses per interface, the primary included; None: as the instance type says."""
    subnet_free: int | None = None
    """A subnet gives out no more than so many addresses in all; None: its size less 3."""
    subnet_quota: int = 200
    """Subnets per VPC."""
    interface_quota: int = 5000
    """Interfaces per account and region."""

    async_task_id: bool = True
    """Whether answers to writes carry an AsyncTaskId."""
    empty_lists: str = "[]"
    """How an empty list is written: ``[]``, ``null`` or ``missing``."""
    assign_returns: str = "new"
    """What AssignPrivateIpAddresses returns: the ``new`` addresses, or ``all`` secondary ones."""
    gone_describe: str = "404"
    """What DescribeNetworkInterfaceAttributes says of a deleted interface: ``404``, or 200 with an ``empty`` result."""
    timestamp_status: int = 400
    """The HTTP status of InvalidTimestamp: 400 or 403."""
    token_life: float = 86400.0
    """Seconds for which a ClientToken is remembered."""
    metadata_trees: tuple[str, ...] = ("hyphen", "underscore", "volcstack")
    """Which trees the metadata service has: /latest/meta-data, /latest and /volcstack/latest."""
    metadata_token: str = "optional"
    """Whether the metadata service wants a session token: ``optional`` or ``required``."""

    def set(self, settings: Mapping[str, str]) -> Faults:
        """Return these faults with some settings changed; raises ``SpecError`` that lists all problems."""
        values: dict[str, Any] = {}
        failures = {failure.action: failure for failure in self.failures}
        problems: list[str] = []
        for key, text in settings.items():
            name = key.strip().replace("-", "_")
            try:
                if key.startswith(("fail.", "fail ")):
                    action = key[5:].strip()
                    failures.pop(action, None)
                    if text.strip():
                        failures[action] = _failure(action, text)
                elif name not in _PARSERS:
                    problems.append(f"no such knob: {key}")
                else:
                    values[name] = _PARSERS[name](text.strip()) if text.strip() else _DEFAULTS[name]
            except ValueError as error:
                problems.append(f"{key}={text}: {error}")
        if problems:
            raise SpecError(problems, hint=f"the knobs are {', '.join(knobs())} and fail.ACTION=CODE@STATUS[,TIMES]")
        return replace(self, **values, failures=tuple(failures.values()))

    def settings(self) -> dict[str, str]:
        """Return all knobs as settings that ``set`` reads back."""
        plain = {name.replace("_", "-"): _text(getattr(self, name)) for name in _PARSERS}
        return plain | {f"fail.{failure.action}": str(failure) for failure in self.failures}

    def failure_of(self, action: str) -> tuple[Failure | None, Faults]:
        """Return the refusal that is due for a call of ``action``, and the faults that remain."""
        for failure in self.failures:
            if failure.action not in (action, "*"):
                continue
            if failure.times is None:
                return failure, self
            left = replace(failure, times=failure.times - 1)
            rest = tuple(left if each is failure else each for each in self.failures)
            return failure, replace(self, failures=tuple(each for each in rest if each.times != 0))
        return None, self

    def loss_of(self, action: str) -> tuple[bool, Faults]:
        """Tell whether the reply to a call of ``action`` is lost once, and the faults that remain."""
        for loss in self.lose:
            if loss.action in (action, "*"):
                left = replace(loss, times=loss.times - 1)
                rest = tuple(left if each is loss else each for each in self.lose)
                return True, replace(self, lose=tuple(each for each in rest if each.times > 0))
        return False, self


def parse_settings(items: Iterable[str]) -> dict[str, str]:
    """Split ``key=value`` items; raises ``SpecError`` for one without ``=``."""
    pairs = [item.partition("=") for item in items]
    if wrong := [key for key, equals, _ in pairs if not key or not equals]:
        raise SpecError([f"{key}: wanted KEY=VALUE" for key in wrong])
    return {key: value for key, _, value in pairs}


def knobs() -> list[str]:
    """Return the names of all knobs as they are typed."""
    return [name.replace("_", "-") for name in _PARSERS]


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?", text)
    if match is None:
        raise ValueError("wanted a duration such as 50ms, 1.5s or 2m")
    return float(match[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}[match[2] or "s"]


def _part(text: str) -> float:
    value = _number(text)
    if value > 1:
        raise ValueError("wanted a part from 0 to 1")
    return value


def _number(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        raise ValueError("wanted a number, 0 or more")
    return float(text)


def _count(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise ValueError("wanted a whole number, 0 or more")
    return int(text)


def _switch(text: str) -> bool:
    match text:
        case "on" | "true" | "yes":
            return True
        case "off" | "false" | "no":
            return False
        case _:
            raise ValueError("wanted on or off")


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"wanted one of {', '.join(choices)}")
        return text

    return parse


def _trees(text: str) -> tuple[str, ...]:
    trees = tuple(tree.strip() for tree in text.split(","))
    if wrong := set(trees) - {*TREES, "none"}:
        raise ValueError(f"unknown {', '.join(sorted(wrong))}; wanted some of {', '.join(TREES)}, or none")
    return tuple(tree for tree in trees if tree != "none")


def _losses(text: str) -> tuple[Loss, ...]:
    losses = []
    for item in text.split(","):
        action, star, times = item.strip().partition("*")
        if not action:
            raise ValueError("wanted ACTION or ACTION*TIMES, separated by commas")
        losses.append(Loss(action, _count(times) if star else 1))
    return tuple(losses)


def _failure(action: str, text: str) -> Failure:
    match = re.fullmatch(r"([\w.]+)@([2-5]\d\d)(?:,(\d+))?", text.strip())
    if match is None or not action:
        raise ValueError("wanted CODE@STATUS or CODE@STATUS,TIMES")
    return Failure(action, match[1], int(match[2]), int(match[3]) if match[3] else None)


def _text(value: object) -> str:
    match value:
        case None | ():
            return ""
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:g}"
        case tuple():
            return ",".join(f"{item.action}*{item.times}" if isinstance(item, Loss) else str(item) for item in value)
        case _:
            return str(value)


TREES = ("hyphen", "underscore", "volcstack")

_PARSERS: dict[str, Callable[[str], object]] = {
    "api_latency": _seconds,
    "state_latency": _seconds,
    "link_delay": _seconds,
    "metadata_lag": _seconds,
    "describe_lag": _count,
    "error_rate": _part,
    "throttle": _number,
    "throttle_all": _number,
    "lose_reply": _part,
    "lose": _losses,
    "lose_hang": _seconds,
    "attach_fail": _count,
    "attach_stuck": _count,
    "instance_quota": _count,
    "ips_per_eni": _count,
    "subnet_free": _count,
    "subnet_quota": _count,
    "interface_quota": _count,
    "async_task_id": _switch,
    "empty_lists": _choice("[]", "null", "missing"),
    "assign_returns": _choice("new", "all"),
    "gone_describe": _choice("404", "empty"),
    "timestamp_status": lambda text: int(_choice("400", "403")(text)),
    "token_life": _seconds,
    "metadata_trees": _trees,
    "metadata_token": _choice("optional", "required"),
}

_DEFAULTS: dict[str, object] = {field.name: getattr(Faults(), field.name) for field in fields(Faults)}
