"""A small fleet: real processes against one throttled API, a third of them killed once; all of them converge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cocoon_net.errors import NodeError
from cocoon_net.lab.fleet import Report, provision


@pytest.mark.root
@pytest.mark.slow
def test_ten_nodes_at_one_moment_a_third_of_them_killed_converge_and_leak_nothing() -> None:
    line = [sys.executable, "-m", "cocoon_net.lab.fleet", "--nodes", "10", "--rate", "60", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["killed"] >= 1
    assert report["throttled"] > 0, "the API was asked for more than it gave"
    assert (report["unfinished"], report["leaked"], report["duplicates"], report["missing"]) == (0, 0, 0, 0)
    assert report["calls"] <= 1.3 * report["needed"], "few calls are made in vain"


@pytest.mark.parametrize("fault", ["unfinished", "leaked", "duplicates", "missing"])
def test_anything_amiss_is_no_good_fleet(fault: str) -> None:
    good = Report(2, 20, 1, 5, 0, 0, 4.0, 40, 3, 40, 0, 0, 0, 0)
    assert good.good
    bad = replace(good, **{fault: 1})  # type: ignore[arg-type]
    assert not bad.good
    assert f"{fault} 1" in "\n".join(bad.lines())


def test_a_fleet_that_the_vpc_has_no_room_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="not 1000"):
        provision(tmp_path, nodes=1000, rate=20)
