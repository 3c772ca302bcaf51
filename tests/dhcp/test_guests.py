"""What real clients say, octet by octet, and what each of them is told: ``guests/*.hex``.

The files hold a client's messages in order, a comment per field; ``heard in the lab`` means that this very client said
it to our server (tests/dhcp/test_live.py lets it speak again).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from cocoon_net import records
from cocoon_net.dhcp import wire
from cocoon_net.dhcp.decision import Reason
from cocoon_net.dhcp.options import MessageType, classless, domains
from cocoon_net.dhcp.reply import EVERYONE, Destination, Way, decide, destination, render
from cocoon_net.dhcp.settings import Settings
from cocoon_net.dhcp.wire import Packet
from tests.dhcp.story import FIRST, SERVER, TERMS, Story

UNICAST = Destination(Way.DIRECT, FIRST)
GUESTS = Path(__file__).parent / "guests"
SETTINGS = Settings(
    TERMS,
    {
        15: b"vms.example.org",
        42: bytes((172, 20, 0, 5)),
        43: bytes((1, 4, 0, 0, 0, 2)),  # Microsoft: "disable NetBIOS over TCP/IP"
        44: bytes((172, 20, 0, 6)),
        46: b"\x08",
        66: b"172.20.0.7",
        67: b"http://172.20.0.7/boot.ipxe",
        119: domains(["vms.example.org", "example.org"]),
        121: classless([(IPv4Network("10.0.0.0/8"), IPv4Address(SERVER))]),
        252: b"http://wpad.example.org/wpad.dat",
    },
)
VALUES = {
    1: "ff ff ff 00",
    3: "ac 14 64 01",
    6: "08 08 08 08 01 01 01 01",
    15: b"vms.example.org".hex(" "),
    26: "05 dc",
    28: "ac 14 64 ff",
    42: "ac 14 00 05",
    43: "01 04 00 00 00 02",
    44: "ac 14 00 06",
    46: "08",
    51: "00 00 0e 10",
    54: "ac 14 64 01",
    58: "00 00 07 08",
    59: "00 00 0c 4e",
    66: b"172.20.0.7".hex(" "),
    67: b"http://172.20.0.7/boot.ipxe".hex(" "),
    119: "03 76 6d 73 07 65 78 61 6d 70 6c 65 03 6f 72 67 00 c0 04",
    121: "00 ac 14 64 01 08 0a ac 14 64 01",
    249: "00 ac 14 64 01 08 0a ac 14 64 01",
    252: b"http://wpad.example.org/wpad.dat".hex(" "),
}


@dataclass(frozen=True, slots=True)
class Told:
    """What one client is told: the codes of the options after the type, in order, without the client's own echo."""

    codes: tuple[int, ...]
    informed: tuple[int, ...] = ()
    """After an INFORM."""
    hostname: str = ""
    way: Destination = UNICAST


TERMS_FIRST = (54, 51, 58, 59)
"""Where a client does not list them."""
CLIENTS = {
    "windows-11": Told(
        (*TERMS_FIRST, 1, 3, 6, 15, 43, 44, 46, 119, 121, 249, 252),
        (54, 1, 3, 6, 15, 43, 44, 46, 119, 121, 249, 252),
        "DESKTOP-4Q7N",
    ),
    "windows-10": Told((*TERMS_FIRST, 1, 3, 6, 15, 43, 44, 46, 119, 121, 249, 252), hostname="WIN10-VM"),
    "windows-server-2022": Told(
        (*TERMS_FIRST, 1, 3, 6, 15, 43, 44, 46, 119, 121, 249, 252),
        (54, 1, 3, 6, 15, 43, 44, 46, 119, 121, 249, 252),
        "WIN-8C2Q1",
        EVERYONE,
    ),
    "windows-7": Told(
        (*TERMS_FIRST, 1, 15, 3, 6, 44, 46, 121, 249, 43, 252),
        (54, 1, 15, 3, 6, 44, 46, 121, 249, 43, 252),
        "PC-7",
        EVERYONE,
    ),
    "dhclient": Told((*TERMS_FIRST, 1, 28, 3, 15, 6, 119, 44, 26, 121, 42), hostname="guest1"),
    "dhcpcd": Told((1, 121, 3, 6, 15, 26, 28, 51, 54, 58, 59, 119), hostname="guest1"),
    "udhcpc": Told((*TERMS_FIRST, 1, 3, 6, 15, 26, 28, 42, 119, 121), hostname="guest1"),
    "systemd-networkd": Told((*TERMS_FIRST, 1, 3, 6, 15, 42, 121), hostname="guest1"),
    "networkmanager": Told((*TERMS_FIRST, 1, 6, 15, 26, 28, 121, 3, 42, 119, 249, 252), hostname="vm"),
    "ipxe": Told((*TERMS_FIRST, 1, 3, 6, 15, 26, 43, 66, 67, 119)),
}


def heard(name: str) -> Iterator[tuple[str, bytes]]:
    """Read a client's messages: title and octets; ``00 * 192`` stands for so many of them."""
    for block in (GUESTS / f"{name}.hex").read_text().split("\n> ")[1:]:
        title, _, text = block.partition("\n")
        data = bytearray()
        for line in text.splitlines():
            octets, _, times = line.partition("#")[0].partition("*")
            data += bytes.fromhex(octets) * int(times or 1)
        yield title, bytes(data)


def test_every_file_has_its_story() -> None:
    assert {path.stem for path in GUESTS.glob("*.hex")} == set(CLIENTS)


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_is_told_what_it_asks_for(name: str, pool: records.Pool) -> None:
    story, told = Story(pool, SETTINGS), CLIENTS[name]
    answers = {"DISCOVER": MessageType.OFFER}  # and an ACK to all the others
    for title, data in heard(name):
        ask = wire.decode(data)
        assert isinstance(ask, Packet), (title, ask)
        decision = decide(story.table, ask, story.now)
        story.do(ask)
        if title == "RELEASE":
            assert decision.reason is Reason.RELEASED
            continue
        assert decision.kind == answers.get(title, MessageType.ACK), (title, decision.reason)
        data = render(decision, ask, story.table.pool)
        reply = wire.decode(data)
        assert isinstance(reply, Packet)
        assert (reply.op, reply.xid, reply.flags, reply.chaddr, reply.giaddr) == (2, ask.xid, ask.flags, ask.chaddr, 0)
        informed = title == "INFORM"
        assert (reply.yiaddr, reply.ciaddr) == (0 if informed else FIRST, ask.ciaddr)
        assert destination(decision, ask) == (UNICAST if ask.ciaddr else told.way)
        limit = int.from_bytes(ask.options.get(57, b"\x02\x40"))
        assert 300 <= len(data) <= limit - 28
        codes = told.informed if informed else told.codes
        name_of = (61,) if 61 in ask.options else ()
        assert tuple(reply.options) == (53, *codes, *name_of)
        assert reply.options.get(61) == ask.options.get(61)
        for code in codes:
            assert reply.options[code].hex(" ") == VALUES[code], code
    (lease,) = story.table.of_mac(ask.chaddr)
    assert (lease.address, lease.hostname) == (FIRST, told.hostname)
