"""The cloud's side is changed by somebody else: the audit says what, by which sources, and what to type."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.slow]


def instances(node: Any) -> dict[str, str]:
    return {row["node"]: row["id"] for row in node.admin.state()["instances"]}


def interface(node: Any) -> dict[str, Any]:
    """The one that the audit calls eni-1."""
    (found,) = [row for row in node.interfaces() if dict(row["tags"])["cocoon-net:key"] == "eni-1"]
    return found


def at_rest(node: Any, eventually: Any) -> None:
    eventually(lambda: all(row["status"] in ("Available", "InUse") for row in node.interfaces()))


def detach(node: Any, eventually: Any) -> None:
    here = instances(node)["node1"]
    node.cloud("DetachNetworkInterface", NetworkInterfaceId=interface(node)["id"], InstanceId=here)
    at_rest(node, eventually)


def delete(node: Any, eventually: Any) -> None:
    identifier = interface(node)["id"]
    detach(node, eventually)
    node.cloud("DeleteNetworkInterface", NetworkInterfaceId=identifier)


def take_away(node: Any, eventually: Any) -> None:
    row = interface(node)
    node.cloud("UnassignPrivateIpAddresses", NetworkInterfaceId=row["id"], PrivateIpAddress=[row["secondaries"][0]])


def add(node: Any, eventually: Any) -> None:
    node.cloud("AssignPrivateIpAddresses", NetworkInterfaceId=interface(node)["id"], SecondaryPrivateIpAddressCount=1)


def regroup(node: Any, eventually: Any) -> None:
    has = set(interface(node)["groups"])
    group = next(row["id"] for row in node.admin.state()["groups"] if row["id"] not in has)
    node.cloud("ModifyNetworkInterfaceAttributes", NetworkInterfaceId=interface(node)["id"], SecurityGroupIds=[group])


def close(node: Any, eventually: Any) -> None:
    (found,) = [
        (g, r)
        for g in node.admin.state()["groups"]
        for r in g["rules"]
        if r["cidr"] == "172.20.0.0/16" and r["direction"] == "ingress" and r["protocol"] == "all"
    ]
    group, rule = found
    node.cloud(
        "RevokeSecurityGroupIngress",
        SecurityGroupId=group["id"],
        Protocol="all",
        PortStart=-1,
        PortEnd=-1,
        CidrIp=rule["cidr"],
        Policy=rule["policy"],
        Priority=rule["priority"],
    )


def move(node: Any, eventually: Any) -> None:
    row, (other,) = interface(node), [one for one in node.interfaces() if one["id"] != interface(node)["id"]]
    address = [row["secondaries"][0]]
    node.cloud("UnassignPrivateIpAddresses", NetworkInterfaceId=row["id"], PrivateIpAddress=address)
    node.cloud("AssignPrivateIpAddresses", NetworkInterfaceId=other["id"], PrivateIpAddress=address)


PULLS = {
    "ingress": close,
    "address-moved": move,
    "interface-groups": regroup,
    "address-gone": take_away,
    "address-added": add,
    "interface-detached": detach,
    "interface-gone": delete,
}


@pytest.mark.parametrize("kind", PULLS)
def test_it_is_found_and_the_command_that_is_told_puts_it_right(node: Any, eventually: Any, kind: str) -> None:
    PULLS[kind](node, eventually)
    code, seen = node.audit("--repair")
    assert kind == "address-gone" or not [one for one in seen["sightings"] if one["kind"] == "address-gone"]
    told = [sighting for sighting in seen["sightings"] if sighting["kind"] == kind]
    assert code == 1 and told, seen
    if kind in ("address-gone", "interface-detached", "interface-gone"):
        agree = {evidence["source"] for evidence in told[0]["evidence"] if evidence["agrees"]}
        assert {"cloud", "metadata"} <= agree
    assert not [line for line in seen["repaired"] if "Interface" in line or "Address" in line or "Attach" in line]
    words = shlex.split(re.search(r"`(cocoon-net [^`]*)`", told[0]["advice"])[1])  # type: ignore[index]
    done = node.product(*words[1:])
    assert done.returncode == 0, done.stderr
    code, seen = node.audit("--repair")
    code, seen = node.audit()
    assert (code, seen["sightings"], seen["unknown"]) == (0, [], {})


def test_attached_to_another_instance_it_is_told_where(node: Any, eventually: Any) -> None:
    row, there = interface(node), instances(node)["node2"]
    detach(node, eventually)
    node.cloud("AttachNetworkInterface", NetworkInterfaceId=row["id"], InstanceId=there)
    at_rest(node, eventually)
    code, seen = node.audit()
    (told,) = [sighting for sighting in seen["sightings"] if sighting["kind"] == "interface-elsewhere"]
    assert code == 1 and there in told["says"]
    node.cloud("DetachNetworkInterface", NetworkInterfaceId=row["id"], InstanceId=there)
    at_rest(node, eventually)
    node.cloud("AttachNetworkInterface", NetworkInterfaceId=row["id"], InstanceId=instances(node)["node1"])
    at_rest(node, eventually)
    eventually(lambda: "link-missing" not in str(node.audit("--repair")))
    code, seen = node.audit()
    assert code == 0, seen
