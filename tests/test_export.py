"""One document with all of a run: whatever got in by mistake, no secret gets out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.clock import ManualClock
from cocoon_net.engine.journal import Journal
from cocoon_net.engine.model import Change, Verb
from cocoon_net.engine.workflow import load
from cocoon_net.export import export, redact, secrets_of
from cocoon_net.records import Sysctl
from cocoon_net.spec import parse
from cocoon_net.steps import STEPS
from cocoon_net.store import open_memory

SECRET = "c2VjcmV0LXNlY3JldA=="


@pytest.mark.parametrize(
    "name", ["secret_access_key", "AccessKeyId", "session-token", "VOLCENGINE_SECRET_KEY", "password", "Authorization"]
)
def test_what_is_named_like_a_secret_is_left_out(name: str) -> None:
    assert redact({"a": [{name: "x"}]}, frozenset()) == {"a": [{name: "***"}]}


def test_a_secret_is_left_out_of_names_too_and_as_a_whole() -> None:
    assert redact({f"a {SECRET}": 1}, frozenset({SECRET})) == {"a ***": 1}
    assert redact(f"{SECRET}longer", frozenset({SECRET, f"{SECRET}longer"})) == "***", "no rest of it is left"


def test_what_is_no_secret_stays() -> None:
    data = {"token": "wish", "credentials_file": "/etc/keys.json", "key": "eni-1", "n": [1, None, True]}
    assert redact(data, frozenset()) == data


@pytest.mark.parametrize("layout", ["flat", "profiles"])
def test_the_values_are_found_in_the_environment_and_in_the_credentials_file(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "config.json"
    flat = {"access_key_id": "AKLT-of-the-file", "secret_access_key": SECRET, "region": "cn-hongkong"}
    nested = {"profiles": {"default": {"access-key": "AKLT-of-the-file", "secret-key": SECRET}}}
    path.write_text(json.dumps(flat if layout == "flat" else nested))
    found = secrets_of({"VOLCENGINE_SECRET_KEY": "of-the-environment", "HOME": "/"}, str(path))
    assert found == {"AKLT-of-the-file", SECRET, "of-the-environment"}
    assert secrets_of({"HOME": str(tmp_path)}, "") == frozenset()
    assert secrets_of({"PASSWORD": "eni-1"}, str(tmp_path)) == frozenset(), "as short as a word: it would be everywhere"


def test_a_secret_that_got_into_a_message_does_not_get_out() -> None:
    spec = parse(platform="volcengine", node_name="n", subnet="172.20.100.0/24", dns=["1.1.1.1"], pool_size=4)
    journal, clock = Journal(open_memory(), "alice, pid 7"), ManualClock()
    run = journal.start(load("init", STEPS), spec, None, version="0", by="alice, pid 7", now=clock.now())
    change = Change("sysctl", "k", Verb.CREATE, Sysctl("k", "1"), None)
    operation = journal.intend(run, {"t": change}, clock.now())["t"]
    journal.conclude(operation, "failed", clock.now(), error=RuntimeError(f"signed with {SECRET}"))
    told: dict[str, Any] = export(run, journal, frozenset({SECRET}))
    text = json.dumps(told)
    assert SECRET not in text
    assert told["operations"][0]["message"] == "signed with ***"
    assert told["operations"][0]["want"]["name"] == "k"
    assert told["ledger"][0]["key"] == "k"
    assert [entry["what"] for entry in told["history"]] == ["started"]
    assert set(told) >= {"run", "spec", "plan", "visits", "operations", "calls", "ledger", "history"}
