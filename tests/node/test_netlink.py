"""What the kernel says of links and addresses, and what its refusals become."""

from __future__ import annotations

import errno
import gc
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.errors import NodeError, NodeTransient, Refused
from cocoon_net.node import iproute, netlink


def test_a_refusal_says_what_was_wanted_and_whether_looking_again_may_help() -> None:
    denied = netlink.refusal(errno.EPERM, "set up on eth1")
    assert isinstance(denied, Refused)
    assert denied.message == "cannot set up on eth1: Operation not permitted (EPERM)"
    assert "CAP_NET_ADMIN" in denied.hint
    for code in (errno.EBUSY, errno.ENOBUFS, errno.ENODEV, errno.EEXIST):
        passing = netlink.refusal(code, "x")
        assert isinstance(passing, NodeTransient) and "tried again" in passing.hint
    lasting = netlink.refusal(errno.EINVAL, "x", "MTU too small")
    assert isinstance(lasting, NodeError) and not lasting.retryable
    assert "MTU too small" in lasting.message and lasting.code == "EINVAL"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError(), "cannot x: no answer from the kernel within 10 s"),
        (BlockingIOError(errno.EAGAIN, "later"), "cannot x: no answer from the kernel within 5 s"),
        (OSError(errno.EBUSY, os.strerror(errno.EBUSY)), "cannot x: Device or resource busy (EBUSY)"),
        (OSError(errno.EINVAL, "MTU too small"), "cannot x: Invalid argument (EINVAL: MTU too small)"),
        (OSError("nothing is known"), "cannot x: Input/output error (EIO)"),
    ],
)
def test_what_the_kernel_did_not_do_is_told_once_and_with_what_to_do_next(error: OSError, said: str) -> None:
    failure = netlink.failure(error, "x")
    assert failure.message == said and failure.hint


@pytest.mark.root
def test_what_only_looks_does_not_import_pyroute2(namespace: Any, powerless: Callable[[str], str]) -> None:
    said = powerless(
        "import sys, cocoon_net.node.bridge, cocoon_net.node.links, cocoon_net.node.routes\n"
        "from cocoon_net.node import netlink\n"
        "netlink.links(), netlink.link('lo'), netlink.addresses(1), netlink.neighbours(1)\n"
        "print('pyroute2' in sys.modules)"
    )
    assert said == "False\n"


@pytest.mark.root
def test_looking_leaves_nothing_to_collect(namespace: Any) -> None:
    for number in range(20):
        namespace.interface(f"eth{number}", f"00:16:3e:00:01:{number:02x}")
    look: list[Callable[[], object]] = [netlink.links, lambda: netlink.link("eth3"), lambda: netlink.addresses(1)]
    gc.collect()
    gc.disable()
    try:
        for one in look:
            one()
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.root
def test_without_the_capability_we_are_told_so(namespace: Any, powerless: Callable[[str], str]) -> None:
    namespace.interface("eth1", "00:16:3e:00:00:01")
    said = powerless(
        "from cocoon_net.node import netlink\n"
        "from cocoon_net.errors import Refused\n"
        "index = netlink.link('eth1').index\n"
        "try: netlink.set_link(index, up=True, name='eth1')\n"
        "except Refused as error: print(error.message, '/', error.hint)\n"
    )
    assert said.startswith("cannot set state up on eth1: Operation not permitted (EPERM")
    assert "CAP_NET_ADMIN" in said


@pytest.mark.root
def test_a_link_that_is_not_there_is_none_and_deleting_it_is_done(namespace: Any) -> None:
    assert netlink.link("eth9") is None
    netlink.delete_link(4711, name="eth9")
    with pytest.raises(NodeTransient, match="cannot set state up on eth9: No such device"):
        netlink.set_link(4711, up=True, name="eth9")


@pytest.mark.root
def test_the_kernel_s_own_words_reach_the_operator(namespace: Any) -> None:
    namespace.interface("eth1", "00:16:3e:00:00:01")
    link = netlink.link("eth1")
    assert link is not None
    with pytest.raises(NodeError, match=r"cannot set mtu 12 on eth1: .*EINVAL"):
        netlink.set_link(link.index, mtu=12, name="eth1")


@pytest.mark.root
def test_links_are_described(namespace: Any) -> None:
    namespace.interface("eth1", "00:16:3E:00:00:01", mtu=1400)
    netlink.add_bridge("br0", mac="02:00:00:00:00:01", mtu=1450)
    namespace.ip("link set eth1 master br0 up alias one")
    found = {link.name: link for link in netlink.links()}
    eth1, bridge = found["eth1"], found["br0"]
    assert (eth1.mac, eth1.mtu, eth1.up, eth1.kind) == ("00:16:3e:00:00:01", 1400, True, "veth")
    assert (eth1.port_of, eth1.master, eth1.alias) == ("bridge", bridge.index, "one")
    assert (bridge.kind, bridge.mac, bridge.up) == ("bridge", "02:00:00:00:00:01", False)
    assert not eth1.has_device


@pytest.mark.root
def test_links_are_as_ip_lists_them(namespace: Any) -> None:
    namespace.interface("eth1", "00:16:3e:00:00:01")
    namespace.ip("link add br0 type bridge")
    namespace.ip("link add link eth1 name mac7 type macvlan")
    namespace.ip("link add tap0 type veth peer name tap1")
    namespace.ip("link set tap0 up alias a")
    namespace.ip("link set tap1 master br0")
    listed = json.loads(namespace.ip("-d -j link show"))
    names = {one["ifindex"]: one["ifname"] for one in listed}
    assert [(one.index, one.name, one.mac, one.mtu, one.kind, one.alias, one.up) for one in netlink.links()] == [
        (
            one["ifindex"],
            one["ifname"],
            one["address"],
            one["mtu"],
            one.get("linkinfo", {}).get("info_kind", ""),
            one.get("ifalias", ""),
            "UP" in one["flags"],
        )
        for one in listed
    ]
    for one in netlink.links():
        assert netlink.link(one.name) == one
    ports = {one.name: (names[one.master], one.port_of) for one in netlink.links() if one.master}
    assert ports == {"tap1": ("br0", "bridge")}


@pytest.mark.root
def test_neighbours_are_those_that_answered(namespace: Any) -> None:
    namespace.interface("eth1", "00:16:3e:00:00:01")
    namespace.ip("link set eth1 up")
    namespace.ip("neigh add 172.20.100.7 lladdr 02:00:00:00:00:07 dev eth1")
    namespace.ip("neigh add 172.20.100.8 dev eth1 nud failed")
    namespace.ip("neigh add 172.20.100.9 lladdr 02:00:00:00:00:09 dev eth1 nud noarp")
    link = netlink.link("eth1")
    assert link is not None
    assert netlink.neighbours(link.index) == {IPv4Address("172.20.100.7"): "02:00:00:00:00:07"}
    assert netlink.neighbours(4711) == {}


@pytest.mark.root
def test_addresses_come_and_go_and_both_twice(namespace: Any) -> None:
    netlink.add_bridge("br0", mac="02:00:00:00:00:01", mtu=1500)
    link = netlink.link("br0")
    assert link is not None
    namespace.ip("addr add fd00::1/64 dev br0")
    one = IPv4Interface("172.20.100.1/24")
    netlink.add_address(link.index, one)
    netlink.add_address(link.index, one)
    assert netlink.addresses(link.index) == (one,)
    netlink.delete_address(link.index, one)
    netlink.delete_address(link.index, one)
    assert netlink.addresses(link.index) == ()
    namespace.ip("addr add 172.20.100.1 peer 172.20.100.2/32 dev br0")
    assert netlink.addresses(link.index) == (IPv4Interface("172.20.100.1/32"),), "its own end, not the other's"


@pytest.mark.root
def test_many_short_lived_threads_ask_through_one_socket(namespace: Any) -> None:
    netlink.links()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: netlink.links(), range(16)))
        assert all([link.name for link in links] == ["lo"] for links in answers)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.root
def test_a_socket_that_failed_is_closed_and_the_next_change_opens_another(namespace: Any) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def fail(ipr: Any) -> None:
        ipr.get_links()
        raise OSError(errno.ENOBUFS, "it lost count")

    before = descriptors()
    for _ in range(3):
        with pytest.raises(OSError, match="it lost count"):
            iproute.ask(fail)
        assert descriptors() <= before, "none is left open"
    netlink.add_bridge("br0", mac="02:00:00:00:00:01", mtu=1500)
    assert descriptors() > before, "the one that works is kept"
    iproute.close()
    assert descriptors() <= before


@pytest.mark.root
def test_a_forked_child_does_not_share_the_parent_s_socket(namespace: Any) -> None:
    assert netlink.links()
    child = os.fork()
    if child == 0:
        os._exit(0 if netlink.links() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert netlink.links()
