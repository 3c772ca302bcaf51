"""The knobs: how they are written, and what each of them does to a client."""

from __future__ import annotations

import contextlib
import time

import pytest
from urllib3.exceptions import HTTPError, ReadTimeoutError
from volcenginesdkcore.rest import ApiException

from cocoon_net.errors import SpecError
from cocoon_net.lab.cloud import Faults
from cocoon_net.lab.cloud.faults import knobs, parse_settings

BROKEN = (ApiException, AttributeError, HTTPError)
"""What the SDK raises: for a refusal, for a page that is not JSON, for a broken connection."""


def test_wrong_settings_are_all_listed_at_once():
    with pytest.raises(SpecError) as caught:
        Faults().set({"api-latency": "fast", "error-rate": "2", "nonsense": "1", "fail.CreateSubnet": "Code"})
    assert len(caught.value.problems) == 4
    with pytest.raises(SpecError, match="wanted KEY=VALUE"):
        parse_settings(["api-latency"])


def test_settings_survive_the_round_trip():
    settings = {
        "api-latency": "50ms",
        "describe-lag": "3",
        "lose": "CreateSubnet,AttachNetworkInterface*2",
        "empty-lists": "null",
        "metadata-trees": "hyphen",
        "instance-quota": "4",
        "fail.CreateSubnet": "InvalidVpc.InvalidStatus@400,2",
        "fail.*": "InternalError@500",
    }
    faults = Faults().set(settings)
    assert faults.api_latency == 0.05
    assert Faults().set(faults.settings()) == faults
    assert set(knobs()) < set(faults.settings())


def test_an_empty_setting_is_the_default():
    changed = Faults().set({"api-latency": "1s", "fail.CreateSubnet": "A@400"})
    assert changed != Faults()
    assert changed.set({"api-latency": "", "fail.CreateSubnet": ""}) == Faults()


def test_api_latency_delays_each_call(bench):
    bench.fault(**{"api-latency": "100ms"})
    began = time.monotonic()
    bench.call("DescribeVpcs")
    assert time.monotonic() - began >= 0.1
    assert bench.admin.calls()[-1]["seconds"] >= 0.1


def test_a_refusal_is_given_as_often_as_asked(bench):
    bench.fault(**{"fail.CreateSubnet": "InvalidVpc.InvalidStatus@400,2"})
    arguments = {"VpcId": bench.vpc, "CidrBlock": "172.20.100.0/24", "ZoneId": "cn-hongkong-a"}
    for _ in range(2):
        assert bench.call.refusal("CreateSubnet", **arguments) == (400, "InvalidVpc.InvalidStatus")
    assert bench.call("CreateSubnet", **arguments)["SubnetId"]
    bench.fault(**{"fail.*": "AccountFlowLimitExceeded@200"})
    status, reason = bench.call.refusal("DescribeVpcs")
    assert status == 200
    assert "AccountFlowLimitExceeded" in reason


def test_the_throttle_lets_a_burst_through_and_then_refuses(bench):
    bench.fault(throttle="5")
    answers = []
    for _ in range(8):
        try:
            bench.call("DescribeSubnets")
            answers.append(200)
        except ApiException as error:
            answers.append(error.status)
    assert answers[:5] == [200] * 5
    assert 429 in answers[5:]
    assert bench.call("DescribeSecurityGroups")  # each action has a limit of its own
    time.sleep(0.3)
    assert bench.call("DescribeSubnets")


def test_a_throttle_of_the_account_counts_all_actions_together(bench):
    bench.fault(throttle_all="4")
    answers = []
    for action in ("DescribeSubnets", "DescribeVpcs", "DescribeSecurityGroups") * 3:
        try:
            bench.call(action)
            answers.append("")
        except ApiException as error:
            answers.append(f"{error.status} {'AccountFlowLimitExceeded' in error.body}")
    assert answers[:4] == [""] * 4
    assert "429 True" in answers[4:]


def test_a_lost_reply_is_lost_after_the_effect(bench):
    bench.fault(lose="CreateSubnet")
    with pytest.raises(HTTPError):
        bench.subnet(ClientToken="once")
    (row,) = [row for row in bench.admin.state()["subnets"] if row["cidr"] == "172.20.100.0/24"]
    assert bench.subnet(ClientToken="once") == row["id"]
    assert [call["outcome"] for call in bench.admin.calls() if call["action"] == "CreateSubnet"] == ["lost", "answered"]
    assert bench.admin.counters()["CreateSubnet"]["lost"] == 1


def test_a_lost_reply_can_hang_until_the_client_gives_up(bench, sdk):
    bench.fault(**{"lose-reply": "1", "lose-hang": "30s"})
    impatient = sdk(bench.cloud.endpoint, *_keys(bench), read_timeout=0.2)
    with pytest.raises(ReadTimeoutError):
        impatient("DescribeVpcs")


def test_errors_by_chance_come_in_many_ways_some_after_the_effect(start, sdk):
    bench = start(chance=7)
    subnet = bench.subnet()
    bench.fault(**{"error-rate": "0.7"})
    seen: set[str] = set()
    answered = 0
    for number in range(120):
        try:
            bench.interface(subnet, NetworkInterfaceName=f"n{number}")
            answered += 1
        except BROKEN as error:
            seen.add(f"{type(error).__name__} {getattr(error, 'status', '')}")
    assert {f"ApiException {status}" for status in (200, 400, 429, 500, 502, 503, 504)} <= seen
    assert "AttributeError " in seen  # what the SDK makes of a page that is not JSON
    assert "ProtocolError " in seen
    made = [row for row in bench.admin.state()["interfaces"] if row["kind"] == "secondary"]
    outcomes = [call["outcome"] for call in bench.admin.calls() if call["action"] == "CreateNetworkInterface"]
    assert len(made) > answered
    assert {"answered", "spoiled", "garbled", "reset", "lost"} <= set(outcomes)
    codes = {call["code"] for call in bench.admin.calls() if call["action"] == "CreateNetworkInterface"}
    assert "InvalidEni.InvalidStatus" in codes


def test_the_same_chance_gives_the_same_errors(start):
    def codes(bench) -> list[str]:
        bench.fault(**{"error-rate": "0.5"})
        for _ in range(20):
            with contextlib.suppress(*BROKEN):
                bench.call("GetCallerIdentity", "sts")
        return [call["code"] for call in bench.admin.calls() if call["action"] == "GetCallerIdentity"]

    first, second = codes(start(chance=3)), codes(start(chance=3))
    assert first == second
    assert len(set(first)) > 2


def test_describe_lags_behind_as_many_reads_as_asked(bench):
    subnet = bench.subnet()
    bench.fault(**{"describe-lag": "2"})
    key = bench.interface(subnet)
    for _ in range(2):
        assert bench.call.refusal("DescribeNetworkInterfaceAttributes", NetworkInterfaceId=key) == (
            404,
            "InvalidEniId.NotFound",
        )
    assert bench.status(key) == "Available"
    bench.fault(**{"describe-lag": "1"})
    bench.call("ModifyNetworkInterfaceAttributes", NetworkInterfaceId=key, NetworkInterfaceName="new")
    bench.fault(**{"describe-lag": ""})
    assert bench.show(key)["NetworkInterfaceName"] == key
    assert bench.show(key)["NetworkInterfaceName"] == "new"


def test_a_failed_attach_falls_back_to_available(bench):
    subnet = bench.subnet()
    bench.fault(**{"attach-fail": "1"})
    key = bench.attached(subnet)
    assert bench.status(key) == "Available"
    bench.call("AttachNetworkInterface", NetworkInterfaceId=key, InstanceId=bench.node1)
    assert bench.status(key) == "InUse"


def test_the_nth_attach_can_get_stuck(bench):
    subnet = bench.subnet()
    bench.fault(**{"attach-stuck": "2"})
    keys = [bench.attached(subnet) for _ in range(3)]
    assert [bench.status(key) for key in keys] == ["InUse", "Attaching", "InUse"]
    refused = bench.call.refusal("DeleteNetworkInterface", NetworkInterfaceId=keys[1])
    assert refused == (400, "InvalidEni.InvalidStatus")
    bench.fault(**{"attach-stuck": ""})
    assert bench.status(keys[1]) == "InUse", "and goes on once the knob is turned back"


def test_lists_ids_and_answers_can_take_the_other_form(bench):
    subnet = bench.subnet()
    none = {"NetworkInterfaceIds": ["eni-none"]}
    assert bench.call("DescribeNetworkInterfaces", **none)["NetworkInterfaceSets"] == []
    bench.fault(**{"empty-lists": "null"})
    assert bench.call("DescribeNetworkInterfaces", **none)["NetworkInterfaceSets"] is None
    bench.fault(**{"empty-lists": "missing", "async-task-id": "off", "assign-returns": "all"})
    assert "NetworkInterfaceSets" not in bench.call("DescribeNetworkInterfaces", **none)
    key = bench.interface(subnet)
    bench.call("AssignPrivateIpAddresses", NetworkInterfaceId=key, SecondaryPrivateIpAddressCount=2)
    assigned = bench.call("AssignPrivateIpAddresses", NetworkInterfaceId=key, SecondaryPrivateIpAddressCount=1)
    assert len(assigned["PrivateIpSet"]) == 3
    assert "AsyncTaskId" not in assigned


def _keys(bench) -> tuple[str, str]:
    return bench.cloud.access_key, bench.cloud.secret_key
