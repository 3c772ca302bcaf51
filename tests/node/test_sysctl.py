"""Kernel settings: read, written, restored, and absent with their link."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.engine.model import Change, Verb
from cocoon_net.errors import InvariantError, NodeError, NodeTransient
from cocoon_net.node import sysctl
from cocoon_net.node.sysctl import Sysctls
from cocoon_net.records import IP_FORWARD, Link, Sysctl, rp_filter
from cocoon_net.steps.node import settings

SYSCTLS = Sysctls(settings)


def test_seen_is_what_is_asked_for_and_what_the_ledger_has(
    context: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sysctl, "PROC", tmp_path)
    links = {"eni-1": Link(up=True, name="eth1"), "eni-2": Link(up=True, name="ens5.7"), "eni-3": Link(up=True)}
    cx = context({"primary_nic": "eth0"}, links=links, sysctl={"net.ipv4.tcp_ecn": Sysctl("net.ipv4.tcp_ecn", "1")})
    for name in ("ip_forward", "tcp_ecn", *(f"conf/{link}/rp_filter" for link in ("all", "cni0", "eth0", "ens5.7"))):
        (tmp_path / "net/ipv4" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "net/ipv4" / name).write_text("2\n")
    asked = (IP_FORWARD, rp_filter("all"), rp_filter("cni0"), rp_filter("eth0"), "net.ipv4.conf.ens5/7.rp_filter")
    assert [*SYSCTLS.observe(cx)] == [*asked, "net.ipv4.tcp_ecn"], "eth1 is not there, eni-3 has no link yet"


def test_a_read_only_proc_is_explained(context: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysctl, "PROC", tmp_path)
    (tmp_path / "net/ipv4/ip_forward").mkdir(parents=True)
    with pytest.raises(NodeError, match=r"cannot read net\.ipv4\.ip_forward: Is a directory"):
        SYSCTLS.observe(context())


def test_a_name_cannot_leave_proc_sys(context: Any) -> None:
    with pytest.raises(InvariantError, match="is no name of a setting"):
        SYSCTLS.apply(Change("sysctl", "x", Verb.UPDATE, Sysctl("net.//.//.etc", "1"), None), "t", context())


@pytest.mark.root
def test_the_settings_of_a_missing_link_are_absent_and_waited_for(namespace: Any, context: Any) -> None:
    cx = context({"primary_nic": "eth0"})
    assert sorted(SYSCTLS.observe(cx)) == [rp_filter("all"), IP_FORWARD]
    with pytest.raises(NodeTransient, match=r"cannot set net\.ipv4\.conf\.cni0\.rp_filter to 0"):
        SYSCTLS.apply(Change("sysctl", rp_filter("cni0"), Verb.CREATE, Sysctl(rp_filter("cni0"), "0"), None), "t", cx)
    SYSCTLS.apply(Change("sysctl", rp_filter("cni0"), Verb.DELETE, None, Sysctl(rp_filter("cni0"), "0")), "t", cx)


@pytest.mark.root
def test_a_setting_is_changed_and_restored(namespace: Any, context: Any, converge: Callable[..., list[Change]]) -> None:
    namespace.interface("odd.name", "00:16:3e:00:00:01")
    key = rp_filter("odd.name")
    namespace.run("sysctl", "-w", "net/ipv4/conf/odd.name/rp_filter=2")
    cx = context(links={"eni-1": Link(up=True, name="odd.name")})
    before = SYSCTLS.observe(cx)
    assert before[key] == Sysctl(key, "2")
    want = {key: Sysctl(key, "0"), IP_FORWARD: Sysctl(IP_FORWARD, "1")}
    assert {change.verb for change in converge(SYSCTLS, cx, "sysctl", want)} == {Verb.UPDATE}
    assert namespace.run("sysctl", "-n", "net/ipv4/conf/odd.name/rp_filter").strip() == "0"
    converge(SYSCTLS, cx, "sysctl", {key: before[key]})
    assert namespace.run("sysctl", "-n", "net/ipv4/conf/odd.name/rp_filter").strip() == "2"


@pytest.mark.root
def test_deleting_one_gives_it_the_value_of_new_links(namespace: Any, context: Any) -> None:
    namespace.run("sysctl", "-w", "net.ipv4.conf.default.rp_filter=1")
    namespace.interface("eth1", "00:16:3e:00:00:01")
    key = rp_filter("eth1")
    cx = context(links={"eni-1": Link(up=True, name="eth1")})
    SYSCTLS.apply(Change("sysctl", key, Verb.UPDATE, Sysctl(key, "0"), None), "t", cx)
    SYSCTLS.apply(Change("sysctl", key, Verb.DELETE, None, Sysctl(key, "0")), "t", cx)
    assert SYSCTLS.observe(cx)[key] == Sysctl(key, "1")


@pytest.mark.root
def test_without_root_it_is_refused(namespace: Any, powerless: Callable[[str], str]) -> None:
    said = powerless(
        "import os\n"
        "from cocoon_net.errors import Refused\n"
        "from cocoon_net.node.sysctl import _write\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: _write('net.ipv4.ip_forward', '1')\n"
        "except Refused as error: print(error.message)\n"
    )
    assert said.startswith("cannot set net.ipv4.ip_forward to 1: ")
