"""What the metrics say of a server, from its own counts."""

from __future__ import annotations

from typing import Any

import pytest

from cocoon_net import records
from cocoon_net.dhcp import wire
from cocoon_net.dhcp.book import Book
from cocoon_net.dhcp.decision import Reason
from cocoon_net.dhcp.options import MessageType
from cocoon_net.dhcp.server import Server
from cocoon_net.lab.load import Clients, broadcast
from cocoon_net.supervisor.board import readings
from cocoon_net.supervisor.lifecycle import Lifecycle

pytestmark = pytest.mark.root


def test_every_reason_is_counted_and_every_reply_is_timed(
    node: Any, book: Book, pool: records.Pool, serving: Any
) -> None:
    guest = node.add_guest("02:00:5e:10:00:01")
    server_address = int(pool.gateway)

    def ask() -> None:
        clients = Clients(3, server=server_address)
        clients.run(3, patience=5.0)
        clients.send(broadcast(b"\x02\x00\x00\x00\x00\x01", b"tiger"))
        clients.run(3, patience=5.0)
        clients.close()

    with serving(node, Server(book, pool)) as server:
        node.of_guest(guest, ask)
        life = Lifecycle(lambda *_: None, lambda *_: None, lambda *_: None)
        seen = readings(
            6, life, server.snapshot(), None, {}, workflow={}, room={}, findings={}, audited=None, mended={}
        )
    assert {"bound": 3, "renewed": 3, "offered": 3}.items() <= seen.decisions.items()
    assert seen.decisions.keys() == {reason.name.lower() for reason in Reason}
    assert seen.malformed["short"] == 1 and seen.malformed["frame"] == 0
    assert set(seen.guarded.values()) == {0}
    assert sum(seen.times["offer"].counts) == 3 and sum(seen.times["ack"].counts) == 6
    assert sum(seen.times["commit"].counts) >= 2 and seen.times["commit"].seconds > 0
    assert sum(seen.times["netlink"].counts) >= 1


def test_a_reply_that_the_kernel_refuses_is_not_counted_as_sent(
    node: Any, book: Book, pool: records.Pool, serving: Any, eventually: Any
) -> None:
    guest = node.add_guest("02:00:5e:10:00:01")
    mac, relay = b"\x02\x00\x5e\x10\x00\x01", int(pool.gateway) + 200
    fields = {53: bytes((MessageType.DISCOVER,))}
    discover = broadcast(mac, wire.encode(wire.Packet(wire.REQUEST, 7, mac, fields, giaddr=relay)))

    def ask() -> None:
        clients = Clients(1, server=int(pool.gateway))
        clients.send(discover)
        clients.close()

    drop = ("-p", "udp", "--sport", "67", "-j", "DROP")
    with serving(node, Server(book, pool)) as server:
        node.execute(node.name, "iptables", "-I", "OUTPUT", *drop)  # sendmsg(2) says EPERM
        node.of_guest(guest, ask)
        eventually(lambda: server.snapshot().unsent == 1)
        assert server.snapshot().sent["offer"] == 0
        node.execute(node.name, "iptables", "-D", "OUTPUT", *drop)
        node.of_guest(guest, ask)
        eventually(lambda: server.snapshot().sent["offer"] == 1)
        assert server.snapshot().unsent == 1
