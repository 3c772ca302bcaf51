"""Prometheus metrics: the Go cocoon-net's names and labels, ours beside them, read at the moment of the scrape.

Nothing is counted twice: every number comes from whoever knows it, through ``Readings``. prometheus_client costs
14 MB, so it is imported only where the endpoint is on.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cocoon_net.dhcp.histogram import Times
from cocoon_net.errors import SpecError
from cocoon_net.supervisor.http import Answer, Listener, Route, refusal

if TYPE_CHECKING:
    from prometheus_client import Metric

DEFAULT_ADDRESS = ":9092"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Readings:
    """What is measured right now."""

    acknowledged: int = 0
    """Leases bound or renewed since the start."""
    failed: int = 0
    """Requests for a lease that were refused or could not be answered, since the start."""
    pool_available: int = 0
    """Addresses that a new client could be given."""
    leases: Mapping[str, int] = field(default_factory=dict)
    """State -> addresses in it."""
    nics: Mapping[str, int] = field(default_factory=dict)
    """``expected`` and ``present`` secondary links."""
    differences: Mapping[str, int] = field(default_factory=dict)
    """Kind -> differences that the last look at the kernel confirmed."""
    phase: str = ""
    """Of the service's lifecycle."""
    decisions: Mapping[str, int] = field(default_factory=dict)
    """Reason -> messages, timers and orders that were decided so."""
    malformed: Mapping[str, int] = field(default_factory=dict)
    """Kind -> frames and messages that could not be read."""
    guarded: Mapping[str, int] = field(default_factory=dict)
    """Reason of the guard -> messages that it refused."""
    troubles: Mapping[str, int] = field(default_factory=dict)
    """``commit``, ``route``: what could not be had, so that nothing was promised; ``send``; ``mute`` of a port."""
    api: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(action, code) -> calls of the cloud's API by this node's runs; no code is success."""
    times: Mapping[str, Times] = field(default_factory=dict)
    """``offer``, ``ack``, ``commit``, ``netlink``."""


def parse_address(text: str) -> tuple[str, int]:
    """Read ``:9092``, ``127.0.0.1:9092`` or ``[::1]:9092``; no host means every IPv4 address. Raises SpecError."""
    try:
        parts = urlsplit(f"//{text.strip()}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if port is None or parts.path or parts.query or "@" in text:
        raise SpecError(
            f"--metrics-addr: {text!r} is not HOST:PORT", hint="like :9092 or 127.0.0.1:9092; empty turns it off"
        )
    return host, port


def listen(text: str, read: Callable[[], Readings]) -> tuple[Listener, int]:
    """Bind the endpoint and return its listener, not started, and its port. Raises OSError when the port is taken."""
    host, port = parse_address(text)
    bound = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    return Listener(bound, routes(read), "metrics"), int(bound.getsockname()[1])


def routes(read: Callable[[], Readings]) -> Route:
    """Return the route function of the endpoint: ``/metrics``."""
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

    registry = CollectorRegistry()
    registry.register(_Collector(read))
    ProcessCollector(registry=registry)

    def route(method: str, target: str) -> Answer:
        if urlsplit(target).path != "/metrics":
            return refusal(404, f"there is no {target}", "/metrics")
        if method not in ("GET", "HEAD"):
            return refusal(405, f"{method} is not for this path", allow=["GET", "HEAD"])
        return Answer(200, generate_latest(registry), CONTENT_TYPE)

    return route


class _Collector:
    """Turns one reading into metric families."""

    def __init__(self, read: Callable[[], Readings]) -> None:
        self._read = read

    def describe(self) -> Iterator[Metric]:
        """Name nothing in advance: registering must not take a reading."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Take a reading."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        now = self._read()
        results = CounterMetricFamily(
            "cocoon_net_dhcp_lease", "Leases asked for, by how it ended, since the start.", labels=["result"]
        )
        results.add_metric(["ok"], now.acknowledged)
        results.add_metric(["failed"], now.failed)
        yield results
        yield GaugeMetricFamily(
            "cocoon_net_dhcp_pool_available", "Addresses that a new client could be given.", now.pool_available
        )
        yield GaugeMetricFamily("cocoon_net_dhcp_lease_active", "Leases that are bound.", now.leases.get("bound", 0))
        yield from self._counters(now)
        yield from self._histograms(now)
        for name, help_text, label, values in (
            ("secondary_nics", "Secondary links of the pool, expected and present.", "state", now.nics),
            ("dhcp_addresses", "Addresses of the pool, by the state of their lease.", "state", now.leases),
            ("differences", "Differences between kernel and database, last confirmed.", "kind", now.differences),
            ("lifecycle", "Where the service stands: 1 at its phase.", "phase", {now.phase: 1} if now.phase else {}),
        ):
            family = GaugeMetricFamily(f"cocoon_net_{name}", help_text, labels=[label])
            for value in sorted(values):
                family.add_metric([value], values[value])
            yield family

    @staticmethod
    def _counters(now: Readings) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily

        exhausted = CounterMetricFamily("cocoon_net_dhcp_exhausted", "DISCOVERs for which no address was free.")
        exhausted.add_metric([], now.decisions.get("exhausted", 0))
        yield exhausted
        for name, help_text, label, values in (
            ("decisions", "What was decided, by its reason.", "reason", now.decisions),
            ("malformed", "Frames that are no DHCP message, by what was wrong first.", "kind", now.malformed),
            ("guarded", "Messages that a bridge port may not have answered, by reason.", "reason", now.guarded),
            ("troubles", "Batches not written, routes and replies refused, ports muted.", "kind", now.troubles),
        ):
            family = CounterMetricFamily(f"cocoon_net_dhcp_{name}", help_text, labels=[label])
            for value in sorted(values):
                family.add_metric([value], values[value])
            yield family

        calls = CounterMetricFamily(
            "cocoon_net_api_calls", "Calls of the cloud's API by the runs that are kept.", labels=["action", "code"]
        )
        for (action, code), count in sorted(now.api.items()):
            calls.add_metric([action, code or "ok"], count)
        yield calls

    @staticmethod
    def _histograms(now: Readings) -> Iterator[Metric]:
        from prometheus_client.core import HistogramMetricFamily

        replies = HistogramMetricFamily(
            "cocoon_net_dhcp_reply_seconds", "From taking a message to its reply, by the reply.", labels=["message"]
        )
        for message in ("offer", "ack"):
            if message in now.times:
                one = now.times[message]
                replies.add_metric([message], one.cumulated(), one.seconds)
        yield replies
        for name, help_text in (
            ("commit", "To make a batch of leases durable."),
            ("netlink", "To change the routes of a batch of leases."),
        ):
            family = HistogramMetricFamily(f"cocoon_net_dhcp_{name}_seconds", help_text)
            if name in now.times:
                family.add_metric([], now.times[name].cumulated(), now.times[name].seconds)
            yield family
