"""The crash matrix, as a spread sample; and that it notices what it is there to notice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.cli.main import run as product
from cocoon_net.cloud.volcengine.client import Client
from cocoon_net.engine.journal import Journal
from cocoon_net.lab import matrix
from cocoon_net.lab.case import CHAPTERS, Case, Cycle, play
from cocoon_net.lab.death import Moment
from cocoon_net.lab.stage import STORIES, Stage, open_stage

pytestmark = [pytest.mark.root, pytest.mark.slow]

SAMPLE = int(os.environ.get("COCOON_NET_MATRIX_SAMPLE", "48"))


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.mark.timeout(300)
def test_killed_at_moments_spread_over_all_the_resumed_world_is_that_of_an_undisturbed_run() -> None:
    tallies = matrix.run(product, chapters=CHAPTERS, sample=SAMPLE)
    assert all(tally.points > 100 for tally in tallies.values()), "a moment is every commit, call and change"
    verdicts = [verdict for tally in tallies.values() for verdict in tally.verdicts]
    assert len(verdicts) == SAMPLE
    assert {str(v.case): v.differences for v in verdicts if not v.equal} == {}
    assert [str(v.case) for v in verdicts if v.leaked != (0, 0)] == []
    assert sum(verdict.reached for verdict in verdicts) >= 0.9 * SAMPLE


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = open_stage(f"n{os.getpid() % 100000}", tmp_path, STORIES["init"], product, {})
    try:
        stage.build()
        yield stage
    finally:
        stage.clear()


def test_it_notices_an_interface_that_nobody_can_find_again(stage: Stage) -> None:
    """Neither marked nor asked for by a token, it is made a second time, and the first one stays for ever."""

    def unmarked(self: Client, action: str, params: Mapping[str, object], **options: Any) -> Any:
        kept = {name: value for name, value in params.items() if name != "Tags"}
        return call(self, action, kept, **{**options, "token": ""})

    call = Client.call
    lost = moment_of(stage, "call", "after", "CreateNetworkInterface")
    stage.product = broken(Client, "call", unmarked)
    verdict = next(play(stage, Cycle("init", Case("init", lost), None)))
    assert verdict.reached
    assert not verdict.equal
    assert verdict.leaked[0] >= 1


def test_it_notices_a_setting_whose_old_value_was_not_kept(stage: Stage) -> None:
    """Its old value is entered before it is changed; a run that died in between would not know it any more."""
    changed = moment_of(stage, "act", "before", "rename to 30-cocoon-dhcp.conflist")
    stage.product = broken(Journal, "_foresee", lambda *arguments, **options: None)
    provisioned, empty = play(
        stage, Cycle("init", Case("init", changed), Case("teardown", Moment("write", 3, "after")))
    )
    assert provisioned.reached and empty.reached
    assert any("rp_filter" in line for line in empty.differences)


def moment_of(stage: Stage, kind: str, side: str, what: str) -> Moment:
    """Return the first moment of an undisturbed init at which this is done."""
    stage.forget()
    passed = [line.split(maxsplit=1) for line in stage.play("init").passed]
    stage.play("teardown")
    moments = [Moment.parse(text) for text, done in passed if done.startswith(what)]
    return next(moment for moment in moments if (moment.kind, moment.side) == (kind, side))


def broken(kind: type, name: str, replacement: Any) -> Callable[[list[str]], int]:
    """Return the product with something taken out of it, in the process that it runs in; a resumed run is whole."""

    def run(words: list[str]) -> int:
        if "--resume" not in words:
            setattr(kind, name, replacement)
        return product(words)

    return run
