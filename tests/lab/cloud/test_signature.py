"""Requests are believed only with a good signature: the provider's published example, the real SDK, and forgeries."""

from __future__ import annotations

import hashlib
import http.client
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cocoon_net.clock import ManualClock
from cocoon_net.lab.cloud.signature import Authorization, Request, parse_authorization, sign, verify
from cocoon_net.lab.cloud.wire import ApiError

SECRET = "WkRZeE1EQmxPVGhsWWpWak5HVmtNbUUxTXpZeU9UVXlOMlE1TmpZeVlqTQ=="
SCOPE = Authorization("AK", "20240619", "cn-beijing", "iam", ("host", "x-date"), "")
EXAMPLE = Request(
    method="GET",
    path="/",
    query=(("Action", "ListUsers"), ("Limit", "10"), ("Offset", "0"), ("Version", "2018-01-01")),
    headers={"host": "iam.volcengineapi.com", "x-date": "20240619T071306Z"},
    body=b"",
)
THEN = datetime(2024, 6, 19, 7, 13, 6, tzinfo=UTC)
GOOD = "e31c4558bcfe08a286001f59cedbf0791ffd0b2362f10e55ee2627467bcdde93"


def test_the_published_example_has_the_published_signature():
    assert sign(SECRET, EXAMPLE, SCOPE) == GOOD


def test_the_default_port_is_not_signed_and_any_other_is():
    assert (
        sign(SECRET, replace(EXAMPLE, headers={**EXAMPLE.headers, "host": "iam.volcengineapi.com:443"}), SCOPE) == GOOD
    )
    assert (
        sign(SECRET, replace(EXAMPLE, headers={**EXAMPLE.headers, "host": "iam.volcengineapi.com:8080"}), SCOPE) != GOOD
    )


@pytest.mark.parametrize(
    "forged",
    [
        replace(EXAMPLE, query=(*EXAMPLE.query, ("Extra", "1"))),
        replace(EXAMPLE, method="POST"),
        replace(EXAMPLE, body=b"x"),
        replace(EXAMPLE, headers={**EXAMPLE.headers, "host": "elsewhere"}),
        replace(EXAMPLE, headers={**EXAMPLE.headers, "x-content-sha256": hashlib.sha256(b"x").hexdigest()}),
    ],
)
def test_a_changed_request_is_refused(forged: Request):
    scope = replace(SCOPE, signature=GOOD)
    verify(SECRET, EXAMPLE, scope, THEN)
    with pytest.raises(ApiError, match="SignatureDoesNotMatch"):
        verify(SECRET, forged, scope, THEN)


@pytest.mark.parametrize("off", [timedelta(minutes=16), timedelta(minutes=-16)])
def test_an_old_or_early_request_is_refused(off: timedelta):
    scope = replace(SCOPE, signature=GOOD)
    verify(SECRET, EXAMPLE, scope, THEN + off / 2)
    with pytest.raises(ApiError, match="InvalidTimestamp"):
        verify(SECRET, EXAMPLE, scope, THEN + off)


def test_a_header_that_makes_no_sense_is_refused():
    with pytest.raises(ApiError, match="MissingAuthenticationToken"):
        parse_authorization(EXAMPLE)
    with pytest.raises(ApiError, match="InvalidAuthorization"):
        parse_authorization(replace(EXAMPLE, headers={"authorization": "Bearer x"}))


def test_the_sdk_is_believed_and_its_forger_is_not(bench, sdk):
    cloud = bench.cloud
    wrong_secret = sdk(cloud.endpoint, cloud.access_key, "not the secret")
    assert wrong_secret.refusal("DescribeVpcs") == (401, "SignatureDoesNotMatch")
    unknown = sdk(cloud.endpoint, "AKLTnobody", cloud.secret_key)
    assert unknown.refusal("DescribeVpcs") == (401, "InvalidAccessKey")
    with_token = sdk(cloud.endpoint, cloud.access_key, cloud.secret_key, session_token="made up")
    assert with_token.refusal("DescribeVpcs") == (401, "InvalidSecretToken")
    odd = "a b+c/ü~*'(1)"
    key = bench.interface(bench.subnet(), Description=odd, Tags=[{"Key": "k ü", "Value": odd}])
    assert bench.show(key)["Description"] == odd
    assert bench.show(key)["Tags"] == [{"Key": "k ü", "Value": odd}]


def test_a_clock_that_is_off_gets_the_status_that_was_chosen(start, sdk):
    clock = ManualClock(datetime.now(UTC))
    bench = start(clock=clock)
    clock.advance(3600)
    assert bench.call.refusal("DescribeVpcs") == (400, "InvalidTimestamp")
    bench.fault(**{"timestamp-status": "403"})
    assert bench.call.refusal("DescribeVpcs") == (403, "InvalidTimestamp")


def test_an_unsigned_or_malformed_request_gets_an_envelope_and_no_effect(bench):
    host = bench.cloud.endpoint.removeprefix("http://")
    connection = http.client.HTTPConnection(host)
    for _ in range(2):  # the connection stays open after a refusal
        connection.request("GET", "/?Action=DescribeVpcs&Version=2020-04-01")
        response = connection.getresponse()
        error = json.loads(response.read())["ResponseMetadata"]["Error"]
        assert (response.status, error["Code"], error["CodeN"]) == (401, "MissingAuthenticationToken", 100003)
    connection.request("GET", "/", headers={"Authorization": "HMAC-SHA256 nonsense"})
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["ResponseMetadata"]["Error"]["Code"]) == (
        400,
        "InvalidAuthorization",
    )
    connection.close()


def test_what_is_not_http_is_sent_away(bench):
    import socket

    host, _, port = bench.cloud.endpoint.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        raw.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert raw.makefile("rb").readline().startswith(b"HTTP/1.1 400 ")


def test_no_secret_is_in_the_log_or_the_state(bench, tmp_path):
    bench.subnet()
    secret = bench.cloud.secret_key
    assert secret not in json.dumps(bench.admin.calls())
    assert secret not in json.dumps(bench.admin.state())
    assert (tmp_path / "cloud0" / "cloud.db").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "cloud0").stat().st_mode & 0o777 == 0o700
