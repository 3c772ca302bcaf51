"""The budget of API calls, on a clock that a test moves; nothing here waits."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cocoon_net.clock import ManualClock
from cocoon_net.cloud.budget import BURST, RATE, SLOWEST, Bucket, Budget
from cocoon_net.cloud.volcengine.client import Client
from cocoon_net.cloud.volcengine.credentials import Credentials, CredentialSource
from cocoon_net.cloud.volcengine.metadata import Metadata
from cocoon_net.errors import CloudNotAsked, CloudThrottled, SpecError
from cocoon_net.stop import Stop

REFUSED = {"ResponseMetadata": {"RequestId": "r", "Error": {"Code": "AccountFlowLimitExceeded", "Message": "Slow."}}}
GOOD = {"ResponseMetadata": {}, "Result": {"RequestId": "r"}}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_an_init_passes_at_once_and_a_flood_at_the_rate(clock: ManualClock) -> None:
    budget = Budget(clock)
    for _ in range(int(BURST)):
        budget.admit()
    assert clock.slept == []
    for _ in range(50):
        budget.admit()
    assert clock.monotonic() == pytest.approx(50 / RATE, abs=0.2)


def test_a_refusal_slows_the_whole_process_and_answers_speed_it_up_again(clock: ManualClock) -> None:
    budget = Budget(clock, rate=10, burst=40, rng=random.Random(1))
    budget.answered(budget.admit(), throttled=True)
    began = clock.monotonic()
    for _ in range(3):  # of any other action, from any thread
        budget.admit()
    assert clock.monotonic() - began >= 2 / 5, "half the rate, and the burst is gone"
    for _ in range(60):
        budget.answered(budget.admit(), throttled=False)
    began = clock.monotonic()
    for _ in range(20):
        budget.admit()
    assert clock.monotonic() - began == pytest.approx(20 / 10, abs=0.2), "the whole rate again"


@pytest.mark.parametrize("rate", [2.0, RATE, 200.0])
def test_a_fast_budget_recovers_as_fast_as_a_slow_one(rate: float) -> None:
    bucket = Bucket(rate, 40, random.Random(1))
    bucket.throttled(0.0, 0.5)
    for _ in range(49):
        bucket.answered()
    assert bucket.rate < rate
    for _ in range(2):
        bucket.answered()
    assert bucket.rate == rate


def test_refusals_of_one_volley_count_once_and_the_pause_is_anyone_s_guess() -> None:
    resumes = set()
    for seed in range(20):
        bucket = Bucket(10, 40, random.Random(seed))
        for _ in range(7):
            assert bucket.take(100.0) == 0
        for moment in (100.1, 100.2, 100.3):
            bucket.throttled(100.0, moment)
        assert bucket.rate == 5
        resumes.add(round(bucket.take(100.1), 3))
    assert len(resumes) > 15, "nodes that were refused together do not come back together"
    assert max(resumes) <= 1 / 5 + 1 / 5


def test_who_was_refused_makes_no_full_burst_after_a_rest() -> None:
    bucket = Bucket(10, 40, random.Random(1))
    bucket.throttled(0.0, 1.0)
    assert bucket.rate == 5
    assert next(n for n in range(100) if bucket.take(1000.0)) == 20, "half the rate, half the burst"


def test_no_number_of_refusals_stops_a_process() -> None:
    bucket = Bucket(10, 40, random.Random(1))
    for now in range(1000):
        bucket.throttled(now, now + 0.5)
    assert bucket.rate == SLOWEST
    assert bucket.take(1000.0) <= 1 / SLOWEST


def test_asked_to_stop_nobody_waits_for_his_turn(clock: ManualClock) -> None:
    stop = Stop()
    budget = Budget(clock, rate=0.5, burst=1, stop=stop)
    budget.admit()
    stop.asked = "SIGTERM"
    with pytest.raises(CloudNotAsked, match="not asked: SIGTERM"):
        budget.admit()
    assert clock.monotonic() < 1, "half a minute at one call in two seconds"


def test_threads_share_it(clock: ManualClock) -> None:
    budget = Budget(clock, rate=100, burst=1)
    threads = [threading.Thread(target=lambda: [budget.admit() for _ in range(25)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert clock.monotonic() >= 99 / 100 - 0.01


@pytest.mark.parametrize("status", [429, 400, 200])
def test_throttling_is_known_however_it_is_said_and_is_never_repeated_here(
    script: Any, answer: Callable[..., Any], clock: ManualClock, status: int
) -> None:
    source = CredentialSource({}, Metadata("http://127.0.0.1:1"), clock, explicit=Credentials("a", "s", "", "r"))
    client = Client(source, budget=Budget(clock, rate=10, burst=5, rng=random.Random(3)), endpoint=script.url)
    script.say(answer(status, json.dumps(REFUSED)), answer(body=json.dumps(GOOD)))
    with pytest.raises(CloudThrottled) as caught:
        client.call("DescribeVpcs", {})
    assert caught.value.retryable and caught.value.exit_code == 75
    assert len(script.requests) == 1
    client.call("DescribeSubnets", {})
    assert clock.slept, "another action waits, too"
    counted = {("DescribeVpcs", "AccountFlowLimitExceeded"): 1, ("DescribeSubnets", ""): 1}
    assert client.calls() == counted


def test_another_failure_slows_nobody(script: Any, answer: Callable[..., Any], clock: ManualClock) -> None:
    source = CredentialSource({}, Metadata("http://127.0.0.1:1"), clock, explicit=Credentials("a", "s", "", "r"))
    client = Client(source, budget=Budget(clock), endpoint=script.url)
    script.say(answer(500, "{}"), answer(body=json.dumps(GOOD)))
    with pytest.raises(Exception, match="DescribeVpcs"):
        client.call("DescribeVpcs", {})
    client.call("DescribeVpcs", {})
    assert clock.slept == []


def test_the_environment_sets_it_and_nonsense_is_named(clock: ManualClock) -> None:
    budget = Budget.from_environment({"COCOON_NET_API_RATE": "2", "COCOON_NET_API_BURST": "1"}, clock)
    for _ in range(3):
        budget.admit()
    assert clock.monotonic() == pytest.approx(1.0, abs=0.01)
    with pytest.raises(SpecError) as caught:
        Budget.from_environment({"COCOON_NET_API_RATE": "fast", "COCOON_NET_API_BURST": "-1"}, clock)
    assert len(caught.value.problems) == 2
