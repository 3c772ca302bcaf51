"""Random bits of a node's database are flipped, all over it; each outcome is one that is documented."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.slow]

SPEC = ("--platform", "volcengine", "--node-name", "cocoon-pool", "--subnet", "172.20.100.0/24", "--pool-size", "40")
FLIP = Path(__file__).with_name("flip.py")
SEEDS = range(int(os.environ.get("FLIPS", "24")))


@pytest.fixture(scope="module")
def told(scene: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What came of each seed, and the cloud before and after all of them."""
    scene.product("init", *SPEC)
    state = Path(scene.directory) / scene.name / "node1" / "state"
    ips = json.loads((state / "pool.json").read_text())["ips"][:12]
    leases = [
        {"mac": f"02:00:00:00:01:{n:02x}", "ip": ip, "expiry": "2099-01-01T00:00:00Z"} for n, ip in enumerate(ips)
    ]
    (state / "leases.json").write_text(json.dumps(leases))
    code = (
        "import sys, time; from pathlib import Path\n"
        "from cocoon_net import store, recovery; from cocoon_net.site import Site\n"
        "from cocoon_net.dhcp.book import Book\n"
        "site = Site(Path(sys.argv[1])); database = store.open_database(site.database)\n"
        "recovery.recall(site, database, Book(database).pool(), int(time.time())); database.close()\n"
        "store.back_up(site.database)"
    )
    scene.on_node(sys.executable, "-c", code, str(state))
    pristine = tmp_path_factory.mktemp("pristine") / "state"
    shutil.copytree(state, pristine)
    before = scene.admin.state()
    line = [sys.executable, str(FLIP), str(state), str(pristine), *map(str, SEEDS), "--", *SPEC]
    done = scene.on_node(*line)
    yield [json.loads(row) for row in done.stdout.splitlines()], before, scene.admin.state()
    shutil.rmtree(state)
    shutil.copytree(pristine, state)
    scene.product("teardown")


def test_no_flip_ends_in_a_traceback_and_each_ends_as_documented(told: Any) -> None:
    stories, _, _ = told
    assert len(stories) == len(SEEDS)
    outcomes: Counter[Any] = Counter()
    for story in stories:
        for command, codes in (("show", (0, 74)), ("status", (0, 74)), ("init", (0, 74, 78))):
            assert story[command]["code"] in codes, story
            assert "Traceback" not in story[command]["said"], story
        outcomes[story["show"]["code"], story["status"]["code"], story["init"]["code"], story["rebuilt"]] += 1
        assert story["rebuilt"] or not story["show"]["code"], "what cannot be shown is mended by the next init"
    print(outcomes)
    assert any(story["rebuilt"] for story in stories) and not all(story["rebuilt"] for story in stories)


def test_no_flip_gives_the_address_of_a_guest_to_another(told: Any) -> None:
    assert [(story["seed"], story["places"], story["twice"]) for story in told[0] if story["twice"]] == []


def test_no_flip_makes_or_deletes_anything_in_the_cloud(told: Any) -> None:
    _, before, after = told
    for kind in ("subnets", "interfaces", "groups"):
        assert after[kind] == before[kind]
