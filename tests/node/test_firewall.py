"""Our chains among those of others, against the real iptables."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.engine.model import Change, Verb
from cocoon_net.errors import NodeError, NodeTransient
from cocoon_net.formats import iptables
from cocoon_net.node import firewall
from cocoon_net.node.firewall import KEY, Firewall, go_rules
from cocoon_net.records import Link, Ruleset

Converge = Callable[..., list[Change]]

SUBNET = IPv4Network("172.20.100.0/24")
DROPS = tuple(map(IPv4Network, ("172.20.100.0/24", "10.0.0.1/32", "192.168.0.0/16", "0.0.0.0/0")))
WANT = Ruleset(*iptables.rules(SUBNET, ("eth1", "eth2"), "eth0", DROPS))
DELETE = Change("firewall", KEY, Verb.DELETE, None, WANT)


def test_a_node_without_iptables_is_told_the_package(
    context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NodeError, match="there is no iptables-save in the PATH") as missing:
        Firewall().observe(context())
    assert "Debian package iptables" in missing.value.hint


def program(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program of that name before the real one."""
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_one_that_hangs_is_passing(context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "iptables-save", "exec sleep 10", monkeypatch)
    monkeypatch.setattr(firewall, "RUN_WITHIN", 0.2)
    with pytest.raises(NodeTransient, match=r"iptables-save did not end within 0\.2 s"):
        Firewall().observe(context())


def test_a_busy_kernel_or_lock_is_passing(context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "iptables-save", "echo 'Resource temporarily unavailable.' >&2; exit 4", monkeypatch)
    with pytest.raises(NodeTransient, match=r"ended with 4: Resource temporarily unavailable\."):
        Firewall().observe(context())


def test_the_rules_of_the_go_tool_are_told_from_others() -> None:
    save = """*filter
-A FORWARD -i cni0 -o cni0 -j ACCEPT
-A FORWARD -i eth1 -o cni0 -j ACCEPT
-A FORWARD -i eth1 -o cni0 -m comment --comment mine -j ACCEPT
-A FORWARD -i docker0 -o cni0 -j ACCEPT
COMMIT
*nat
-A POSTROUTING -s 172.20.100.0/24 ! -o cni0 -j MASQUERADE
-A POSTROUTING -s 172.20.101.0/24 ! -o cni0 -j MASQUERADE
COMMIT
"""
    assert go_rules(save, SUBNET, ("eth1", "eth2")) == (
        "-A FORWARD -i cni0 -o cni0 -j ACCEPT",
        "-A FORWARD -i eth1 -o cni0 -j ACCEPT",
        "-A POSTROUTING -s 172.20.100.0/24 ! -o cni0 -j MASQUERADE",
    )


@pytest.mark.root
def test_without_the_capability_we_are_told_so(namespace: Any, powerless: Callable[[str], str]) -> None:
    said = powerless(
        "from cocoon_net.errors import Refused\n"
        "from cocoon_net.node.firewall import Firewall\n"
        "try: Firewall().observe(None)\n"
        "except Refused as error: print(error.message, '/', error.hint)\n"
    )
    assert "iptables-save ended with 4" in said and "CAP_NET_ADMIN" in said


@pytest.mark.root
def test_a_rule_that_iptables_does_not_take_changes_nothing(namespace: Any, context: Any) -> None:
    bad = Ruleset(("-i cni0 -j NONSENSE",), WANT.nat_rules)
    before = namespace.run("iptables-save")
    with pytest.raises(NodeError, match=r"iptables-restore ended with 2: .*NONSENSE"):
        Firewall().apply(Change("firewall", KEY, Verb.CREATE, bad, None), "t", context())
    assert rules(namespace.run("iptables-save")) == rules(before)


@pytest.mark.root
def test_deleting_what_is_not_there_is_done_and_looking_makes_no_table(namespace: Any, context: Any) -> None:
    assert Firewall().observe(context()) == {}
    assert Firewall().apply(DELETE, "t", context()) == {}
    assert namespace.run("iptables-save") == ""


@pytest.mark.root
def test_what_was_applied_is_what_is_seen_to_the_letter(namespace: Any, context: Any, converge: Converge) -> None:
    made = converge(Firewall(), context(), "firewall", {KEY: WANT})
    assert [change.verb for change in made] == [Verb.CREATE]
    seen = Firewall().observe(context())[KEY]
    assert seen == WANT and seen.ours is True


@pytest.mark.root
def test_the_rules_of_others_survive_both_ways(namespace: Any, context: Any, converge: Converge) -> None:
    namespace.iptables("-P FORWARD DROP")
    namespace.iptables("-N DOCKER-USER")
    namespace.iptables("-A DOCKER-USER -j RETURN")
    namespace.iptables("-A FORWARD -j DOCKER-USER")
    namespace.run("iptables", "-A", "FORWARD", "-m", "comment", "--comment", 'say "COCOON-NET-FORWARD"', "-j", "ACCEPT")
    namespace.iptables("-A FORWARD")
    namespace.iptables("-t nat -A POSTROUTING -s 10.1.0.0/16 -j MASQUERADE")
    before = rules(namespace.run("iptables-save"))
    converge(Firewall(), context(), "firewall", {KEY: WANT})
    after = rules(namespace.run("iptables-save"))
    assert [line for line in after if "COCOON-NET-" not in line or "say" in line] == before
    converge(Firewall(), context(), "firewall", {}, prune=True)
    assert rules(namespace.run("iptables-save")) == before


@pytest.mark.root
@pytest.mark.parametrize(
    "harm",
    [
        ["-I FORWARD 1 -j DROP"],
        ["-D FORWARD -j COCOON-NET-FORWARD"],
        ["-A FORWARD -j COCOON-NET-FORWARD"],
        ["-D FORWARD -j COCOON-NET-FORWARD", "-A FORWARD -i eth9 -j ACCEPT", "-A FORWARD -j COCOON-NET-FORWARD"],
        ["-D FORWARD -j COCOON-NET-FORWARD", "-I FORWARD 1 -s 10.0.0.0/8 -g COCOON-NET-FORWARD"],
        ["-F COCOON-NET-FORWARD"],
        ["-I COCOON-NET-FORWARD 3 -j DROP"],
        ["-t nat -F"],
        ["-t nat -F", "-t nat -X"],
        ["-F", "-X"],
    ],
)
def test_what_somebody_changed_is_put_right_and_the_jump_is_first_again(
    namespace: Any, context: Any, converge: Converge, harm: list[str]
) -> None:
    converge(Firewall(), context(), "firewall", {KEY: WANT})
    for words in harm:
        namespace.iptables(words)
    assert Firewall().observe(context()).get(KEY) != WANT
    converge(Firewall(), context(), "firewall", {KEY: WANT})
    saved = namespace.run("iptables-save").splitlines()
    assert next(line for line in saved if line.startswith("-A FORWARD")) == "-A FORWARD -j COCOON-NET-FORWARD"
    assert sum("-j COCOON-NET-FORWARD" in line or "-g COCOON-NET-FORWARD" in line for line in saved) == 1


@pytest.mark.root
def test_a_removal_takes_jumps_from_other_chains_along(namespace: Any, context: Any, converge: Converge) -> None:
    converge(Firewall(), context(), "firewall", {KEY: WANT})
    namespace.iptables("-N DOCKER-USER")
    namespace.iptables("-A DOCKER-USER -i cni0 -j COCOON-NET-FORWARD")
    converge(Firewall(), context(), "firewall", {}, prune=True)
    assert "COCOON-NET" not in namespace.run("iptables-save")
    assert ":DOCKER-USER" in namespace.run("iptables-save")


@pytest.mark.root
def test_the_go_tool_s_drops_are_replaced_and_its_other_rules_noted(
    namespace: Any, context: Any, converge: Converge
) -> None:
    drop = "-i cni0 -d 10.7.0.0/16 -m comment --comment cocoon-net-drop -j DROP"
    for words in ("-A FORWARD -i eth1 -o cni0 -j ACCEPT", "-A FORWARD -i cni0 -o cni0 -j ACCEPT", f"-I FORWARD {drop}"):
        namespace.iptables(words)
    cx = context(links={"eni-1": Link(up=True, name="eth1")})
    noted = Firewall().apply(Change("firewall", KEY, Verb.CREATE, WANT, None), "t", cx)
    assert noted == {"left alone": "-A FORWARD -i eth1 -o cni0 -j ACCEPT; -A FORWARD -i cni0 -o cni0 -j ACCEPT"}
    saved = namespace.run("iptables-save")
    assert "10.7.0.0/16" not in saved and "-A FORWARD -i eth1 -o cni0 -j ACCEPT" in saved


@pytest.mark.root
def test_rules_that_change_under_our_hands_are_looked_at_again(
    namespace: Any, context: Any, converge: Converge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converge(Firewall(), context(), "firewall", {KEY: WANT})
    real = shutil.which("iptables-save")
    program(tmp_path, "iptables-save", f"{real}; iptables -F FORWARD", monkeypatch)  # gone right after we looked
    with pytest.raises(NodeTransient, match="does a matching rule exist"):
        Firewall().apply(Change("firewall", KEY, Verb.UPDATE, WANT, None), "t", context())


def rules(save: str) -> list[str]:
    """Leave out comments, tables and counters."""
    return [line.split(" [")[0] for line in save.splitlines() if line[:1] in ":-"]
