"""Records: facts do not compare, and every kind survives the ledger."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from cocoon_net.errors import InvariantError
from cocoon_net.records import (
    AddressSet,
    Bridge,
    File,
    IngressRule,
    Instance,
    Interface,
    Link,
    Pool,
    Route,
    Ruleset,
    Subnet,
    decode,
    encode,
    pinned_mac,
)

NET, ADDRESS = IPv4Network("172.20.100.0/24"), IPv4Address("172.20.100.7")


@pytest.mark.parametrize(
    "record",
    [
        Subnet(NET, "cn-hongkong-a", id="subnet-1", available=9, ours=True),
        Interface(NET, ("sg-1", "sg-2"), id="eni-1", mac="00:16:3e:00:00:01", primary_address=ADDRESS),
        Interface(NET, ("sg-1",)),
        IngressRule("sg-1", NET),
        AddressSet(2, (ADDRESS, ADDRESS + 1)),
        Link(True, name="eth1", index=3, mtu=1500),
        Bridge("cni0", IPv4Interface("172.20.100.1/24"), "02:00:00:00:00:01", 1500),
        Route(ADDRESS, "cni0"),
        Ruleset(("-j ACCEPT",), ()),
        File("pool.json", "{}\n"),
        Pool(NET, ADDRESS, (ADDRESS,), (ADDRESS,), 1500),
        Instance("volcengine", "i-1", "ecs.x", "cn", "cn-a", "vpc-1", NET, "m", ADDRESS, "eni-0", ("sg-1",), 8, 21),
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_record_survives_the_ledger_exactly(record: object) -> None:
    text = json.dumps(encode(record))  # type: ignore[arg-type]
    back = decode(json.loads(text))
    assert back == record
    assert repr(back) == repr(record), "the fields that do not compare, too"


def test_a_record_of_a_newer_version_is_refused() -> None:
    with pytest.raises(InvariantError, match="unknown type 'Tunnel'"):
        decode({"is": "Tunnel"})
    with pytest.raises(InvariantError, match="unknown fields"):
        decode({"is": "Sysctl", "name": "a", "value": "1", "colour": "red"})


def test_what_only_the_world_knows_makes_no_difference() -> None:
    assert Link(True) == Link(True, name="eth4", index=9, mac="x", mtu=9000, ours=True)
    assert Link(True) != Link(False)


def test_the_bridge_mac_is_stable_local_and_the_nodes_own() -> None:
    mac = pinned_mac("cocoon-pool", NET)
    assert mac == pinned_mac("cocoon-pool", NET)
    assert mac != pinned_mac("cocoon-pool-2", NET)
    assert int(mac[:2], 16) & 0b11 == 0b10, "locally administered, not multicast"
