"""What an instance learns about itself, in the three trees, with tokens and with the credentials of its role."""

from __future__ import annotations

import http.client
import json
from datetime import UTC, datetime
from urllib.parse import urlsplit

from cocoon_net.clock import ManualClock


def ask(cloud, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(cloud.metadata_url).netloc, timeout=5)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def test_a_stranger_is_told_nothing(start):
    assert ask(start().cloud, "/latest/instance_id")[0] == 404


def test_an_instance_is_known_by_its_address(start):
    bench = start()
    answers = bench.cloud.gateway.world.instances.all()
    node2 = next(row for row in answers if row.node == "node2")
    from cocoon_net.lab.cloud.gateway import instance_at

    assert instance_at(bench.cloud.gateway.world, "172.20.9.231") == node2.id
    assert instance_at(bench.cloud.gateway.world, "172.20.9.99") == ""


def test_on_loopback_the_path_says_who_asks(start):
    bench = start()
    nodes = {row.node: row.id for row in bench.cloud.gateway.world.instances.all()}
    for node, instance in nodes.items():
        assert ask(bench.cloud, f"/as/{node}/latest/instance_id") == (200, instance)
        assert ask(bench.cloud, f"/as/{node}/latest/meta-data/instance-id") == (200, instance)
    assert ask(bench.cloud, "/as/nobody/latest/instance_id")[0] == 404


def test_all_trees_tell_the_same(bench):
    cloud, node = bench.cloud, bench.node1
    for path, value in [
        ("/latest/meta-data/instance-id", node),
        ("/latest/meta-data/vpc-id", bench.vpc),
        ("/latest/meta-data/placement/availability-zone", "cn-hongkong-a"),
        ("/latest/instance_id", node),
        ("/latest/region_id", "cn-hongkong"),
        ("/volcstack/latest/instance_id", node),
        ("/volcstack/latest/vpc_cidr_block", "172.20.0.0/16"),
    ]:
        assert ask(cloud, path) == (200, value)
    assert ask(cloud, "/latest/meta-data/nothing")[0] == 404
    assert ask(cloud, "/latest/instance_id/deeper")[0] == 404


def test_each_tree_can_be_missing(bench):
    bench.fault(**{"metadata-trees": "underscore"})
    assert ask(bench.cloud, "/latest/meta-data/instance-id")[0] == 404
    assert ask(bench.cloud, "/latest/instance_id")[0] == 200
    bench.fault(**{"metadata-trees": "hyphen"})
    assert ask(bench.cloud, "/latest/meta-data/instance-id")[0] == 200
    assert ask(bench.cloud, "/latest/instance_id")[0] == 404
    assert ask(bench.cloud, "/volcstack/latest/instance_id")[0] == 404
    bench.fault(**{"metadata-trees": "none"})
    assert ask(bench.cloud, "/latest/meta-data/instance-id")[0] == 404


def test_an_interface_appears_under_its_mac_however_that_is_written(bench):
    key = bench.attached(bench.subnet())
    bench.call("AssignPrivateIpAddresses", NetworkInterfaceId=key, SecondaryPrivateIpAddressCount=2)
    mac = bench.show(key)["MacAddress"]
    base = "/latest/network/interfaces/macs"
    assert f"{mac}/" in ask(bench.cloud, base)[1].splitlines()
    for spelling in (mac, mac.upper(), mac.replace(":", "-"), mac.replace(":", "/")):
        assert ask(bench.cloud, f"{base}/{spelling}/network_interface_id") == (200, key)
    assert ask(bench.cloud, f"{base}/{mac}/gateway") == (200, "172.20.100.1")
    assert ask(bench.cloud, f"{base}/{mac}/private_ipv4s")[1].splitlines() == ["172.20.100.3", "172.20.100.4"]
    assert json.loads(ask(bench.cloud, f"{base}/{mac}/network_info")[1])["SubnetCidrBlock"] == "172.20.100.0/24"


def test_metadata_can_lag_behind_the_api(start):
    clock = ManualClock(datetime.now(UTC))
    bench = start(clock=clock, default_instance="node1", faults={"metadata-lag": "5s"})
    key = bench.attached(bench.subnet())
    assert bench.status(key) == "InUse"
    path = f"/latest/network/interfaces/macs/{bench.show(key)['MacAddress']}/network_interface_id"
    assert ask(bench.cloud, path)[0] == 404
    clock.advance(5)
    assert ask(bench.cloud, path) == (200, key)


def test_a_token_can_be_required(bench):
    cloud = bench.cloud
    bench.fault(**{"metadata-token": "required"})
    assert ask(cloud, "/latest/instance_id")[0] == 401
    assert ask(cloud, "/latest/api/token", "PUT")[0] == 400
    status, token = ask(cloud, "/latest/api/token", "PUT", X_volc_ecs_metadata_token_ttl_seconds="21600")
    assert status == 200
    assert ask(cloud, "/latest/instance_id", X_volc_ecs_metadata_token=token) == (200, bench.node1)
    assert ask(cloud, "/latest/instance_id", X_volc_ecs_metadata_token="made up")[0] == 401


def test_the_credentials_of_the_role_work_until_they_expire(start, sdk):
    clock = ManualClock(datetime.now(UTC))
    bench = start(clock=clock, default_instance="node1")
    base = "/volcstack/latest/iam/security_credentials"
    assert ask(bench.cloud, f"{base}?type=user&format=json") == (200, '["cocoon-net"]')
    role = json.loads(ask(bench.cloud, f"{base}/cocoon-net")[1])
    pair = (bench.cloud.endpoint, role["AccessKeyId"], role["SecretAccessKey"])
    assert sdk(*pair, session_token=role["SessionToken"])("DescribeVpcs")["Vpcs"]
    assert sdk(*pair).refusal("DescribeVpcs") == (401, "InvalidSecretToken")
    assert role["SecretAccessKey"] not in json.dumps(bench.admin.state())
    expires = datetime.fromisoformat(role["ExpiredTime"])
    key = bench.cloud.gateway.world.keys.rows[role["AccessKeyId"]]
    assert (expires - clock.now()).total_seconds() > 3600
    clock.advance((expires - clock.now()).total_seconds() + 1)
    assert json.loads(ask(bench.cloud, f"{base}/cocoon-net")[1])["AccessKeyId"] != key.id


def test_expired_credentials_are_refused(start, sdk):
    from dataclasses import replace

    bench = start(default_instance="node1")
    role = json.loads(ask(bench.cloud, "/latest/iam/security_credentials/cocoon-net")[1])
    keys = bench.cloud.gateway.world.keys
    keys.rows[role["AccessKeyId"]] = replace(keys.rows[role["AccessKeyId"]], expires=datetime(2026, 1, 1, tzinfo=UTC))
    late = sdk(bench.cloud.endpoint, role["AccessKeyId"], role["SecretAccessKey"], session_token=role["SessionToken"])
    assert late.refusal("DescribeVpcs") == (401, "InvalidSecretToken")
