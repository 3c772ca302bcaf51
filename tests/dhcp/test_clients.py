"""Who is a client: each line of docs/decisions/0006-who-is-a-client.md (RFC 2131 §4.2, RFC 2132 §9.14, RFC 4361)."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from cocoon_net import records
from cocoon_net.dhcp.decision import promised
from cocoon_net.dhcp.lease import Client, Lease, State
from cocoon_net.dhcp.options import Code, MessageType
from cocoon_net.dhcp.projection import LeaseFile
from cocoon_net.events import LeaseBound, LeaseRenewed
from tests.dhcp.story import ALICE, BOB, CAROL, SERVER, Story

DUID = bytes.fromhex("ff 00000001 0003 0001 525400000001")
"""RFC 4361 §6.1: type 255, IAID, DUID-LL."""
OTHER = b"\x00second identity"


@pytest.fixture
def story(pool: records.Pool) -> Story:
    return Story(pool)


def test_the_same_mac_and_identifier_is_the_same_client(story: Story) -> None:
    mine = story.bind(client_id=DUID)
    assert story.say(MessageType.DISCOVER, client_id=DUID).address == mine
    assert story.say(MessageType.REQUEST, client_id=DUID, ciaddr=mine).kind is MessageType.ACK


def test_another_identifier_is_another_client_whose_address_is_its_own(story: Story) -> None:
    first, second = story.bind(client_id=DUID), story.bind(client_id=OTHER)
    assert first != second
    for mine, name, not_mine in ((first, DUID, second), (second, OTHER, first)):
        assert story.say(MessageType.REQUEST, client_id=name, ciaddr=mine).kind is MessageType.ACK
        assert story.say(MessageType.REQUEST, client_id=name, ciaddr=not_mine).kind is MessageType.NAK
        assert not story.say(MessageType.RELEASE, client_id=name, ciaddr=not_mine, server=SERVER).changes
        assert not story.say(MessageType.DECLINE, client_id=name, requested=not_mine, server=SERVER).changes
    assert {lease.client_id for lease in story.table.of_mac(ALICE)} == {DUID, OTHER}


def test_each_identifier_of_a_mac_has_an_offer_of_its_own(story: Story) -> None:
    first = story.say(MessageType.DISCOVER, client_id=DUID).address
    second = story.say(MessageType.DISCOVER, client_id=OTHER).address
    assert first != second
    assert story.say(MessageType.DISCOVER, client_id=DUID).address == first
    assert story.say(MessageType.REQUEST, client_id=DUID, server=SERVER, requested=second).kind is MessageType.NAK
    assert story.say(MessageType.REQUEST, client_id=DUID, server=SERVER, requested=first).kind is MessageType.ACK


@pytest.mark.parametrize(("before", "after"), [(None, DUID), (DUID, None)])
def test_who_has_no_identifier_is_known_by_its_mac(story: Story, before: bytes | None, after: bytes | None) -> None:
    mine = story.bind(client_id=before)
    assert story.bind(client_id=after) == mine
    assert story.say(MessageType.REQUEST, client_id=after, ciaddr=mine).kind is MessageType.ACK
    held = story.table.held(Client(ALICE))
    assert held is not None
    assert held.client_id == DUID, "it is written down once known"
    assert story.table.counts[State.BOUND] == 1


def test_an_identifier_that_came_later_is_as_good_as_one_from_the_start(story: Story) -> None:
    mine = story.bind(port="tap1")
    assert story.bind(client_id=DUID, port="tap2") == mine, "its VM was started again, with a port of another name"
    other = story.bind(client_id=OTHER, port="tap2")
    assert other != mine
    assert story.table.counts[State.BOUND] == 2
    assert story.bind(BOB, client_id=DUID, port="tap1") != mine, "nobody is known at the old port any more"
    assert story.bind(CAROL, client_id=DUID, port="tap2") == mine


def test_a_client_that_changed_its_network_card_keeps_its_address(story: Story) -> None:
    mine = story.bind(ALICE, client_id=DUID, port="tap1")
    offered = story.say(MessageType.DISCOVER, BOB, client_id=DUID, port="tap1")
    assert offered.address == mine
    bound = story.say(MessageType.REQUEST, BOB, client_id=DUID, port="tap1", server=SERVER, requested=mine)
    assert bound.address == mine
    assert isinstance(promised(bound, story.now), LeaseBound), "vk-cocoon must hear of the new MAC"
    assert story.table.at(mine).mac == BOB
    assert story.table.counts[State.BOUND] == 1
    again = story.say(MessageType.REQUEST, BOB, client_id=DUID, port="tap1", ciaddr=mine)
    assert isinstance(promised(again, story.now), LeaseRenewed)


def test_an_identifier_is_offered_one_address_whatever_card_asks(story: Story) -> None:
    """RFC 2131 §4.2: two cards of one team, or a card that was changed before the offer was taken."""
    offered = story.say(MessageType.DISCOVER, ALICE, client_id=DUID, port="tap1").address
    assert story.say(MessageType.DISCOVER, CAROL, client_id=DUID, port="tap2").address != offered, "a clone"
    assert story.say(MessageType.DISCOVER, BOB, client_id=OTHER, port="tap1").address != offered, "another client"
    assert story.say(MessageType.DISCOVER, BOB, client_id=DUID, port="tap1").address == offered
    assert story.table.offered(Client(ALICE)) is None, "it is its other card's now"
    assert story.bind(BOB, client_id=DUID, port="tap1") == offered
    story.wait(31)
    assert story.table.counts[State.OFFERED] == 0
    assert story.table.offered(Client(ALICE, DUID, "tap1")) is None


@pytest.mark.parametrize("ended", [False, True], ids=["live", "released"])
def test_a_clone_at_another_port_gets_an_address_of_its_own(story: Story, ended: bool) -> None:
    original = story.bind(ALICE, client_id=DUID, port="tap1")
    if ended:
        story.say(MessageType.RELEASE, ALICE, client_id=DUID, port="tap1", ciaddr=original, server=SERVER)
        story.wait(61)
    clone = story.bind(BOB, client_id=DUID, port="tap2")
    assert clone != original
    assert story.say(MessageType.REQUEST, BOB, client_id=DUID, port="tap2", ciaddr=original).kind is MessageType.NAK
    assert not story.say(MessageType.RELEASE, BOB, client_id=DUID, port="tap2", ciaddr=original, server=SERVER).changes
    assert story.say(MessageType.DISCOVER, ALICE, client_id=DUID, port="tap1").address == original


def test_a_clone_of_a_clone_is_not_its_original_either(story: Story) -> None:
    ports = {bytes((2, 0, 0, 0, 0, n)): f"tap{n}" for n in range(10)}
    addresses = [story.bind(mac, client_id=DUID, port=port) for mac, port in ports.items()]
    assert len(set(addresses)) == len(ports)
    for (mac, port), address in zip(ports.items(), addresses, strict=True):
        assert story.say(MessageType.REQUEST, mac, client_id=DUID, port=port, ciaddr=address).address == address


def test_nobody_knows_the_port_of_an_imported_lease_so_an_identifier_does_not_take_it(story: Story) -> None:
    story.table.put(Lease(story.bind(ALICE), State.BOUND, story.now + 99, ALICE, 0, DUID, port=""))
    assert story.say(MessageType.DISCOVER, BOB, client_id=DUID, port="").address != story.table.of_mac(ALICE)[0].address


def test_a_relays_clients_are_known_by_their_identifiers(story: Story) -> None:
    relay = int(IPv4Address("172.20.100.200"))
    mine = story.bind(ALICE, client_id=DUID, giaddr=relay, port="tap9")
    assert story.bind(BOB, client_id=DUID, giaddr=relay, port="tap9") == mine


@pytest.mark.parametrize("name", [b"", b"\x07"])
def test_an_identifier_that_is_too_short_is_echoed_and_names_nobody(story: Story, name: bytes) -> None:
    mine = story.bind(ALICE, client_id=name, port="tap1")
    assert story.bind(BOB, client_id=name, port="tap1") != mine
    reply = story.hear(MessageType.REQUEST, ALICE, client_id=name, port="tap1", ciaddr=mine)
    assert reply is not None
    assert reply.options.get(Code.CLIENT_ID, b"") == name


@pytest.mark.parametrize(
    "name", [b"\x01" + ALICE, DUID, b"\x00text", b"\xff" * 255, bytes(range(256)) * 2], ids=lambda name: str(len(name))
)
def test_an_identifier_is_opaque_however_long(story: Story, name: bytes) -> None:
    mine = story.bind(client_id=name)
    assert story.bind(BOB, client_id=name + b"\0") != mine
    reply = story.hear(MessageType.REQUEST, client_id=name, ciaddr=mine, options={57: (1500).to_bytes(2)})
    assert reply is not None
    assert reply.options[Code.CLIENT_ID] == name


def test_the_table_is_the_same_after_a_restart(pool_of: Callable[..., records.Pool]) -> None:
    before = Story(pool_of(20))
    kept = {
        (mac, name): before.bind(mac, client_id=name, port="tap1")
        for mac, name in ((ALICE, DUID), (ALICE, OTHER), (BOB, None), (BOB, b"\x01" + ALICE))
    }
    after = Story(pool_of(20))
    for lease in sorted(before.table.leases.values(), key=lambda lease: lease.since):
        after.table.put(lease)
    for (mac, name), address in kept.items():
        assert after.say(MessageType.REQUEST, mac, client_id=name, port="tap1", ciaddr=address).address == address


def test_the_newest_lease_of_a_mac_is_the_last_in_the_file(story: Story, tmp_path: Path) -> None:
    file = LeaseFile(tmp_path / "leases.json")
    for name in (DUID, OTHER):
        story.bind(client_id=name)
        file.update(story.table.leases.values())
    first, second = (lease.address for lease in story.table.of_mac(ALICE))
    story.say(MessageType.REQUEST, client_id=DUID, ciaddr=first)
    file.update(story.table.leases.values())
    rows = json.loads((tmp_path / "leases.json").read_text())
    assert [row["ip"] for row in rows] == [str(IPv4Address(first)), str(IPv4Address(second))]


def test_hardware_that_has_no_mac_is_not_in_the_file_whose_readers_know_no_other(story: Story, tmp_path: Path) -> None:
    file = LeaseFile(tmp_path / "leases.json")
    story.bind(bytes(range(1, 9)), hlen=8)
    file.update(story.table.leases.values())
    story.bind(BOB)
    file.update(story.table.leases.values())
    assert [row["mac"] for row in json.loads((tmp_path / "leases.json").read_text())] == [BOB.hex(":")]


def test_a_client_that_names_itself_after_it_was_offered_an_address_leaves_no_second_name_behind(story: Story) -> None:
    """A boot loader asks without an identifier, the system after it with one; both can ask again when it lapsed."""
    offered = story.say(MessageType.DISCOVER).address
    assert story.say(MessageType.DISCOVER, client_id=DUID).address == offered
    story.wait(31)
    assert story.table.offered(Client(ALICE)) is None
    assert story.say(MessageType.DISCOVER).kind is MessageType.OFFER
