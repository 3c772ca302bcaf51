"""Prometheus metrics: the Go cocoon-net's names and labels, ours beside them, read at the moment of the scrape.

Nothing is counted twice: every number comes from whoever knows it, through ``Readings``. prometheus_client costs
14 MB, so it is imported only where the endpoint is on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cocoon_net import __version__
from cocoon_net.dhcp.histogram import Times
from cocoon_net.supervisor.lifecycle import Phase

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

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
    size: int = 0
    """Addresses of the pool."""
    room: Mapping[str, int] = field(default_factory=dict)
    """Limit -> addresses that it would let the pool have besides."""
    received: Mapping[str, int] = field(default_factory=dict)
    sent: Mapping[str, int] = field(default_factory=dict)
    """Message type -> messages."""
    findings: Mapping[str, int] = field(default_factory=dict)
    """Kind -> findings that are open."""
    audited: tuple[datetime, float] | None = None
    """When the last audit was, and the seconds that it took; None before the first."""
    workflow: Mapping[str, Any] = field(default_factory=dict)
    """The newest run, as ``view.workflow`` has it."""
    decisions: Mapping[str, int] = field(default_factory=dict)
    """Reason -> messages, timers and orders that were decided so."""
    malformed: Mapping[str, int] = field(default_factory=dict)
    """Kind -> frames and messages that could not be read."""
    guarded: Mapping[str, int] = field(default_factory=dict)
    """Reason of the guard -> messages that it refused."""
    troubles: Mapping[str, int] = field(default_factory=dict)
    """``commit``, ``route``: what could not be had, so that nothing was promised; ``send``; ``mute`` of a port."""
    api: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(action, code) -> calls of the cloud's API, whoever made them; no code is success."""
    mended: Mapping[str, int] = field(default_factory=dict)
    """Kind of finding -> what others changed in the kernel and was put right at once."""
    times: Mapping[str, Times] = field(default_factory=dict)
    """``offer``, ``ack``, ``commit``, ``netlink``."""


def exposition(read: Callable[[], Readings]) -> Callable[[], bytes]:
    """Return what renders a new reading in the text format of Prometheus (version 0.0.4)."""
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

    registry = CollectorRegistry()
    registry.register(_Collector(read))
    ProcessCollector(registry=registry)
    return lambda: generate_latest(registry)


def _one_of(names: Iterable[str], name: str) -> dict[str, int]:
    return {str(each): int(each == name) for each in names}


def _labelled(
    kind: type[GaugeMetricFamily | CounterMetricFamily], rows: Iterable[tuple[str, str, str, Mapping[str, int]]]
) -> Iterator[Metric]:
    """Make a family of each row: name, help, its one label, the numbers by that label."""
    for name, help_text, label, values in rows:
        family = kind(f"cocoon_net_{name}", help_text, labels=[label])
        for value in sorted(values):
            family.add_metric([value], values[value])
        yield family


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
        yield from self._workflow(now)
        yield from self._audit(now)
        yield GaugeMetricFamily("cocoon_net_dhcp_pool_size", "Addresses of the pool.", now.size)
        build = GaugeMetricFamily("cocoon_net_build_info", "The version that serves.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        rows = (
            ("secondary_nics", "Secondary links of the pool, expected and present.", "state", now.nics),
            ("dhcp_addresses", "Addresses of the pool, by the state of their lease.", "state", now.leases),
            ("differences", "Differences between kernel and database, last confirmed.", "kind", now.differences),
            ("findings", "Findings that are open, of audits and of what guests do.", "kind", now.findings),
            ("lifecycle", "Where the service stands: 1 at its phase.", "phase", _one_of(Phase, now.phase)),
            ("dhcp_pool_room", "Addresses that each limit would let the pool have besides.", "limit", now.room),
        )
        yield from _labelled(GaugeMetricFamily, rows)

    @staticmethod
    def _counters(now: Readings) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily

        exhausted = CounterMetricFamily("cocoon_net_dhcp_exhausted", "DISCOVERs for which no address was free.")
        exhausted.add_metric([], now.decisions.get("exhausted", 0))
        yield exhausted
        rows = (
            ("dhcp_decisions", "What was decided, by its reason.", "reason", now.decisions),
            ("dhcp_received", "Messages that could be read, by type.", "message", now.received),
            ("dhcp_sent", "Replies, by type.", "message", now.sent),
            ("dhcp_malformed", "Frames that are no DHCP message, by what was wrong first.", "kind", now.malformed),
            ("dhcp_guarded", "Messages that a bridge port may not have answered, by reason.", "reason", now.guarded),
            ("dhcp_troubles", "Batches not written, routes and replies refused, ports muted.", "kind", now.troubles),
            ("mended", "What others changed in the kernel and was put right at once.", "kind", now.mended),
        )
        yield from _labelled(CounterMetricFamily, rows)
        calls = CounterMetricFamily(
            "cocoon_net_api_calls",
            "Calls of the cloud's API by runs, the daemon's audits and gc.",
            labels=["action", "code"],
        )
        for (action, code), count in sorted(now.api.items()):
            calls.add_metric([action, code or "ok"], count)
        yield calls

    @staticmethod
    def _workflow(now: Readings) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        run = now.workflow
        labels = [run.get("workflow", "")]
        states = GaugeMetricFamily(
            "cocoon_net_workflow_state",
            "The states of the newest run: 1 at the status of each.",
            labels=["workflow", "state", "status"],
        )
        seconds = GaugeMetricFamily(
            "cocoon_net_workflow_state_seconds", "Time spent acting in each state.", labels=["workflow", "state"]
        )
        parked = GaugeMetricFamily(
            "cocoon_net_workflow_parked", "1 while the newest run is parked with an error.", labels=["workflow"]
        )
        for one in run.get("states", ()):
            states.add_metric([*labels, one["state"], one["status"]], 1)
            seconds.add_metric([*labels, one["state"]], one["seconds"])
        if run:
            parked.add_metric(labels, bool(run["error"]))
        yield from (states, seconds, parked)

    @staticmethod
    def _audit(now: Readings) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        at = GaugeMetricFamily("cocoon_net_audit_last_timestamp_seconds", "When the last audit was.")
        age = GaugeMetricFamily("cocoon_net_audit_age_seconds", "How long ago that was.")
        took = GaugeMetricFamily("cocoon_net_audit_duration_seconds", "How long the last audit took.")
        if now.audited is not None:
            ended, seconds = now.audited
            at.add_metric([], ended.timestamp())
            age.add_metric([], max(0.0, time.time() - ended.timestamp()))
            took.add_metric([], seconds)
        yield from (at, age, took)

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
