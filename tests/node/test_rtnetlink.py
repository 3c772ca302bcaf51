"""How the kernel's answers are read: by a real socket, from datagrams that a test spells, and from the kernel."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest

from cocoon_net.errors import NodeTransient
from cocoon_net.node import netlink, routewire, rtnetlink
from cocoon_net.node.rtnetlink import HEADER

_ANSWER, _ASKED, _ERROR, _DONE, _NOTHING = 16, 18, 2, 3, 1
_INTERRUPTED = 0x10


def message(kind: int, body: bytes = b"", *, flags: int = 0, sequence: int = 7) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


DONE = message(_DONE, bytes(4))


@pytest.fixture
def kernel() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.settimeout(1.0)
    with one, other:
        yield one, other


def answers(kernel: tuple[socket.socket, socket.socket], *datagrams: bytes) -> list[bytes] | None:
    for datagram in datagrams:
        kernel[1].send(datagram)
    found, whole = rtnetlink._answers(kernel[0], _ASKED, 7, bytes)
    return found if whole else None


def test_a_listing_comes_in_parts_and_ends_with_the_last(kernel: Any) -> None:
    parts = message(_ANSWER, b"one!") + message(_ANSWER, b"two!"), message(_ANSWER, b"tri!"), DONE
    assert answers(kernel, *parts) == [b"one!", b"two!", b"tri!"]


def test_a_change_in_any_part_spoils_the_whole_and_all_of_it_is_read(kernel: Any) -> None:
    assert answers(kernel, message(_ANSWER, b"one!", flags=_INTERRUPTED), message(_ANSWER, b"two!"), DONE) is None
    assert answers(kernel, message(_ANSWER, b"new!"), DONE) == [b"new!"]
    assert answers(kernel, message(_DONE, bytes(4), flags=_INTERRUPTED)) is None, "the last part tells it, too"


def test_what_answers_another_question_is_not_read(kernel: Any) -> None:
    stale = message(_ANSWER, b"old!", sequence=6) + message(_DONE, bytes(4), sequence=6)
    assert answers(kernel, stale, message(_ANSWER, b"new!") + DONE) == [b"new!"]


@pytest.mark.parametrize("kind", [_ERROR, _DONE])
def test_a_refusal_is_an_error_also_at_the_end_of_a_listing(kernel: Any, kind: int) -> None:
    with pytest.raises(OSError) as error:
        answers(kernel, message(_ANSWER, b"one!"), message(kind, struct.pack("=i", -errno.EMSGSIZE)))
    assert error.value.errno == errno.EMSGSIZE


@pytest.mark.root
def test_what_changed_while_it_was_read_is_read_again(namespace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real, readings = rtnetlink._answers, []

    def spoilt(*question: Any) -> Any:
        found, _ = real(*question)
        readings.append(found)
        return found, len(readings) == rtnetlink.READINGS

    monkeypatch.setattr(rtnetlink, "_answers", spoilt)
    assert [link.name for link in netlink.links()] == ["lo"] and len(readings) == 5
    with pytest.raises(NodeTransient, match=r"cannot list links: .*EINTR: it changed during each of 5 readings"):
        netlink.links()
    assert [link.name for link in netlink.links(moving=True)] == ["lo"] and len(readings) == 11


@pytest.mark.root
def test_a_kernel_that_does_not_answer_is_not_waited_for_for_ever(
    namespace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtnetlink, "ANSWER_WITHIN", 1)
    with pytest.raises(NodeTransient, match="cannot look: no answer from the kernel within 1 s") as error:
        netlink._ask("look", partial(rtnetlink.ask, _NOTHING, b"", bytes))  # NLMSG_NOOP: it need not answer
    assert "dmesg" in error.value.hint


@pytest.mark.root
def test_a_kernel_that_does_not_filter_is_read_the_same(namespace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 4.20 a listing is of all links, whatever was asked for."""
    monkeypatch.setattr(rtnetlink, "_STRICT_CHECK", 4711)
    namespace.interface("eth1", "00:16:3e:00:00:01")
    namespace.interface("eth2", "00:16:3e:00:00:02")
    for number, name in enumerate(("eth1", "eth2"), 1):
        namespace.ip(f"link set {name} up")
        namespace.ip(f"addr add 10.0.{number}.1/24 dev {name}")
        namespace.ip(f"neigh add 10.0.{number}.7 lladdr 02:00:00:00:00:0{number} dev {name}")
        namespace.ip(f"route add 10.0.{number}.9/32 dev {name} proto 174")
    one = netlink.link("eth1")
    assert one is not None and len(netlink.links()) == 5
    assert netlink.addresses(one.index) == (IPv4Interface("10.0.1.1/24"),)
    assert netlink.neighbours(one.index) == {IPv4Address("10.0.1.7"): "02:00:00:00:00:01"}
    with routewire.RouteWire(one.index) as wire:
        assert wire.present() == {int(IPv4Address("10.0.1.9"))}
