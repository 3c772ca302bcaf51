"""The alert rules and the dashboard: every metric that they name is one of ours, and promtool agrees with the rules."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cocoon_net.dhcp.histogram import NOTHING
from cocoon_net.supervisor.metrics import Readings, exposition

FOLDER = Path(__file__).parent.parent / "docs" / "monitoring"


def exposed() -> set[str]:
    """Return the names of the samples of ours."""
    names = set()
    readings = Readings(times=dict.fromkeys(("offer", "ack", "commit", "netlink"), NOTHING))
    for family in text_string_to_metric_families(exposition(lambda: readings)().decode()):
        names.add(f"{family.name}_total" if family.type == "counter" else family.name)
        if family.type == "histogram":
            names |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
    return names


def named(text: str) -> set[str]:
    return set(re.findall(r"\bcocoon_net_\w+", text))


def test_every_metric_of_the_alerts_is_ours() -> None:
    text = (FOLDER / "alerts.yml").read_text()
    assert len(named(text)) > 8
    assert named(text) <= exposed()


def test_every_metric_of_the_dashboard_is_ours_and_each_of_ours_is_shown() -> None:
    text = (FOLDER / "dashboard.json").read_text()
    panels = json.loads(text)["panels"]
    assert named(text) <= exposed()
    shown = named(json.dumps([target["expr"] for panel in panels for target in panel["targets"]]))
    bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    ours = {
        name for name in exposed() if name.startswith("cocoon_net_") and not re.search(r"_(bucket|sum|count)$", name)
    }
    assert ours - bases == set()
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing: apt-get install prometheus")
@pytest.mark.parametrize(("what", "file"), [("check", "alerts.yml"), ("test", "alerts-test.yml")])
def test_promtool_agrees(what: str, file: str) -> None:
    done = subprocess.run(["promtool", what, "rules", FOLDER / file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
