"""Guests with real DHCP clients on a real bridge."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from ipaddress import IPv4Address

import pytest

from cocoon_net.dhcp.decision import Reason
from cocoon_net.dhcp.lease import Lease, State
from cocoon_net.dhcp.projection import LeaseFile
from cocoon_net.dhcp.reservation import Reservation
from cocoon_net.dhcp.server import Server
from cocoon_net.dhcp.settings import parse
from cocoon_net.dhcp.wire import REQUEST, Packet
from cocoon_net.errors import SpecError

pytestmark = pytest.mark.root

MAC = "02:00:5e:10:00:0{}"
SCRIPT = """#!/bin/sh
case $1 in
bound|renew)
  ip addr replace $ip/$mask dev $interface
  ip route replace default via $router dev $interface
  echo "$1 $ip router=$router dns=$dns mtu=$mtu broadcast=$broadcast lease=$lease server=$serverid"
  echo "domain=$domain hostname=$hostname" ;;
*) echo "$1" ;;
esac
"""


@pytest.fixture
def udhcpc(node, tmp_path):
    script = tmp_path / "script"
    script.write_text(SCRIPT)
    script.chmod(0o755)

    def lease(guest, *more):
        return node.execute(
            guest,
            "udhcpc",
            "-i",
            "eth0",
            "-n",
            "-q",
            "-f",
            "-t",
            "3",
            "-T",
            "1",
            "-O",
            "mtu",
            "-s",
            str(script),
            *more,
            check=False,
        )

    return lease


def test_a_guest_gets_its_address_and_everything_with_it(node, book, pool, serving, udhcpc, tmp_path):
    guest = node.add_guest(MAC.format(1))
    with serving(node, Server(book, pool, lease_file=LeaseFile(tmp_path / "leases.json"))):
        said = udhcpc(guest)
        assert "bound 172.20.100.10 router=172.20.100.1 dns=8.8.8.8 1.1.1.1 mtu=1500 broadcast=172.20.100.255" in said
        assert node.routes() == {"172.20.100.10"}
        assert "1 received" in node.execute(guest, "ping", "-c1", "-W2", "172.20.100.1")
    (row,) = json.loads((tmp_path / "leases.json").read_text())
    assert (row["mac"], row["ip"]) == (MAC.format(1), "172.20.100.10")


def test_reservations_and_settings_reach_a_guest_after_a_reload(node, book, pool, serving, udhcpc):
    guest = node.add_guest(MAC.format(1))
    book.put_pool(pool, datetime(2026, 1, 1, tzinfo=UTC))
    server = Server(book, pool)
    with serving(node, server):
        assert "bound 172.20.100.10 " in udhcpc(guest)
        book.reserve(Reservation(bytes.fromhex("02005e100001"), IPv4Address("172.20.100.15"), "db"), 1)
        server.reload(pool, parse('lease-time = "1h"\ndomain = "vms.example.org"'))
        said = udhcpc(guest, "-O", "domain", "-O", "hostname")
        assert "bound 172.20.100.15 " in said
        assert "lease=3600 " in said
        assert "domain=vms.example.org" in said
        assert "hostname=db" in said
        server.release(MAC.format(1))
    assert node.routes() == set()


def test_a_vm_that_sleeps_keeps_its_address(node, book, pool, serving, udhcpc):
    """vk-cocoon ends the lease of a VM that it hibernates; a clone of it wakes up with its address, and names it."""
    sleeper, clone, another = (node.add_guest(MAC.format(number)) for number in (1, 2, 3))
    with serving(node, Server(book, pool)) as server:
        assert "bound 172.20.100.10 " in udhcpc(sleeper)
        assert server.release(MAC.format(1))
        assert "bound 172.20.100.11 " in udhcpc(clone, "-r", "172.20.100.10")
    with serving(node, Server(book, pool)):
        assert "bound 172.20.100.12 " in udhcpc(another, "-r", "172.20.100.10")
        assert "bound 172.20.100.10 " in udhcpc(sleeper), "it woke up"


def test_who_has_other_hardware_is_released_as_it_is_listed(node, book, pool, serving):
    asks = Packet(REQUEST, 7, bytes.fromhex("02005e100001"), {}, htype=6)
    until = int(time.time()) + 3600
    address = int(IPv4Address("172.20.100.10"))
    book.commit([Lease(address, State.BOUND, until, asks.hardware, until - 7200)], [])
    with serving(node, Server(book, pool)) as server:
        (lease,) = server.leases()
        with pytest.raises(SpecError, match="is not a MAC"):
            server.release(lease.mac[1:].hex(":"))
        assert server.release(lease.mac.hex(":")) and not server.leases()
        assert [str(one.reason) for one in server.trace(lease.mac)[0]] == [Reason.ENDED]


def test_the_loop_gives_a_sign_of_life_each_second_and_none_while_it_hangs(node, book, pool, serving):
    beats, hangs, go_on = [], threading.Event(), threading.Event()

    def hang(addresses):
        hangs.set()
        go_on.wait(10)

    server = Server(book, pool, beat=beats.append)
    server._reroute = hang  # an order that does not come to an end
    with serving(node, server):
        time.sleep(2.5)
        assert len(beats) in (2, 3, 4) and beats == sorted(beats)
        asking = threading.Thread(target=server.reroute, args=([],))
        asking.start()
        assert hangs.wait(5)
        before = len(beats)
        time.sleep(1.5)
        assert len(beats) == before, "systemd is to notice"
        go_on.set()
        asking.join()
        time.sleep(1.5)
        assert len(beats) > before
