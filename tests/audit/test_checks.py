"""Rules, files, sockets and clocks of others: what is told of them, and what is none of our business."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network

import pytest

from cocoon_net.audit import checks

SUBNET = IPv4Network("172.20.100.0/24")
LINKS = ("cni0", "eth0", "eth1")
HEADED = ":COCOON-NET-FORWARD - [0:0]\n-A FORWARD -j COCOON-NET-FORWARD\n"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def told(save: str) -> list[str]:
    return [sighting.key for sighting in checks.foreign_rules(save, [], SUBNET, LINKS)]


@pytest.mark.parametrize(
    "rule",
    [
        "-A FORWARD -j DROP",
        "-A FORWARD -i cni0 -j DROP",
        "-A FORWARD -o eth+ -j REJECT --reject-with icmp-port-unreachable",
        "-A FORWARD -s 172.20.0.0/16 -j DROP",
        "-A FORWARD ! -i docker0 -j DROP",
        ":FORWARD DROP [0:0]",
    ],
)
def test_what_drops_the_traffic_of_the_vms_is_told_unless_our_chain_comes_first(rule: str) -> None:
    assert len(told(f"*filter\n{rule}\nCOMMIT\n")) == 1
    assert told(f"*filter\n{HEADED}{rule}\nCOMMIT\n") == []
    assert len(told(f"*filter\n{HEADED}COMMIT\n*mangle\n{rule}\nCOMMIT\n")) == 1


@pytest.mark.parametrize(
    "rule",
    [
        "-A FORWARD -i docker0 -j DROP",
        "-A FORWARD -s 10.9.9.9/32 -j DROP",
        "-A FORWARD -p tcp -m tcp --dport 25 -j DROP",
        "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
        "-A FORWARD -i cni0 -j ACCEPT",
        "-A INPUT -j DROP",
        ":FORWARD ACCEPT [0:0]",
    ],
)
def test_what_is_for_others_or_considered_is_none_of_our_business(rule: str) -> None:
    assert told(f"*filter\n{rule}\nCOMMIT\n") == []


def test_a_chain_of_nft_that_drops_is_told_and_the_tables_of_iptables_are_not_told_twice() -> None:
    chain = {"family": "inet", "name": "f", "hook": "forward", "policy": "accept", "table": "guard"}
    match = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "cni0"}}
    rule = {"family": "inet", "table": "guard", "chain": "f", "handle": 7, "expr": [match, {"drop": None}]}
    found = checks.foreign_rules("", [{"chain": chain}, {"rule": rule}], SUBNET, LINKS)
    assert [one.advice for one in found] == ["`nft delete rule inet guard f handle 7`"]
    other = {**rule, "expr": [{"match": {**match["match"], "right": "docker0"}}, {"drop": None}]}
    assert checks.foreign_rules("", [{"chain": chain}, {"rule": other}], SUBNET, LINKS) == []
    theirs = {**chain, "family": "ip", "table": "filter", "policy": "drop"}
    assert checks.foreign_rules("", [{"chain": theirs}], SUBNET, LINKS) == []


def test_a_neighbour_that_does_not_parse_has_no_plugins_or_our_name_is_told() -> None:
    files = {"10-a.conflist": "{", "20-b.conflist": "[]", "25-c.conflist": '{"name": "cocoon-dhcp", "plugins": []}'}
    fine = {"40-d.conflist": '{"name": "d", "plugins": []}', "30-ours.conflist": "{"}
    found = checks.broken_neighbours({**files, **fine}, "30-ours.conflist", "cocoon-dhcp")
    assert [one.key for one in found] == list(files)


def test_the_clock_may_be_off_a_little() -> None:
    assert checks.clock_is_off(NOON, NOON + timedelta(seconds=30)) == []
    assert checks.clock_is_off(NOON, None) == []
    (late,) = checks.clock_is_off(NOON, NOON + timedelta(minutes=10))
    assert late.says == "the clock is 600 s behind"


def test_leases_json_is_compared_with_what_is_leased() -> None:
    mac, address = "02:00:00:00:00:01", IPv4Address("172.20.100.9")
    row = f'[{{"mac":"{mac}","ip":"{address}","expiry":"2026-01-01T00:00:00Z"}}]'
    bound = {mac: frozenset({address})}
    assert checks.lease_file_differs(row, bound, "f") == [] == checks.lease_file_differs(None, {}, "f")
    for text, leased in ((row, {}), ("[]", bound), (None, bound), ("{", bound)):
        assert len(checks.lease_file_differs(text, leased, "f")) == 1


def test_only_another_process_takes_our_port() -> None:
    assert checks.port_taken({7: "cocoon-net"}, 7) == [] == checks.port_taken({}, None)
    assert checks.port_taken({7: "cocoon-net", 8: "dnsmasq"}, 7)[0].says.endswith("dnsmasq (pid 8)")
