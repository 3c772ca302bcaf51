from __future__ import annotations

import io
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import redirect_stderr

import pytest
from loguru import logger

from cocoon_net.engine.model import Call, Later, Via
from cocoon_net.errors import (
    CloudError,
    CloudGone,
    CloudQuota,
    CloudThrottled,
    CloudTransient,
    CocoonError,
    Refused,
    Unsupported,
)

OK = {"ResponseMetadata": {"RequestId": "req-0"}, "Result": {"Vpcs": [], "RequestId": "req-0"}}

REFUSALS = [
    # code, status, error, a word of its hint
    ("InvalidAccessKey", 401, Refused, "access key"),
    ("SignatureDoesNotMatch", 401, Refused, "secret key"),
    ("InvalidSecretToken", 401, Refused, "token"),
    ("MissingAuthenticationToken", 401, Refused, "credentials"),
    ("InvalidCredential", 400, Refused, "credentials"),
    ("LackPolicy", 403, Refused, "policy"),
    ("AccessDenied", 403, Refused, "VPCFullAccess"),
    ("InvalidTimestamp", 400, Refused, "clock"),
    ("InvalidTimestamp", 403, Refused, "clock"),
    ("SomethingNew", 403, Refused, "policies"),
    ("Forbidden", 403, CloudError, "another service"),
    ("InsufficientIpInSubnet", 400, CloudQuota, "orphaned"),
    ("InsufficientIpInSubnet", 404, CloudQuota, "orphaned"),
    ("QuotaExceeded.Eni", 400, CloudQuota, "quota"),
    ("LimitExceeded.EnisPerInstance", 400, CloudQuota, "detach"),
    ("LimitExceeded.PrivateIpsPerEni", 400, CloudQuota, "--pool-size"),
    ("InvalidEniId.NotFound", 404, CloudGone, ""),
    ("InvalidSubnet.NotFound", 400, CloudGone, ""),
    ("InvalidEni.InvalidStatus", 400, CloudTransient, ""),
    ("InvalidVpc.InvalidStatus", 400, CloudTransient, ""),
    ("InvalidSubnet.InUse", 400, CloudTransient, ""),
    ("InvalidOperation.Conflict", 409, CloudTransient, ""),
    ("FlowLimitExceeded", 429, CloudThrottled, ""),
    ("AccountFlowLimitExceeded", 400, CloudThrottled, "other clients"),
    ("AccountFlowLimitExceeded", 200, CloudThrottled, "other clients"),
    ("InternalError", 500, CloudTransient, ""),
    ("InternalServiceError", 502, CloudTransient, ""),
    ("ServiceUnavailableTemp", 503, CloudTransient, ""),
    ("InternalServiceTimeout", 504, CloudTransient, ""),
    ("ServiceNotFound", 404, CloudError, "VOLCENGINE_ENDPOINT"),
    ("InvalidActionOrVersion", 404, CloudError, "VOLCENGINE_ENDPOINT"),
    ("IdempotentParameterMismatch", 400, CloudError, "--abandon"),
    ("InvalidSecurityRule.Conflict", 409, CloudError, ""),
    ("InvalidParameter", 400, CloudError, ""),
    ("InvalidEni.ZoneMismatch", 400, CloudError, "zone"),
]


@pytest.mark.parametrize(("code", "status", "kind", "word"), REFUSALS)
def test_each_refusal_becomes_our_error_and_is_not_repeated(script, client_at, code, status, kind, word):
    script.refuse(code, status)
    with pytest.raises(CocoonError) as caught:
        client_at(script.url).call("DescribeVpcs", {})
    error = caught.value
    assert type(error) is kind
    assert error.retryable is issubclass(kind, CloudTransient)
    assert word in error.hint
    assert code in error.message and "DescribeVpcs" in error.message
    if isinstance(error, CloudError):
        assert error.code == code
    if status != 200:  # the SDK drops the id of a refusal that came with 200
        assert "req-1" in error.message
        assert not isinstance(error, CloudError) or error.request_id == "req-1"
    assert len(script.requests) == 1


@pytest.mark.parametrize("body", ["<html>login</html>", "[1]", '"text"', "null", "7", "", "\xff\xfe", '{"a": 1}'])
def test_an_answer_that_is_not_the_apis_is_passing_trouble(script, client_at, answer, body):
    script.say(answer(200, body))
    with pytest.raises(CloudTransient, match="not one of the API") as caught:
        client_at(script.url).call("DescribeVpcs", {})
    assert caught.value.code == "Unreadable"
    assert len(script.requests) == 1


def test_an_answer_without_a_result_is_unreadable_too(script, client_at):
    script.say({"ResponseMetadata": {"RequestId": "r"}})
    with pytest.raises(CloudTransient, match="not one of the API"):
        client_at(script.url).call("AttachNetworkInterface", {})
    script.say({"ResponseMetadata": {"RequestId": "r"}, "Result": ["x"]})
    with pytest.raises(CloudTransient, match="not one of the API"):
        client_at(script.url).call("AttachNetworkInterface", {})


@pytest.mark.parametrize(
    ("status", "kind"), [(502, CloudTransient), (403, Refused), (404, CloudError), (418, CloudError)]
)
def test_a_page_of_a_proxy_is_judged_by_its_status(script, client_at, answer, status, kind):
    script.say(answer(status, "<html>sorry</html>"))
    with pytest.raises(kind) as caught:
        client_at(script.url).call("DescribeVpcs", {})
    assert type(caught.value) is kind
    assert f"HTTP {status}" in caught.value.message
    assert "html" not in caught.value.message
    assert len(script.requests) == 1


def test_nobody_listens(client_at):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused
        with pytest.raises(CloudTransient, match="Connection refused") as caught:
            client_at(f"http://127.0.0.1:{taken.getsockname()[1]}").call("DescribeVpcs", {})
    assert "reachable" in caught.value.hint


def test_a_slow_answer_ends_after_the_read_timeout_and_is_asked_for_once(script, client_at, answer):
    script.say(answer(hang=2.0))
    began = time.monotonic()
    with pytest.raises(CloudTransient, match=r"did not answer within 0.3 s; it may have been carried out"):
        client_at(script.url, read=0.3).call("CreateSubnet", {})
    assert time.monotonic() - began < 1.5
    assert len(script.requests) == 1


def test_a_connection_that_breaks_is_asked_for_once(script, client_at, answer):
    script.say(answer(cut=True))
    with pytest.raises(CloudTransient, match="no answer"):
        client_at(script.url).call("CreateSubnet", {})
    assert len(script.requests) == 1


def test_a_malformed_endpoint_is_named(client_at):
    with pytest.raises(CloudError) as caught:
        client_at("http://127.0.0.1:notaport").call("DescribeVpcs", {})
    assert "VOLCENGINE_ENDPOINT" in caught.value.hint
    assert not caught.value.retryable


def test_tls_with_a_server_that_speaks_none_is_passing_trouble(script, client_at):
    script.say(OK)
    with pytest.raises(CloudTransient, match="TLS") as caught:
        client_at(script.url.replace("http://", "https://")).call("DescribeVpcs", {})
    assert "127.0.0.1" in caught.value.message


def test_the_call_on_the_wire_is_signed_flattened_and_carries_the_token(script, client_at, secrets):
    script.say(OK)
    params = {"Ids": ["a", "b"], "Tags": [{"Key": "k", "Value": "v"}], "Count": 3, "Dry": True}
    assert client_at(script.url).call("DescribeVpcs", params, service="ecs") == OK["Result"]
    (request,) = script.requests
    assert request.query == {
        "Action": "DescribeVpcs",
        "Version": "2020-04-01",
        "Ids.1": "a",
        "Ids.2": "b",
        "Tags.1.Key": "k",
        "Tags.1.Value": "v",
        "Count": "3",
        "Dry": "true",
    }
    access, _, token = secrets
    assert f"Credential={access}/" in request.headers["Authorization"]
    assert "/cn-hongkong/ecs/request" in request.headers["Authorization"]
    assert request.headers["X-Security-Token"] == token
    assert params["Ids"] == ["a", "b"]


def test_an_http_endpoint_is_reached_directly_whatever_proxy_is_set(script, client_at, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    script.say(OK)
    assert client_at(script.url).call("DescribeVpcs", {}) == OK["Result"]


def test_an_https_endpoint_goes_through_the_proxy_unless_no_proxy_names_it(script, client_at, answer, monkeypatch):
    script.say(answer(502, ""))
    monkeypatch.setenv("HTTPS_PROXY", script.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(CloudTransient):
        client_at("https://api.invalid").call("DescribeVpcs", {})
    # The scripted server knows no CONNECT, so it never sees a request; that the name was not resolved here shows it.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(CloudTransient, match="Connection refused"):
            client_at(f"https://127.0.0.1:{taken.getsockname()[1]}").call("DescribeVpcs", {})


def test_pages_are_followed_past_a_hundred(script, client_at, answer):
    things = [{"VpcId": f"vpc-{n}"} for n in range(250)]

    def serve(request):
        start = int(request.query.get("NextToken", "0"))
        size = int(request.query["MaxResults"])
        following = start + size
        result = {"Vpcs": things[start:following], "NextToken": str(following) if following < len(things) else ""}
        return answer(body=json.dumps({"ResponseMetadata": {}, "Result": result}))

    script.by = serve
    client = client_at(script.url)
    assert list(client.pages("DescribeVpcs", {"VpcName": "x"}, "Vpcs")) == things
    assert len(script.requests) == 3
    assert {request.query["VpcName"] for request in script.requests} == {"x"}
    assert client.calls() == {("DescribeVpcs", ""): 3}
    assert client.calls() == {}


@pytest.mark.parametrize("result", [{}, {"Vpcs": None}, {"Vpcs": []}, {"Vpcs": [], "NextToken": None}])
def test_nothing_is_written_in_three_ways(script, client_at, result):
    script.say({"ResponseMetadata": {}, "Result": result})
    assert list(client_at(script.url).pages("DescribeVpcs", {}, "Vpcs")) == []


@pytest.mark.parametrize("listing", ["text", [1], {"a": 1}])
def test_a_listing_of_another_shape_is_not_taken_for_empty(script, client_at, listing):
    script.say({"ResponseMetadata": {}, "Result": {"Vpcs": listing}})
    with pytest.raises(CloudTransient, match="not a list of objects"):
        list(client_at(script.url).pages("DescribeVpcs", {}, "Vpcs"))


def test_pages_that_never_end_are_given_up(script, client_at):
    script.say({"ResponseMetadata": {}, "Result": {"Vpcs": [], "NextToken": "again"}})
    with pytest.raises(CloudTransient, match="NextToken"):
        list(client_at(script.url).pages("DescribeVpcs", {}, "Vpcs"))
    assert len(script.requests) == 2


def test_a_failing_page_is_no_end(script, client_at, answer):
    page = {"ResponseMetadata": {}, "Result": {"Vpcs": [{"VpcId": "a"}], "NextToken": "2"}}
    script.say(answer(body=json.dumps(page)), answer(500, ""))
    with pytest.raises(CloudTransient):
        list(client_at(script.url).pages("DescribeVpcs", {}, "Vpcs"))


def test_eight_threads_share_one_client(script, client_at):
    script.say(OK)
    client = client_at(script.url)
    failures = []

    def work():
        for _ in range(10):
            if client.call("DescribeVpcs", {}) != OK["Result"]:
                failures.append("odd answer")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert client.calls() == {("DescribeVpcs", ""): 80}


def test_a_client_leaves_its_process_s_logging_and_stderr_alone(script):
    """In a process of its own: the SDK's handlers are made once, for the stderr of that moment."""
    script.say(OK)
    code = f"""
import logging
from cocoon_net.clock import SystemClock
from cocoon_net.cloud.volcengine.client import Client
from cocoon_net.cloud.volcengine.credentials import Credentials, CredentialSource
from cocoon_net.cloud.volcengine.metadata import Metadata
keys = Credentials("ak", "sk", "st", "cn-hongkong")
source = CredentialSource({{}}, Metadata("http://127.0.0.1:1"), SystemClock(), explicit=keys)
transport = logging.getLogger("urllib3")
before = (transport.propagate, transport.level)
print(Client(source, endpoint={script.url!r}).call("DescribeVpcs", {{}}))
from volcenginesdkcore.observability.debugger import sdk_core_logger
transport.warning("a connection pool is full")
sdk_core_logger.warning("a word of the SDK's own")
assert (transport.propagate, transport.level) == before
assert [type(handler) for handler in transport.handlers] == [logging.NullHandler]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "req-0" in done.stdout


@pytest.mark.parametrize("how", ["echo", "echo200", "cut", "hang", "garbage"])
def test_no_secret_reaches_an_error_a_traceback_or_a_log(script, client_at, answer, secrets, how):
    """Even a provider that repeats the keys, and a logger that prints the values of every frame."""
    echo = f"key {secrets[0]} secret {secrets[1]} token {secrets[2]}"
    error = {"ResponseMetadata": {"RequestId": "r", "Error": {"Code": "InvalidParameter", "Message": echo}}}
    script.say(
        {
            "echo": answer(401, json.dumps(error)),
            "echo200": answer(200, json.dumps(error)),
            "cut": answer(cut=True),
            "hang": answer(hang=1.0),
            "garbage": answer(500, echo),
        }[how]
    )
    client = client_at(script.url, read=0.2)
    log = io.StringIO()
    sink = logger.add(log, diagnose=True, backtrace=False, level="TRACE")
    stderr = io.StringIO()
    root = logging.getLogger()
    handler, level = logging.StreamHandler(log), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with redirect_stderr(stderr):
            try:
                client.call("DescribeVpcs", {})
                pytest.fail("it was to be refused")
            except CocoonError as caught:
                logger.exception("it failed")
                ours = caught.__traceback__.tb_next  # the frame of this test holds the secrets by right
                trace = traceback.TracebackException(type(caught), caught, ours, capture_locals=True)
                text = "".join(trace.format()) + repr(caught) + caught.message + caught.hint + repr(client)
                assert caught.__context__ is None and caught.__cause__ is None
    finally:
        logger.remove(sink)
        root.removeHandler(handler)
        root.setLevel(level)
    everything = text + log.getvalue() + stderr.getvalue()
    assert "it failed" in everything
    for secret in secrets:
        assert secret not in everything


def test_importing_the_cloud_is_cheap_and_leaves_the_sdk_alone():
    code = (
        "import cocoon_net.cloud.platform, cocoon_net.cloud.volcengine.platform, sys;"
        "print([m for m in ('volcenginesdkcore', 'urllib3', 'loguru', 'http.client', 'requests') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert out.stdout.strip() == "[]"


def test_a_call_with_a_part_that_is_not_known_yet_is_never_sent(script, client_at):
    script.say({"Result": {}})
    call = Call(Via.CLOUD, "AttachNetworkInterface", {"NetworkInterfaceId": Later("(of eni-1)"), "InstanceId": "i-1"})
    with pytest.raises(Unsupported, match=r"NetworkInterfaceId \(of eni-1\)"):
        client_at(script.url).perform(call)
    assert script.requests == []
    assert str(call) == "AttachNetworkInterface NetworkInterfaceId=(of eni-1) InstanceId=i-1"
