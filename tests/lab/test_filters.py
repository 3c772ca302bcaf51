"""Security groups as nftables text."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from cocoon_net.lab.filters import render, statement
from cocoon_net.lab.view import Group, Port, Rule, View

HOSTS = IPv4Network("172.20.0.0/20")
VPC = IPv4Network("172.20.0.0/16")


def rule(
    protocol: str = "all",
    ports: tuple[int, int] = (-1, -1),
    cidr: str | None = "172.20.0.0/16",
    source: str | None = None,
    policy: str = "accept",
    priority: int = 1,
) -> Rule:
    return Rule(protocol, *ports, None if cidr is None else IPv4Network(cidr), source, policy, priority)


def port(number: int, group: str) -> Port:
    address = HOSTS[8 + number]
    mac = f"02:00:00:00:00:0{number}"
    return Port(f"eni-{number}", f"i-{number}", 0, mac, address, (address,), HOSTS, (group,))


def view(*rules: Rule) -> View:
    groups = (Group("sg-1", rules), Group("sg-2", ()))
    return View(VPC, (HOSTS,), (), (port(1, "sg-1"), port(2, "sg-2")), groups)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (rule(), "ip saddr 172.20.0.0/16 counter accept"),
        (rule(cidr="0.0.0.0/0"), "counter accept"),
        (rule("tcp", (22, 22), cidr="0.0.0.0/0"), "tcp dport 22-22 counter accept"),
        (rule("udp", (-1, -1)), "ip saddr 172.20.0.0/16 meta l4proto udp counter accept"),
        (rule("icmp", policy="drop"), "ip saddr 172.20.0.0/16 meta l4proto icmp counter drop"),
        (rule(cidr=None, source="sg-2"), "ip saddr @sg-2 counter accept"),
        (rule("icmpv6"), ""),
    ],
)
def test_each_kind_of_rule_has_its_statement(given: Rule, wanted: str) -> None:
    assert statement(given) == wanted


def test_smaller_priority_comes_first_and_a_drop_before_an_accept() -> None:
    accept, drop, first = rule(priority=5), rule(priority=5, policy="drop"), rule("tcp", (1, 9), priority=1)
    text = render(view(accept, drop, first), {"eni-1": "node1-eth0"}, strict_source=False)
    lines = [line.strip() for line in text.splitlines()]
    order = [lines.index(statement(one)) for one in (first, drop, accept)]
    assert order == sorted(order)
    assert lines[order[-1] + 1] == "counter drop"


def test_a_group_as_source_stands_for_the_addresses_of_its_ports() -> None:
    links = {"eni-1": "node1-eth0", "eni-2": "node2-eth0"}
    text = render(view(rule(cidr=None, source="sg-2")), links, strict_source=False)
    assert "set sg-2 {\n    type ipv4_addr;\n    elements = { 172.20.0.10 }" in text


def test_a_port_without_a_link_is_left_out_and_sources_are_checked_only_when_strict() -> None:
    loose = render(view(rule()), {"eni-1": "node1-eth0"}, strict_source=False)
    strict = render(view(rule()), {"eni-1": "node1-eth0"}, strict_source=True)
    assert '"node1-eth0" : goto union0' in loose
    assert "172.20.0.10" not in loose
    assert "@owned" not in loose
    assert '"node1-eth0" . 172.20.0.9' in strict
