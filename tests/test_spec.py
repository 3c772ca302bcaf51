"""What an operator may ask for: every problem at once, and the same spec out of a run's row."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cocoon_net.errors import SpecError
from cocoon_net.spec import Spec, parse

GOOD: dict[str, Any] = {"platform": "volcengine", "node_name": "cocoon-pool", "subnet": "172.20.100.0/24"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"platform": "aws"}, "'aws' is not known; known are: volcengine, gke"),
        ({"platform": "gke"}, "gke is not supported by this version"),
        ({"node_name": ""}, "--node-name: missing"),
        ({"node_name": "-a b"}, "--node-name"),
        ({"subnet": ""}, "--subnet: missing"),
        ({"subnet": "172.20.100.0/33"}, "not a network"),
        ({"subnet": "none"}, "not a network"),
        ({"subnet": "172.20.100.7/24"}, "did you mean 172.20.100.0/24?"),
        ({"subnet": "2001:db8::/64"}, "is IPv6; only IPv4 is served"),
        ({"subnet": "172.20.100.0/30", "pool_size": 1}, "between a /8 and a /29"),
        ({"gateway": "172.20.101.1"}, "172.20.101.1 is not a host of 172.20.100.0/24"),
        ({"gateway": "172.20.100.255"}, "is not a host of"),
        ({"gateway": "::1"}, "--gateway: '::1' is not an IPv4 address"),
        ({"pool_size": 0}, "ask for at least 1"),
        ({"pool_size": 254}, "254 addresses do not fit into 172.20.100.0/24, which has 253"),
        ({"dns": ["8.8.8.8", "dns.example"]}, "'dns.example' is not an IPv4 address"),
        ({"dns": [""]}, "no server given"),
        ({"primary_nic": "a b"}, "--primary-nic"),
        ({"security_group": "default"}, "does not look like sg-"),
        ({"drop_cidrs": ["10.0.0.0/8", "x"]}, "--drop-cidr: 'x' is not a network"),
        ({"region": "Hong Kong"}, "--region"),
        ({"endpoint": "open.volcengineapi.com"}, "--endpoint"),
    ],
)
def test_a_wrong_flag_is_named_with_what_it_should_be(change: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as raised:
        parse(**{**GOOD, **change})
    assert says in str(raised.value)
    assert raised.value.exit_code == 78


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SpecError) as raised:
        parse(platform="aws", node_name="", subnet="nonsense", gateway="x", pool_size=-1, dns=["y"])
    assert len(raised.value.problems) == 6


def test_defaults_are_those_of_the_go_tool() -> None:
    spec = parse(**GOOD)
    assert str(spec.gateway) == "172.20.100.1"
    assert spec.pool_size == 140
    assert [str(server) for server in spec.dns] == ["8.8.8.8", "1.1.1.1"]


def test_a_spec_survives_its_row() -> None:
    spec = parse(
        **GOOD, drop_cidrs=["10.0.0.0/8"], drop_internal_access=True, security_group="sg-1", region="cn-hongkong"
    )
    assert Spec.from_json(json.loads(json.dumps(spec.as_json()))) == spec
    with pytest.raises(SpecError, match="unknown fields: colour"):
        Spec.from_json({**spec.as_json(), "colour": "red"})


def test_differences_name_the_flags() -> None:
    one, other = parse(**GOOD), parse(**{**GOOD, "pool_size": 20, "drop_cidrs": ["10.0.0.0/8"]})
    assert one.differences(one) == []
    assert one.differences(other) == ["--pool-size: 20, not 140", "--drop-cidrs: 10.0.0.0/8, not "]
