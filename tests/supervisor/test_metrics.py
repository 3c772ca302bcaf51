"""The metrics: their names, their shape, and that the docs know each of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from cocoon_net.dhcp.histogram import NOTHING, Times
from cocoon_net.supervisor.lifecycle import Phase
from cocoon_net.supervisor.metrics import Readings, exposition

READINGS = Readings(
    acknowledged=12,
    failed=3,
    pool_available=97,
    leases={"bound": 40, "free": 97, "cooling": 3},
    nics={"expected": 7, "present": 6},
    differences={"link": 1, "route": 0},
    phase="degraded",
    api={("CreateSubnet", ""): 4, ("CreateSubnet", "FlowLimitExceeded"): 2},
    decisions={"bound": 12, "exhausted": 2},
    malformed={"short": 1},
    guarded={"too_often": 9_000},
    troubles={"commit": 1},
    size=140,
    room={"asked": 0, "instance": 33, "subnet": 110},
    received={"discover": 9, "request": 7},
    sent={"offer": 8, "ack": 6, "nak": 1},
    findings={"link-down": 2, "clock": 0},
    audited=(datetime(2026, 1, 1, tzinfo=UTC), 0.25),
    mended={"bridge": 3},
    workflow={
        "workflow": "init",
        "error": "the quota is used up",
        "states": [
            {"state": "subnet", "status": "settled", "seconds": 1.5},
            {"state": "enis", "status": "parked", "seconds": 2.0},
        ],
    },
    times={"ack": Times((0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 1), 2.5), "commit": NOTHING},
)


DOCS = Path(__file__).parents[2] / "docs" / "monitoring.md"


def scrape(readings: Readings = READINGS) -> str:
    return exposition(lambda: readings)().decode()


def test_the_go_names_and_labels_are_kept_and_ours_stand_beside_them() -> None:
    lines = scrape().splitlines()
    for line in (
        "# TYPE cocoon_net_dhcp_lease_total counter",
        'cocoon_net_dhcp_lease_total{result="ok"} 12.0',
        'cocoon_net_dhcp_lease_total{result="failed"} 3.0',
        'cocoon_net_mended_total{kind="bridge"} 3.0',
        "# TYPE cocoon_net_dhcp_pool_available gauge",
        "cocoon_net_dhcp_pool_available 97.0",
        "# TYPE cocoon_net_dhcp_lease_active gauge",
        "cocoon_net_dhcp_lease_active 40.0",
        'cocoon_net_secondary_nics{state="expected"} 7.0',
        'cocoon_net_secondary_nics{state="present"} 6.0',
        'cocoon_net_dhcp_addresses{state="cooling"} 3.0',
        'cocoon_net_differences{kind="link"} 1.0',
        'cocoon_net_lifecycle{phase="degraded"} 1.0',
        "# TYPE cocoon_net_api_calls_total counter",
        'cocoon_net_api_calls_total{action="CreateSubnet",code="ok"} 4.0',
        'cocoon_net_api_calls_total{action="CreateSubnet",code="FlowLimitExceeded"} 2.0',
        'cocoon_net_dhcp_decisions_total{reason="bound"} 12.0',
        "cocoon_net_dhcp_exhausted_total 2.0",
        'cocoon_net_dhcp_malformed_total{kind="short"} 1.0',
        'cocoon_net_dhcp_guarded_total{reason="too_often"} 9000.0',
        'cocoon_net_dhcp_troubles_total{kind="commit"} 1.0',
        'cocoon_net_dhcp_reply_seconds_bucket{le="0.0005",message="ack"} 0.0',
        'cocoon_net_dhcp_reply_seconds_bucket{le="0.001",message="ack"} 3.0',
        'cocoon_net_dhcp_reply_seconds_bucket{le="+Inf",message="ack"} 4.0',
        'cocoon_net_dhcp_reply_seconds_sum{message="ack"} 2.5',
        "cocoon_net_dhcp_commit_seconds_count 0.0",
        "cocoon_net_dhcp_pool_size 140.0",
        'cocoon_net_dhcp_pool_room{limit="asked"} 0.0',
        'cocoon_net_dhcp_received_total{message="discover"} 9.0',
        'cocoon_net_dhcp_sent_total{message="nak"} 1.0',
        'cocoon_net_findings{kind="link-down"} 2.0',
        'cocoon_net_findings{kind="clock"} 0.0',
        "cocoon_net_audit_duration_seconds 0.25",
        "cocoon_net_audit_last_timestamp_seconds 1.7672256e+09",
        'cocoon_net_lifecycle{phase="serving"} 0.0',
        'cocoon_net_workflow_state{state="enis",status="parked",workflow="init"} 1.0',
        'cocoon_net_workflow_state_seconds{state="subnet",workflow="init"} 1.5',
        'cocoon_net_workflow_parked{workflow="init"} 1.0',
    ):
        assert line in lines, line


def test_each_scrape_is_a_new_reading() -> None:
    numbers = iter(range(1, 9))
    render = exposition(lambda: Readings(acknowledged=next(numbers)))
    assert b'result="ok"} 1.0' in render()
    assert b'result="ok"} 2.0' in render()


def test_prometheus_reads_it_and_every_metric_has_a_help_a_type_and_a_line_in_the_docs() -> None:
    docs = DOCS.read_text()
    families = list(text_string_to_metric_families(scrape()))
    ours = [family for family in families if family.name.startswith("cocoon_net_")]
    assert len(ours) > 25
    for family in ours:
        assert family.documentation and family.type != "unknown", family.name
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"`{name}" in docs, f"docs/monitoring.md does not tell of {name}"


def test_exactly_one_phase_is_the_services() -> None:
    for phase in Phase:
        text = scrape(replace(READINGS, phase=phase.value))
        assert text.count("cocoon_net_lifecycle{") == len(Phase)
        assert [
            line for line in text.splitlines() if line.startswith("cocoon_net_lifecycle{") and line.endswith(" 1.0")
        ] == [f'cocoon_net_lifecycle{{phase="{phase.value}"}} 1.0']


def test_before_the_first_audit_its_age_is_not_told() -> None:
    text = scrape(replace(READINGS, audited=None))
    assert "# TYPE cocoon_net_audit_age_seconds gauge" in text
    assert "\ncocoon_net_audit_age_seconds " not in text
