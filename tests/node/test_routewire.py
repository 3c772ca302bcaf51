"""Host routes in batches: what fails is named, what does not fail is there."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import pytest

from cocoon_net.errors import NodeTransient
from cocoon_net.node import routewire, rtnetlink
from cocoon_net.node.routewire import RouteWire

pytestmark = pytest.mark.root

FIRST = int(IPv4Address("172.20.0.1"))


@pytest.fixture
def index(namespace: Any) -> int:
    """A bridge that is up, with the gateway's address; returns its index."""
    namespace.ip("link add cni0 type bridge")
    namespace.ip("addr add 172.20.255.254/16 dev cni0")
    namespace.ip("link set cni0 up")
    return int(json.loads(namespace.ip("-j link show cni0"))[0]["ifindex"])


def test_a_link_that_is_gone_is_named_for_each_route(namespace: Any, index: int) -> None:
    with RouteWire(index) as wire:
        namespace.ip("link del cni0")
        assert wire.change((FIRST, FIRST + 1), (FIRST + 2,)) == {FIRST: errno.ENODEV, FIRST + 1: errno.ENODEV}


def test_a_link_that_is_down_takes_no_routes(namespace: Any, index: int) -> None:
    namespace.ip("link set cni0 down")
    with RouteWire(index) as wire:
        assert wire.change((FIRST,), ()) == {FIRST: errno.ENETDOWN}


def test_an_index_must_be_one() -> None:
    with pytest.raises(ValueError, match="0 is not the index of a link"):
        RouteWire(0)


def test_without_the_capability_every_route_is_refused(
    namespace: Any, index: int, powerless: Callable[[str], str]
) -> None:
    code = f"from cocoon_net.node.routewire import RouteWire; print(RouteWire({index}).change(range(9, 3009), ()))"
    said = powerless(code)
    assert said.strip() == str(dict.fromkeys(range(9, 3009), errno.EPERM))


def test_one_that_fails_does_not_stop_the_others(index: int) -> None:
    with RouteWire(index) as wire:
        assert wire.change((FIRST, FIRST + 1), ()) == {}
        wire.change((), (FIRST + 7, FIRST, FIRST + 8, FIRST + 1, FIRST + 9))  # the kernel answers ESRCH to three
        assert wire.present() == set()


def test_routes_are_what_ip_lists_under_our_protocol(namespace: Any, index: int) -> None:
    with RouteWire(index) as wire:
        assert wire.change((FIRST,), ()) == {}
    (route,) = json.loads(namespace.ip("-j route show proto 174 table main scope link"))
    assert (route["dst"], route["dev"]) == ("172.20.0.1", "cni0")


def test_asking_twice_is_asking_once(index: int) -> None:
    with RouteWire(index) as wire:
        assert wire.change((), (FIRST,)) == {}
        assert wire.change((FIRST,), ()) == {}
        assert wire.change((FIRST,), ()) == {}
        assert wire.present() == {FIRST}
        assert wire.change((), (FIRST, FIRST)) == {}
        assert wire.present() == set()


def test_an_address_in_both_lists_ends_up_present(index: int) -> None:
    with RouteWire(index) as wire:
        assert wire.change((FIRST,), (FIRST,)) == {}
        assert wire.present() == {FIRST}


def test_somebody_else_s_route_is_taken_over_but_never_deleted(namespace: Any, index: int) -> None:
    namespace.ip("route add 172.20.0.1/32 dev cni0")
    namespace.ip("route add 172.20.0.2/32 dev cni0")
    with RouteWire(index) as wire:
        assert wire.change((), (FIRST, FIRST + 1)) == {}
        assert "172.20.0.2" in namespace.ip("route show proto boot")
        assert wire.change((FIRST,), ()) == {}
    assert "172.20.0.1" not in namespace.ip("route show proto boot")
    assert "172.20.0.1" in namespace.ip("route show proto 174")


def test_more_than_a_batch_and_more_refusals_than_a_small_buffer_holds(index: int) -> None:
    many = range(FIRST, FIRST + 3500)
    with RouteWire(index) as wire:
        assert wire.change(many, ()) == {}
        assert wire.present() == set(many)
        assert wire.change((), range(FIRST, FIRST + 7000)) == {}  # the later half answers ESRCH each
        assert wire.present() == set()


def test_lost_answers_are_asked_for_again_in_smaller_batches(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routewire, "RECEIVE_BUFFER", 4096)
    many = range(FIRST, FIRST + 300)
    with RouteWire(index) as wire:
        assert wire.change((), many) == {}
        assert wire.change(many, many) == {}
        assert wire.present() == set(many)


def test_the_sequence_number_starts_again(index: int) -> None:
    with RouteWire(index) as wire:
        wire._sequence = 0x7FFFFFFE
        assert wire.change((FIRST, FIRST + 1, FIRST + 2), ()) == {}
        assert len(wire.present()) == 3


def test_a_listing_leaves_out_other_protocols_prefixes_and_tables(namespace: Any, index: int) -> None:
    namespace.ip("route add 172.20.0.0/30 dev cni0 proto 174")
    namespace.ip("route add 172.20.0.9/32 dev cni0 proto static")
    namespace.ip("route add 172.20.0.10/32 dev cni0 proto 174 table 77")
    namespace.ip("route add blackhole 172.20.0.11/32 proto 174")
    namespace.ip("link add eth1 type veth peer name eth1-vpc")
    namespace.ip("link set eth1 up")
    namespace.ip("route add 172.20.0.12/32 dev eth1 proto 174")
    with RouteWire(index) as wire:
        wire.change((FIRST,), ())
        assert wire.present() == {FIRST}
    other = int(json.loads(namespace.ip("-j link show eth1"))[0]["ifindex"])
    assert sorted(routewire.routes()) == [(FIRST, index), (int(IPv4Address("172.20.0.12")), other)]


def test_a_kernel_that_does_not_answer_is_said_to(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtnetlink, "ANSWER_WITHIN", 1)
    with RouteWire(index) as wire:
        monkeypatch.setattr(routewire, "ACK", 0)  # of what succeeds the kernel says nothing then
        with pytest.raises(NodeTransient, match="cannot change 1 routes: no answer from the kernel within 1 s"):
            wire.change((FIRST,), ())
    monkeypatch.setattr(routewire, "_RTM_GETROUTE", 1)  # NLMSG_NOOP: it need not answer
    with pytest.raises(NodeTransient, match="cannot list our routes: no answer from the kernel within 1 s"):
        routewire.routes()


def test_a_listing_that_never_ends_whole_is_passing(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtnetlink, "READINGS", 0)
    with pytest.raises(NodeTransient, match=r"cannot list our routes: .*it changed during each of 0 readings"):
        routewire.routes()
