"""What one port may have: its own leases, its share, its time. First as pure stories, then with real frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from typing import Any

import pytest

from cocoon_net import records
from cocoon_net.dhcp import choice, wire
from cocoon_net.dhcp.book import Book
from cocoon_net.dhcp.decision import Decision, Reason, end
from cocoon_net.dhcp.guard import CONTENDED, FEW, MUTE_AFTER, MUTE_FOR, QUIET, Guard
from cocoon_net.dhcp.lease import State
from cocoon_net.dhcp.limits import BATCH, Limits
from cocoon_net.dhcp.options import Code, MessageType
from cocoon_net.dhcp.pool import Pool
from cocoon_net.dhcp.reservation import Reservation
from cocoon_net.dhcp.server import Server
from cocoon_net.dhcp.settings import Settings, Terms
from cocoon_net.dhcp.table import Table
from cocoon_net.events import Bus, Event, PortRefused
from cocoon_net.lab.load import Clients, broadcast
from cocoon_net.supervisor.narrator import Narrator
from tests.dhcp.story import take

ALICE, BOB, EVE = (bytes.fromhex(f"5254000000{number:02x}") for number in (1, 2, 0xEE))
SERVER = int(IPv4Address("172.20.100.1"))
FIRST = int(IPv4Address("172.20.100.10"))
NOW = 1_800_000_000
MANY = FEW + 1


class Bridge:
    """A guard, its table and ports; what is decided is done, as the server's batch does it."""

    def __init__(self, pool: records.Pool, limits: Limits | None = None, ports: str = "a b c") -> None:
        self.table = Table(Pool.of(pool, Settings(Terms(lease=3600, cooling=60, offer=30, quarantine=600))))
        self.told: list[Event] = []
        self.guard = Guard(self.table, limits or Limits(), self.told.extend)
        self.now = NOW
        self.ports = {name: index for index, name in enumerate(ports.split(), 10)}
        self.guard.begin(0.0, NOW, self.ports, MANY)

    def unplug(self, *ports: str) -> None:
        self.ports = {name: index for name, index in self.ports.items() if name not in ports}
        self.guard.begin(0.0, self.now, self.ports, MANY)

    def plug(self, port: str) -> None:
        self.ports = {**self.ports, port: 99}
        self.guard.begin(0.0, self.now, self.ports, MANY)

    def say(
        self, port: str, kind: MessageType, mac: bytes = ALICE, source: bytes | None = None, **fields: Any
    ) -> Decision:
        options = {int(Code.MESSAGE_TYPE): bytes((kind,)), **(fields.pop("more", None) or {})}
        for name, code in (("server", Code.SERVER_ID), ("requested", Code.REQUESTED_ADDRESS)):
            if name in fields:
                options[int(code)] = fields.pop(name).to_bytes(4)
        packet = wire.Packet(wire.REQUEST, 7, mac, options, port=port, **fields)
        decision = self.guard.decide(packet, mac if source is None else source, self.now)
        take(self.table, decision)
        return decision

    def bind(self, port: str, mac: bytes = ALICE, more: dict[int, bytes] | None = None) -> Decision:
        offered = self.say(port, MessageType.DISCOVER, mac, more=more)
        if offered.kind is None:
            return offered
        return self.say(port, MessageType.REQUEST, mac, server=SERVER, requested=offered.address, more=more)

    def wait(self, seconds: int) -> None:
        self.now += seconds
        for lease in self.table.due(self.now, 1000):
            take(self.table, end(self.table, lease, self.now))
        self.guard.begin(float(self.now - NOW), self.now, self.ports, MANY)


def mac(number: int) -> bytes:
    return b"\x02\x00" + number.to_bytes(4)


@pytest.fixture
def bridge(pool: records.Pool) -> Bridge:
    return Bridge(pool)


# A lease belongs to the port that its client speaks from


def test_a_guest_cannot_renew_release_or_decline_anothers_lease(bridge: Bridge) -> None:
    mine = bridge.bind("a").address
    for kind, fields in (
        (MessageType.REQUEST, {"ciaddr": mine}),
        (MessageType.REQUEST, {"requested": mine}),
        (MessageType.REQUEST, {"server": SERVER, "requested": mine}),
        (MessageType.RELEASE, {"ciaddr": mine, "server": SERVER}),
        (MessageType.DECLINE, {"requested": mine, "server": SERVER}),
        (MessageType.DISCOVER, {}),
    ):
        decision = bridge.say("b", kind, ALICE, **fields)
        assert decision == Decision(Reason.OTHER_PORT), f"{kind.name} of a forged MAC from another port"
    lease = bridge.table.at(mine)
    assert (lease.state, lease.mac, lease.port) == (State.BOUND, ALICE, "a")


def test_a_guest_cannot_be_another_by_a_hardware_type(bridge: Bridge) -> None:
    mine = bridge.bind("a").address
    assert bridge.say("b", MessageType.DISCOVER, ALICE, htype=6).reason is Reason.OTHER_PORT
    other = bridge.say("a", MessageType.DISCOVER, ALICE, htype=6).address
    assert other != mine, "RFC 2131 §2.1"
    assert bridge.say("a", MessageType.REQUEST, htype=6, server=SERVER, requested=other).kind is MessageType.ACK
    bridge.say("a", MessageType.RELEASE, ciaddr=mine, server=SERVER)
    for kind, fields in ((MessageType.REQUEST, {"ciaddr": other}), (MessageType.DISCOVER, {})):
        assert bridge.say("b", kind, ALICE, htype=6, **fields).reason is Reason.OTHER_PORT


def test_a_guest_cannot_take_or_spoil_what_is_on_offer_to_another(bridge: Bridge) -> None:
    offered = bridge.say("a", MessageType.DISCOVER).address
    for kind in (MessageType.REQUEST, MessageType.DECLINE):
        assert bridge.say("b", kind, requested=offered, server=SERVER).reason is Reason.OTHER_PORT
    elsewhere = bridge.say("b", MessageType.REQUEST, requested=offered, server=SERVER + 1)
    assert elsewhere.reason is Reason.OTHER_PORT, "choosing another server gives nobody else's offer up"
    assert bridge.say("a", MessageType.REQUEST, requested=offered, server=SERVER).kind is MessageType.ACK


def test_a_clone_with_the_same_mac_gets_silence_and_a_finding_while_the_first_is_there(bridge: Bridge) -> None:
    mine = bridge.bind("a").address
    assert bridge.bind("b").reason is Reason.OTHER_PORT
    (event,) = bridge.told
    assert isinstance(event, PortRefused)
    assert (event.port, event.mac, event.reason) == ("b", "52:54:00:00:00:01", "the client is served at another port")
    bridge.unplug("a")
    assert bridge.bind("b").address == mine, "the first one's port is gone: its MAC may claim the lease"
    assert bridge.table.at(mine).port == "b"
    bridge.plug("a")
    assert bridge.bind("a").reason is Reason.OTHER_PORT


def test_no_identifier_opens_the_lease_of_a_mac_to_another_port(bridge: Bridge) -> None:
    """A MAC can have several leases (0006); one that lives is enough, also where the latest of them has ended."""
    first, second = ({int(Code.CLIENT_ID): name} for name in (b"\xff one", b"\xff two"))
    mine = bridge.bind("a", more=first).address
    other = bridge.bind("a", more=second).address
    assert mine != other
    bridge.say("a", MessageType.RELEASE, ciaddr=other, server=SERVER, more=second)
    for more in (first, second, {}, {int(Code.CLIENT_ID): b"\xff three"}):
        assert bridge.bind("b", more=more).reason is Reason.OTHER_PORT


def test_a_lease_that_ended_ties_nobody_to_a_port(bridge: Bridge) -> None:
    mine = bridge.bind("a").address
    bridge.say("a", MessageType.RELEASE, ciaddr=mine, server=SERVER)
    assert bridge.bind("b").address == mine


def test_a_lease_of_an_unknown_port_is_claimed_by_whoever_has_the_mac(bridge: Bridge) -> None:
    mine = bridge.bind("a").address
    bridge.table.put(bridge.table.at(mine)._replace(port=""))  # as the Go tool's leases are imported
    assert bridge.bind("b").address == mine
    assert bridge.bind("a").reason is Reason.OTHER_PORT


def test_a_frame_that_names_anothers_client_is_dropped(bridge: Bridge) -> None:
    """With whatever source: neither of its two MACs may be one that is served at another port."""
    bridge.bind("a", ALICE)
    bridge.say("c", MessageType.DISCOVER, BOB)
    for mac, source in ((ALICE, EVE), (EVE, ALICE), (BOB, EVE), (EVE, BOB)):
        decision = bridge.say("b", MessageType.DISCOVER, mac, source=source)
        assert decision == Decision(Reason.FORGED), f"{source.hex()} speaks for {mac.hex()}"
    bridge.unplug("a")
    assert bridge.say("b", MessageType.DISCOVER, EVE, source=ALICE).kind is MessageType.OFFER, "a port that is gone"


def test_a_frame_from_another_mac_than_its_clients_is_served_where_nobody_is_hurt(bridge: Bridge) -> None:
    """A load generator, a bridge that translates MACs, a client with two cards; the lease is bound to the port."""
    assert bridge.say("a", MessageType.DISCOVER, ALICE, source=EVE).kind is MessageType.OFFER
    assert bridge.bind("a", ALICE).kind is MessageType.ACK
    assert bridge.say("a", MessageType.DISCOVER, BOB, source=ALICE).kind is MessageType.OFFER, "both are of one port"
    # Behind a relay the source is the relay's: RFC 1542 §4.1.
    relayed = bridge.say("a", MessageType.DISCOVER, BOB, source=EVE, giaddr=FIRST + 100)
    assert relayed.kind is MessageType.OFFER


def test_a_guest_that_plays_relay_cannot_have_us_talk_to_another_guest(bridge: Bridge) -> None:
    mine = bridge.bind("a").address
    assert bridge.say("b", MessageType.DISCOVER, BOB, source=EVE, giaddr=mine).reason is Reason.FOREIGN_RELAY
    assert bridge.say("a", MessageType.DISCOVER, BOB, source=EVE, giaddr=mine).kind is MessageType.OFFER


# A share of the addresses


def acknowledged(bridge: Bridge, port: str, macs: Iterable[int]) -> int:
    """How many of so many clients behind a port get an address."""
    got = [bridge.bind(port, mac(number)) for number in macs]
    assert {decision.reason for decision in got if decision.kind is None} <= {Reason.CROWDED, Reason.EXHAUSTED}
    return sum(decision.kind is MessageType.ACK for decision in got)


def test_a_port_gets_what_its_neighbours_do_not_need(bridge: Bridge) -> None:
    """Of 20 addresses an eighth, two, stay free; that is one for each neighbour, too."""
    assert acknowledged(bridge, "a", range(30)) == 18
    assert bridge.bind("b", BOB).kind is MessageType.ACK
    assert bridge.bind("a", mac(3)).kind is MessageType.ACK, "who has one keeps it"
    assert bridge.bind("b", EVE).reason is Reason.CROWDED, "the last one is for who has none"
    assert bridge.bind("c", ALICE).kind is MessageType.ACK


def test_each_port_that_holds_nothing_is_kept_one(pool: records.Pool) -> None:
    bridge = Bridge(pool, ports="a b c d e f g")
    assert acknowledged(bridge, "a", range(30)) == 14
    assert all(bridge.bind(port, mac(100 + number)).kind is MessageType.ACK for number, port in enumerate("bcdefg"))


def test_a_port_gets_its_first_address_though_there_are_more_ports_than_addresses(
    pool_of: Callable[..., records.Pool],
) -> None:
    bridge = Bridge(pool_of(2), ports="a b c d")
    assert [acknowledged(bridge, port, [number, 10 + number]) for number, port in enumerate("ab")] == [1, 1]


def test_within_its_share_a_port_may_use_the_last_eighth(pool: records.Pool) -> None:
    bridge = Bridge(pool, ports="a b c")
    assert acknowledged(bridge, "a", range(13)) == 13
    assert acknowledged(bridge, "b", range(100, 108)) == 6
    assert acknowledged(bridge, "c", [200]) == 1


def test_of_a_large_pool_a_port_gets_all_but_one_share(pool_of: Callable[..., records.Pool]) -> None:
    bridge = Bridge(pool_of(200), ports="a b")
    assert acknowledged(bridge, "a", range(300)) == 192
    bridge.plug("c")
    assert [acknowledged(bridge, port, [300 + number]) for number, port in enumerate("bc")] == [1, 1]


def test_a_bridge_with_one_port_keeps_nothing_back(pool: records.Pool) -> None:
    bridge = Bridge(pool, ports="a")
    assert acknowledged(bridge, "a", range(20)) == 20


def test_of_four_addresses_three_can_be_leased_beside_an_idle_port(pool_of: Callable[..., records.Pool]) -> None:
    bridge = Bridge(pool_of(4), ports="a b")
    assert acknowledged(bridge, "a", range(10)) == 3
    assert bridge.bind("b", BOB).kind is MessageType.ACK


def test_a_guest_that_rotates_100_000_macs_leaves_some_for_a_neighbour_plugged_later(bridge: Bridge) -> None:
    bridge.unplug("c")
    for number in range(100_000):
        bridge.say("a", MessageType.DISCOVER, mac(number))
    assert bridge.bind("b", BOB).kind is MessageType.ACK
    bridge.unplug("b")
    assert bridge.bind("a", mac(100_001)).reason is Reason.CROWDED, "also while it is alone for a moment"
    bridge.plug("c")
    assert bridge.bind("c", ALICE).kind is MessageType.ACK


@pytest.mark.parametrize("how", ["offer", "release", "decline"])
def test_no_way_of_holding_an_address_is_free(bridge: Bridge, how: str) -> None:
    """Asking only, giving back at once, or complaining: each keeps an address from others for a while."""
    for number in range(30):
        decision = (
            bridge.bind("a", mac(number)) if how != "offer" else bridge.say("a", MessageType.DISCOVER, mac(number))
        )
        match how:
            case "release":
                bridge.say("a", MessageType.RELEASE, mac(number), ciaddr=decision.address, server=SERVER)
            case "decline":
                bridge.say("a", MessageType.DECLINE, mac(number), requested=decision.address, server=SERVER)
            case _:
                pass
    assert bridge.table.free == 2
    bridge.wait(601)
    assert bridge.bind("a", mac(77)).kind is MessageType.ACK, "time gives the share back"


def test_what_cools_in_a_full_pool_goes_to_the_port_that_has_none(pool_of: Callable[..., records.Pool]) -> None:
    bridge = Bridge(pool_of(2), ports="a b")
    mine = bridge.bind("a", ALICE).address
    bridge.bind("b", BOB)
    bridge.say("a", MessageType.RELEASE, ALICE, server=SERVER, ciaddr=mine)
    bridge.now += 1
    bridge.plug("c")
    assert bridge.say("b", MessageType.DISCOVER, EVE).reason is Reason.CROWDED
    assert bridge.bind("c", EVE).address == mine


def test_what_a_neighbour_did_not_take_is_not_for_a_port_that_has_something_while_another_has_nothing(
    pool_of: Callable[..., records.Pool],
) -> None:
    bridge = Bridge(pool_of(2), ports="a b c")
    bridge.say("a", MessageType.DISCOVER, mac(1))
    offered = bridge.say("b", MessageType.DISCOVER, BOB).address
    bridge.wait(3)
    bridge.say("a", MessageType.DISCOVER, mac(1))
    assert bridge.say("a", MessageType.DISCOVER, mac(2)).reason is Reason.CROWDED
    assert bridge.say("c", MessageType.DISCOVER, EVE).address == offered
    bridge.wait(1)
    assert bridge.say("a", MessageType.DISCOVER, mac(2)).address == FIRST, "its own"


def test_a_declared_relay_has_no_share_and_no_rate(pool: records.Pool) -> None:
    bridge = Bridge(pool, Limits(trusted=("up*",)), ports="uplink0 b")
    assert all(bridge.bind("uplink0", mac(number)).kind is MessageType.ACK for number in range(19))
    assert all(bridge.guard.admit("uplink0") for _ in range(5_000))
    relayed = bridge.say("uplink0", MessageType.DISCOVER, mac(19), source=EVE, giaddr=FIRST + 100)
    assert relayed.kind is MessageType.OFFER


@pytest.mark.parametrize("fields", [{}, {"giaddr": FIRST + 100}, {"hlen": 8}], ids=["direct", "as a relay", "hardware"])
def test_nobody_has_us_inform_another_guest(bridge: Bridge, fields: dict[str, int]) -> None:
    mine = bridge.bind("a").address
    eve = EVE + b"xx" if "hlen" in fields else EVE
    assert bridge.say("b", MessageType.INFORM, eve, ciaddr=mine, **fields).reason is Reason.FORGED
    assert bridge.say("b", MessageType.INFORM, eve, ciaddr=FIRST + 90, **fields).reason is Reason.INFORMED
    assert bridge.say("a", MessageType.INFORM, ciaddr=mine).reason is Reason.INFORMED
    bridge.unplug("a")
    assert bridge.say("b", MessageType.INFORM, eve, ciaddr=mine, **fields).reason is Reason.INFORMED, "nobody is there"


def test_offers_of_a_port_that_nobody_took_go_to_who_asks_beyond_its_share(bridge: Bridge) -> None:
    """A boot loader that asks under MAC after MAC, or a flood that is over: its own client is not kept out."""
    first = bridge.say("a", MessageType.DISCOVER, mac(0)).address
    assert all(bridge.say("a", MessageType.DISCOVER, mac(number)).address for number in range(1, 17))
    last = bridge.bind("a", mac(17)).address
    assert bridge.say("a", MessageType.DISCOVER, EVE).reason is Reason.CROWDED, "their clients may still take them"
    assert bridge.say("b", MessageType.DISCOVER, BOB).address not in (0, first), "its neighbour has one of its own"
    bridge.wait(3)
    assert bridge.say("a", MessageType.DISCOVER, EVE).address == first
    assert bridge.guard.findings(0)[0].total == 1, "who is answered is no finding"
    assert bridge.say("a", MessageType.REQUEST, EVE, server=SERVER, requested=first).kind is MessageType.ACK
    assert bridge.say("a", MessageType.REQUEST, mac(0), server=SERVER, requested=first).kind is MessageType.NAK
    assert bridge.say("a", MessageType.REQUEST, mac(17), ciaddr=last).kind is MessageType.ACK, "and no lease is touched"
    assert bridge.guard.findings(0)[0].reason is Reason.CROWDED
    free = bridge.table.free
    assert acknowledged(bridge, "a", range(100, 150)) == 16, "what was offered to it, and not an address more"
    assert bridge.table.free == free


def test_what_rests_after_the_clients_of_a_port_goes_to_who_asks_beyond_its_share(bridge: Bridge) -> None:
    """Guests that come and go: what is kept for others stays kept, and so does what cools after one of them."""
    bobs = bridge.bind("b", BOB, more={51: bytes((0, 0, 0, 10))}).address
    had = [bridge.bind("a", mac(number)).address for number in range(17)]
    bridge.wait(11)
    assert bridge.bind("a", EVE).reason is Reason.CROWDED, "what rests is its neighbour's, who did not give it back"
    for number, address in enumerate(had):
        bridge.say("a", MessageType.RELEASE, mac(number), ciaddr=address, server=SERVER)
    again = [bridge.bind("a", mac(100 + number)) for number in range(18)]
    assert [one.address for one in again] == [*had, 0], "the one that has rested longest first, and no others"
    assert again[-1].reason is Reason.CROWDED
    assert bridge.table.free == 2
    assert bridge.bind("c", EVE).address not in (*had, bobs)


def test_what_a_neighbour_gave_back_goes_to_who_asks_beyond_its_share_while_enough_is_left(bridge: Bridge) -> None:
    theirs = [bridge.bind("b", mac(50 + number)).address for number in range(3)]
    assert acknowledged(bridge, "a", range(20)) == 15
    for number, address in enumerate(theirs):
        bridge.say("b", MessageType.RELEASE, mac(50 + number), ciaddr=address, server=SERVER)
    asked = bridge.say("a", MessageType.DISCOVER, mac(30), requested=theirs[1])
    assert asked.address == theirs[1], "the one that it asks for"
    assert [bridge.bind("a", mac(31 + number)).address for number in range(3)] == [theirs[0], theirs[2], 0]
    assert bridge.table.free == 2
    assert [bridge.bind(port, mac(40 + number)).kind for number, port in enumerate("bc")] == [MessageType.ACK] * 2


def test_what_is_reserved_goes_to_nobody_else_of_its_port(bridge: Bridge, pool: records.Pool) -> None:
    first, second = (bridge.say("a", MessageType.DISCOVER, mac(number)).address for number in range(2))
    kept = [Reservation(mac(0), IPv4Address(first))]
    choice.adopt(bridge.table, Pool.of(pool, Settings(bridge.table.pool.terms), kept))
    assert all(bridge.say("a", MessageType.DISCOVER, mac(number)).address for number in range(2, 18))
    bridge.wait(3)
    assert bridge.say("a", MessageType.DISCOVER, EVE).address == second


def test_a_guest_that_plays_relay_has_its_share_and_no_more(bridge: Bridge) -> None:
    got = [
        bridge.say("a", MessageType.DISCOVER, mac(number), source=EVE, giaddr=FIRST + 100).reason
        for number in range(20)
    ]
    assert got == [Reason.OFFERED] * 18 + [Reason.CROWDED] * 2


def test_unplugging_and_plugging_gives_no_second_share(bridge: Bridge) -> None:
    acknowledged(bridge, "a", range(8))
    acknowledged(bridge, "c", range(20, 40))
    bridge.unplug("a")
    bridge.plug("a")
    assert bridge.bind("b", BOB).kind is MessageType.ACK
    assert bridge.bind("a", mac(9)).reason is Reason.CROWDED


def test_a_port_that_changed_its_name_keeps_its_guests_addresses_in_a_full_pool(bridge: Bridge) -> None:
    acknowledged(bridge, "b", range(2))
    assert acknowledged(bridge, "a", range(10, 30)) + acknowledged(bridge, "c", range(30, 38)) == 18
    bridge.unplug("b")
    bridge.plug("d")
    assert acknowledged(bridge, "d", range(2)) == 2, "they take nothing that was free for others"


def test_a_restart_gives_no_second_share(bridge: Bridge) -> None:
    acknowledged(bridge, "a", range(17))
    acknowledged(bridge, "b", [99])
    bridge.ports = {"a": 10}
    bridge.guard = Guard(bridge.table, Limits(), bridge.told.extend)
    bridge.guard.begin(1.0, bridge.now, bridge.ports, MANY)
    assert bridge.bind("a", mac(30)).reason is Reason.CROWDED


def test_zero_turns_the_share_off(pool: records.Pool) -> None:
    bridge = Bridge(pool, Limits(addresses=0), ports="a b")
    assert all(bridge.bind("a", mac(number)).kind is MessageType.ACK for number in range(20))


# A share of the time


def test_a_port_has_a_burst_then_its_rate_and_its_neighbour_all_of_its_own(bridge: Bridge) -> None:
    assert bridge.guard.admit("b")
    assert sum(bridge.guard.admit("a") for _ in range(5_000)) == Limits().burst
    assert sum(bridge.guard.admit("b") for _ in range(2_000)) == 2_000, "a thousand nested guests that boot together"
    bridge.guard.begin(2.0, bridge.now, bridge.ports, MANY)
    assert sum(bridge.guard.admit("a") for _ in range(1_000)) == 64


def test_who_speaks_alone_is_read_as_fast_as_it_goes(bridge: Bridge) -> None:
    guard = bridge.guard
    assert guard.admit("b")
    guard.begin(CONTENDED - 0.1, bridge.now, bridge.ports, MANY)
    assert sum(guard.admit("a") for _ in range(5_000)) == Limits().burst, "its neighbour spoke a moment ago"
    guard.begin(CONTENDED, bridge.now, bridge.ports, MANY)
    assert all(guard.admit("a") for _ in range(5_000))
    guard.begin(CONTENDED + 1, bridge.now, bridge.ports, MANY)
    assert guard.admit("b")
    assert sum(guard.admit("a") for _ in range(5_000)) < Limits().burst + 100, "from the first word of a neighbour on"


def test_where_few_speak_nobody_is_held_to_a_rate(bridge: Bridge) -> None:
    """Clients that lease one after the other behind one port keep no neighbour waiting."""
    guard = bridge.guard
    assert guard.admit("b")
    for _ in range(1_000):
        guard.begin(1.0, bridge.now, bridge.ports, FEW)
        assert all(guard.admit("a") for _ in range(FEW))
    guard.begin(1.1, bridge.now, bridge.ports, MANY)
    assert sum(guard.admit("a") for _ in range(5_000)) == Limits().burst, "and that used nothing up"


def test_zero_turns_the_rate_off(pool: records.Pool) -> None:
    bridge = Bridge(pool, Limits(rate=0))
    assert bridge.guard.admit("b")
    assert all(bridge.guard.admit("a") for _ in range(5_000))


def test_a_port_that_sends_more_than_a_batch_takes_is_held_to_its_rate(bridge: Bridge) -> None:
    """Its neighbours may be waiting behind it, unheard."""
    bridge.guard.begin(1.0, bridge.now, bridge.ports, BATCH)
    assert sum(bridge.guard.admit("a") for _ in range(5_000)) == Limits().burst
    bridge.guard.begin(1.1, bridge.now, bridge.ports, BATCH - 1)
    assert all(bridge.guard.admit("a") for _ in range(5_000))


def test_the_only_port_of_a_bridge_keeps_nobody_waiting(pool: records.Pool) -> None:
    bridge = Bridge(pool, ports="a")
    bridge.guard.begin(1.0, bridge.now, bridge.ports, BATCH)
    assert all(bridge.guard.admit("a") for _ in range(5_000))


def test_who_floods_is_muted_for_a_moment_and_then_heard_again(bridge: Bridge) -> None:
    assert MUTE_FOR < 0.5, "a client asks again after a second or more, and is heard then"
    bridge.guard.admit("b")
    for _ in range(Limits().burst + MUTE_AFTER):
        bridge.guard.admit("a")
    assert bridge.guard.due(0.0)
    assert bridge.guard.quiet(0.0) == ["a"]
    assert not bridge.guard.due(MUTE_FOR / 2)
    assert bridge.guard.due(MUTE_FOR + 0.01)
    assert bridge.guard.quiet(MUTE_FOR + 0.01) == []
    assert not bridge.guard.due(MUTE_FOR + 9)


def test_a_flood_is_one_event_a_minute(bridge: Bridge) -> None:
    for second in range(2 * QUIET):
        bridge.guard.begin(float(second), NOW + second, bridge.ports, MANY)
        bridge.guard.admit("b")
        for _ in range(300):
            bridge.guard.admit("a")
    assert len(bridge.told) == 2
    (finding,) = bridge.guard.findings(NOW)
    assert (finding.port, finding.reason) == ("a", Reason.TOO_OFTEN)
    assert finding.total > 20_000
    assert bridge.guard.findings(NOW + 2 * QUIET) == [], "what is over is no finding"


# With real frames


def clients(count: int, first: int = 0) -> Clients:
    return Clients(count, server=SERVER, first=first)


@pytest.mark.root
def test_a_guest_with_20_000_macs_does_not_keep_its_neighbour_from_leasing(
    node: Any, book: Book, pool: records.Pool, serving: Any, eventually: Callable[..., Any], monkeypatch: Any
) -> None:
    """The flood goes on while the neighbour asks; the log stays short, metric and finding say who it was."""
    flooding, neighbour = (node.add_guest(f"02:00:5e:10:00:0{number}") for number in (1, 2))
    bus = Bus()
    lines: list[Event] = []
    narrator = Narrator(bus)
    monkeypatch.setattr(narrator, "_tell", lines.append)
    narrator.start()
    with serving(node, Server(book, pool, bus=bus)) as server:
        assert node.of_guest(neighbour, lambda: clients(1, first=1 << 21).run(1)).leases == 1

        def flood() -> int:
            loud = clients(20_000)
            try:
                return loud.flood(30.0)
            finally:
                loud.close()

        thread = node.start(flooding, flood)
        eventually(lambda: server.snapshot().decided.get(Reason.TOO_OFTEN.value, 0))

        def lease() -> Any:
            quiet = clients(1, first=1 << 20)
            try:
                return quiet.run(1, patience=5.0)
            finally:
                quiet.close()

        report = node.of_guest(neighbour, lease)
        assert report.leases == 1, "the neighbour leases while the flood goes on"
        thread.join(30)
        assert thread.error is None and thread.result == 20_000
        snapshot = server.snapshot()
        assert snapshot.bound == 2
        assert snapshot.offered <= 18 - 1, "all those MACs hold no more than leaves an eighth of the pool"
        assert snapshot.free >= 1
        findings = server.findings()
        assert {finding.port for finding in findings} == {f"p{flooding[-8:]}"}
        assert snapshot.muted >= 1, "the kernel was told to drop the rest"
    narrator.stop()
    assert len([line for line in lines if isinstance(line, PortRefused)]) <= 3


@pytest.mark.root
def test_a_forged_release_from_another_port_ends_nothing(
    node: Any, book: Book, pool: records.Pool, serving: Any, eventually: Callable[..., Any]
) -> None:
    owner, thief = (node.add_guest(f"02:00:5e:10:00:0{number}") for number in (1, 2))
    with serving(node, Server(book, pool)) as server:
        node.of_guest(owner, lambda: clients(1).run(1))
        (lease,) = server.leases()
        assert lease.port == f"p{owner[-8:]}"

        def steal() -> None:
            forger = clients(1)  # the same MAC, at another port
            release = forger.frame(0, MessageType.RELEASE, {54: SERVER.to_bytes(4)}, ciaddr=lease.address)
            forger.send(release)

        node.of_guest(thief, steal)
        eventually(lambda: server.snapshot().decided.get(Reason.OTHER_PORT.value))
        assert server.leases() == [lease]
        assert node.of_guest(thief, lambda: clients(1).run(1, patience=1.0)).leases == 0
        node.ip("link", "del", f"p{owner[-8:]}")
        assert node.of_guest(thief, lambda: clients(1).run(1, patience=5.0)).leases == 1, "its port is gone"
        assert [one.address for one in server.leases()] == [lease.address]
    with serving(node, Server(book, pool)) as again:
        assert again.leases()[0].port == f"p{thief[-8:]}", "the port survives a restart"


@pytest.mark.root
def test_whatever_is_malformed_costs_a_counter_and_nothing_else(
    node: Any, book: Book, pool: records.Pool, serving: Any, eventually: Callable[..., Any]
) -> None:
    guest = node.add_guest("02:00:5e:10:00:01")
    whole = Clients.discover
    with serving(node, Server(book, pool, limits=Limits(rate=0))) as server:

        def send() -> int:
            made = clients(1)
            good = whole(made, 0)
            wrong = [good[:cut] for cut in range(44, len(good), 7)]
            wrong += [broadcast(mac(1), good[42 : 42 + size]) for size in (0, 1, 200, 236, 240)]
            wrong += [broadcast(mac(1), good[42:282] + bytes((code, 255, 1))) for code in range(1, 250, 50)]
            for frame in wrong:
                made.send(frame)
            return len(wrong)

        sent = node.of_guest(guest, send)
        eventually(lambda: sum(server.snapshot().malformed.values()) == sent)
        time.sleep(0.1)
        snapshot = server.snapshot()
        assert (snapshot.decided, snapshot.offered, snapshot.commits) == ({}, 0, 0)
        assert node.of_guest(guest, lambda: clients(1).run(1)).leases == 1
