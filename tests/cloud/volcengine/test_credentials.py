from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta

import pytest

from cocoon_net.clock import ManualClock
from cocoon_net.cloud.volcengine.credentials import Credentials, CredentialSource, resolve
from cocoon_net.cloud.volcengine.metadata import Metadata
from cocoon_net.errors import CloudTransient, Refused

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOBODY = Metadata("http://127.0.0.1:1", timeout=0.2)
ROLE_ROOT = "/volcstack/latest/iam/security_credentials"
FLAT = {"access_key_id": "flat-ak", "secret_access_key": "flat-sk", "region": "cn-beijing"}
PROFILES = {
    "current": "work",
    "profiles": {
        "work": {"name": "work", "mode": "ak", "access-key": "work-ak", "secret-key": "work-sk", "region": "cn-work"},
        "play": {"mode": "ak", "access-key": "play-ak", "secret-key": "play-sk", "session-token": "play-token"},
        "web": {"mode": "sso", "sso-session-name": "x"},
        "half": {"mode": "ak", "access-key": "half-ak"},
        "host": {"mode": "ecsrole", "role-name": "r", "region": "cn-host"},
    },
}


@pytest.fixture
def write(tmp_path):
    def write(data: object, mode: int = 0o600) -> dict[str, str]:
        path = tmp_path / ".volcengine" / "config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        path.chmod(mode)
        return {"HOME": str(tmp_path)}

    return write


@pytest.fixture
def metadata(script, answer):
    def serve(expires: datetime, *, region: str = "cn-hongkong") -> Metadata:
        def by(request):
            if request.path == ROLE_ROOT:
                return answer(body='["node-role"]')
            if request.path.startswith(ROLE_ROOT):
                keys = {"AccessKeyId": f"ak-{len(script.requests)}", "SecretAccessKey": "sk", "SessionToken": "st"}
                return answer(body=json.dumps({**keys, "ExpiredTime": expires.isoformat()}))
            return answer(body=region) if request.path == "/latest/region_id" else answer(404)

        script.by = by
        return Metadata(script.url)

    return serve


def test_nothing_anywhere_is_one_error_that_lists_where_it_looked(tmp_path):
    with pytest.raises(Refused) as caught:
        resolve({"HOME": str(tmp_path)}, NOBODY, NOW)
    for place in ("VOLCENGINE_ACCESS_KEY_ID", str(tmp_path / ".volcengine/config.json"), "role", "127.0.0.1:1"):
        assert place in caught.value.message
    assert "VOLCENGINE_SECRET_ACCESS_KEY" in caught.value.hint
    assert caught.value.exit_code == os.EX_NOPERM


@pytest.mark.parametrize(
    ("environ", "missing"),
    [
        ({"VOLCENGINE_ACCESS_KEY_ID": "x-ak"}, "VOLCENGINE_SECRET_ACCESS_KEY"),
        ({"VOLCENGINE_SECRET_KEY": "x-sk"}, "VOLCENGINE_ACCESS_KEY_ID"),
    ],
)
def test_half_a_pair_in_the_environment_stops_the_search(write, environ, missing):
    with pytest.raises(Refused, match=missing) as caught:
        resolve({**write(FLAT), **environ}, NOBODY, NOW)
    assert "x-" not in caught.value.message


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ('{"secret_access_key": "s3cret", ', "not valid JSON"),
        ('["s3cret"]', "JSON object"),
        ({"secret_access_key": "s3cret"}, "has no access_key_id"),
        ({**PROFILES, "current": "half"}, "has no secret-key"),
        ({**PROFILES, "current": "web"}, "'sso'"),
    ],
)
def test_a_broken_file_stops_the_search_and_is_not_quoted(write, data, why):
    with pytest.raises(Refused, match=why) as caught:
        resolve(write(data), NOBODY, NOW)
    assert "s3cret" not in caught.value.message + caught.value.hint
    assert caught.value.__cause__ is None


def test_a_file_that_is_a_directory(tmp_path):
    (tmp_path / ".volcengine" / "config.json").mkdir(parents=True)
    with pytest.raises(Refused, match="cannot read"):
        resolve({"HOME": str(tmp_path)}, NOBODY, NOW)


def test_an_unknown_profile_is_not_another_one(write):
    with pytest.raises(Refused, match="profile 'nobody'"):
        resolve({**write(PROFILES), "VOLCENGINE_PROFILE": "nobody"}, NOBODY, NOW)


@pytest.mark.parametrize(
    ("environ", "data", "keys", "region"),
    [
        ({"VOLCENGINE_ACCESS_KEY_ID": "e", "VOLCENGINE_SECRET_ACCESS_KEY": "s"}, FLAT, ("e", "s", ""), "cn-beijing"),
        ({"VOLCENGINE_ACCESS_KEY": "e", "VOLCENGINE_SECRET_KEY": "s"}, PROFILES, ("e", "s", ""), "cn-work"),
        (
            {"VOLCENGINE_ACCESS_KEY": "e", "VOLCENGINE_SECRET_KEY": "s", "VOLCENGINE_SESSION_TOKEN": "t"},
            FLAT,
            ("e", "s", "t"),
            "cn-beijing",
        ),
        ({}, FLAT, ("flat-ak", "flat-sk", ""), "cn-beijing"),
        ({"VOLCENGINE_REGION": "cn-env"}, FLAT, ("flat-ak", "flat-sk", ""), "cn-env"),
        ({}, {**PROFILES, **FLAT}, ("flat-ak", "flat-sk", ""), "cn-beijing"),
        ({}, PROFILES, ("work-ak", "work-sk", ""), "cn-work"),
        (
            {"VOLCENGINE_PROFILE": "play", "VOLCENGINE_REGION": "cn-env"},
            PROFILES,
            ("play-ak", "play-sk", "play-token"),
            "cn-env",
        ),
    ],
)
def test_the_order_of_sources(write, environ, data, keys, region):
    found = resolve({**write(data), **environ}, NOBODY, NOW)
    assert (found.access_key, found.secret_key, found.session_token) == keys
    assert found.region == region
    assert found.expires is None


def test_what_is_given_goes_before_everything(write):
    environ = {**write(FLAT), "VOLCENGINE_ACCESS_KEY": "e", "VOLCENGINE_SECRET_KEY": "s", "VOLCENGINE_REGION": "r"}
    given = Credentials("given-ak", "given-sk", region="cn-given")
    found = resolve(environ, NOBODY, NOW, explicit=given)
    assert (found.access_key, found.region) == ("given-ak", "cn-given")
    with pytest.raises(Refused, match="without the secret key"):
        resolve(environ, NOBODY, NOW, explicit=Credentials("given-ak", ""))


def test_the_file_may_be_elsewhere(write, tmp_path):
    write(FLAT)
    path = tmp_path / ".volcengine" / "config.json"
    found = resolve({"HOME": "/nonexistent", "VOLCENGINE_CLI_CONFIG_FILE": str(path)}, NOBODY, NOW)
    assert found.access_key == "flat-ak"


def test_the_role_comes_last_and_its_region_from_metadata(metadata, tmp_path):
    there = metadata(NOW + timedelta(hours=6))
    found = resolve({"HOME": str(tmp_path)}, there, NOW)
    assert (found.secret_key, found.session_token, found.region) == ("sk", "st", "cn-hongkong")
    assert found.expires == NOW + timedelta(hours=6)
    with pytest.raises(Refused, match="switched off by VOLCENGINE_ECS_METADATA_DISABLED"):
        resolve({"HOME": str(tmp_path), "VOLCENGINE_ECS_METADATA_DISABLED": "true"}, there, NOW)


def test_a_profile_of_the_role_uses_the_role_and_its_own_region(metadata, write):
    there = metadata(NOW + timedelta(hours=6))
    found = resolve(write({**PROFILES, "current": "host"}), there, NOW)
    assert (found.secret_key, found.region) == ("sk", "cn-host")


def test_keys_without_any_region(write):
    keys = {name: value for name, value in FLAT.items() if name != "region"}
    with pytest.raises(Refused, match="no region") as caught:
        resolve(write(keys), NOBODY, NOW)
    assert "VOLCENGINE_REGION" in caught.value.hint


def test_expired_keys_of_the_role_are_passing_trouble(metadata, tmp_path):
    with pytest.raises(CloudTransient, match="expired"):
        resolve({"HOME": str(tmp_path)}, metadata(NOW - timedelta(seconds=1)), NOW)


def test_keys_are_kept_and_looked_up_anew_before_they_expire(metadata, tmp_path):
    clock = ManualClock(NOW)
    source = CredentialSource({"HOME": str(tmp_path)}, metadata(NOW + timedelta(hours=1)), clock)
    first = source.current()
    clock.advance(54 * 60)
    assert source.current() is first
    clock.advance(2 * 60)
    assert source.current().access_key != first.access_key


@pytest.mark.parametrize(
    ("mode", "warned"), [(0o644, True), (0o640, True), (0o602, True), (0o600, False), (0o400, False)]
)
def test_a_file_that_others_can_read_is_warned_about(write, warnings, mode, warned):
    resolve(write(FLAT, mode), NOBODY, NOW)
    text = "".join(warnings)
    assert ("chmod 600" in text) is warned
    assert "flat-sk" not in text and "flat-ak" not in text


def test_credentials_never_show_their_keys():
    keys = Credentials("an-ak", "an-sk", "an-st", "cn-x", source="a test")
    text = f"{keys} {keys!r} {[keys]}"
    assert "a test" in text and "cn-x" in text
    assert not any(secret in text for secret in ("an-ak", "an-sk", "an-st"))
    assert keys.redact("an-ak an-sk an-st and more") == "*** *** *** and more"
