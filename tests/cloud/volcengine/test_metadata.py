from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest

from cocoon_net.cloud.platform import connect, detect
from cocoon_net.cloud.volcengine.metadata import Identity, Metadata
from cocoon_net.errors import CloudError, CloudGone, CloudTransient, SpecError
from cocoon_net.lab.cloud import Cloud
from cocoon_net.site import Site

FACTS = {
    "hyphen": {
        "/latest/meta-data/instance-id": "i-abc123",
        "/latest/meta-data/vpc-id": "vpc-xyz",
        "/latest/meta-data/placement/availability-zone": "cn-hongkong-a",
    },
    "underscore": {
        "/latest/instance_id": "i-abc123",
        "/latest/instance_type_id": "ecs.ebmg3.lab",
        "/latest/vpc_id": "vpc-xyz",
        "/latest/availability_zone": "cn-hongkong-a",
        "/latest/region_id": "cn-hongkong",
        "/latest/mac": "00-16-3E-00-00-01",
    },
    "volcstack": {
        "/volcstack/latest/instance_id": "i-abc123",
        "/volcstack/latest/instance_type": "ecs.ebmg3.lab",
        "/volcstack/latest/vpc_id": "vpc-xyz",
        "/volcstack/latest/availability_zone": "cn-hongkong-a",
        "/volcstack/latest/region_id": "cn-hongkong",
        "/volcstack/latest/mac": "00:16:3e:00:00:01",
    },
}
FULL = Identity("i-abc123", "ecs.ebmg3.lab", "vpc-xyz", "cn-hongkong-a", "cn-hongkong", "00:16:3e:00:00:01")


def serve(script, answer, facts):
    script.by = lambda request: answer(body=facts[request.path]) if request.path in facts else answer(404, "no")


@pytest.mark.parametrize(
    ("tree", "want"),
    [
        ("underscore", FULL),
        ("volcstack", FULL),
        ("hyphen", Identity("i-abc123", "", "vpc-xyz", "cn-hongkong-a", "cn-hongkong", "")),
    ],
)
def test_whichever_tree_the_image_has_tells_who_we_are(script, answer, tree, want):
    serve(script, answer, FACTS[tree])
    assert Metadata(script.url).identity() == want


def test_a_value_of_the_wrong_shape_is_not_believed(script, answer):
    """A captive portal answers everything with 200."""
    script.by = lambda request: answer(body="<html>please log in</html>")
    with pytest.raises(CloudGone, match="does not know this instance's instance id; it says '<html>"):
        Metadata(script.url).identity()


def test_an_odd_value_in_one_tree_does_not_hide_the_good_one_in_another(script, answer):
    serve(script, answer, FACTS["underscore"] | FACTS["hyphen"] | {"/latest/instance_id": "index of /"})
    assert Metadata(script.url).identity() == FULL


def test_a_session_token_is_fetched_when_it_is_demanded_and_kept(script, answer):
    facts = FACTS["underscore"]

    def by(request):
        if request.method == "PUT":
            assert request.headers["X-volc-ecs-metadata-token-ttl-seconds"] == "21600"
            return answer(body="t0ken\n")
        if request.headers.get("X-volc-ecs-metadata-token") != "t0ken":
            return answer(401)
        return answer(body=facts[request.path]) if request.path in facts else answer(404)

    script.by = by
    assert Metadata(script.url).identity() == FULL
    assert [request.method for request in script.requests].count("PUT") == 1


def test_a_service_that_denies_everything_is_an_error_of_its_own(script, answer):
    script.by = lambda request: answer(401)
    with pytest.raises(CloudError, match="wants a session token and does not give one"):
        Metadata(script.url).instance_id()
    assert len(script.requests) == 2


def test_trouble_of_the_service_is_passing(script, answer):
    script.by = lambda request: answer(503)
    with pytest.raises(CloudTransient, match="HTTP 503"):
        Metadata(script.url).instance_id()


def test_silence_ends_after_the_timeout_and_all_of_it_after_the_patience(script, answer):
    script.by = lambda request: answer(hang=1.0)
    began = time.monotonic()
    with pytest.raises(CloudTransient, match="timed out"):
        Metadata(script.url, timeout=0.2).identity()
    assert time.monotonic() - began < 0.8
    script.by = lambda request: answer(404, hang=0.15)
    began = time.monotonic()
    with pytest.raises(CloudTransient, match=r"timed out|within 0.4 s"):
        Metadata(script.url, timeout=0.2, patience=0.4).identity()
    assert time.monotonic() - began < 1.0


def test_proxies_do_not_matter(script, answer, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    serve(script, answer, FACTS["underscore"])
    assert Metadata(script.url).instance_id() == "i-abc123"


@pytest.mark.parametrize("root", ["/volcstack/latest/iam/security_credentials", "/latest/iam/security_credentials"])
@pytest.mark.parametrize("listing", ['["node-role", "other"]', "node-role\nother\n"])
def test_the_keys_of_the_role(script, answer, root, listing):
    keys = {"AccessKeyId": "ak", "SecretAccessKey": "s3cret", "SessionToken": "t0ken"}
    keys["ExpiredTime"] = "2026-01-02T03:04:05+08:00"
    serve(script, answer, {root: listing, f"{root}/node-role": json.dumps(keys)})
    found = Metadata(script.url).role_keys()
    assert (found.role, found.access_key, found.secret_key, found.session_token) == (
        "node-role",
        "ak",
        "s3cret",
        "t0ken",
    )
    assert found.expires == datetime(2026, 1, 1, 19, 4, 5, tzinfo=UTC)
    assert "s3cret" not in repr(found) and "t0ken" not in repr(found)


def test_no_role(script, answer):
    script.by = lambda request: answer(404)
    with pytest.raises(CloudGone, match="knows no role of this instance"):
        Metadata(script.url).role_keys()


@pytest.mark.parametrize("text", ["not json s3cret", '{"SecretAccessKey": "s3cret"}', '["s3cret"]'])
def test_keys_that_cannot_be_read_are_not_repeated(script, answer, text):
    root = "/volcstack/latest/iam/security_credentials"
    serve(script, answer, {f"{root}/r": text})
    with pytest.raises(CloudError) as caught:
        Metadata(script.url).role_keys("r")
    assert "s3cret" not in caught.value.message + caught.value.hint
    assert caught.value.__suppress_context__


def test_detection_names_the_cloud_or_tells_what_to_do(script, answer):
    with pytest.raises(CloudError, match="cannot tell which cloud") as caught:
        detect(Site(metadata_url="http://127.0.0.1:1"))
    assert "--platform" in caught.value.hint
    serve(script, answer, FACTS["hyphen"])
    assert detect(Site(metadata_url=script.url)) == "volcengine"


def test_connecting_asks_nobody_and_knows_one_cloud():
    platform = connect("volcengine", Site(metadata_url="http://127.0.0.1:1", endpoint="http://127.0.0.1:1"), {})
    assert platform.name == "volcengine"
    assert set(platform.inventories()) == {"subnet", "enis", "ingress", "attach", "addresses"}
    assert platform.calls() == {}
    with pytest.raises(SpecError, match="'gke'"):
        connect("gke", Site(), {})


@pytest.mark.parametrize("tree", ["hyphen", "underscore", "volcstack"])
@pytest.mark.parametrize("token", ["optional", "required"])
def test_the_labs_metadata_service_in_all_its_moods(tmp_path, tree, token):
    faults = {"metadata-trees": tree, "metadata-token": token}
    with Cloud.start(tmp_path, default_instance="node1", faults=faults) as cloud:
        identity = Metadata(cloud.metadata_url).identity()
        assert identity.instance_id == cloud.instance_id("node1")
        assert identity.region == cloud.region
