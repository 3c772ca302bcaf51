"""dhcp.toml: what an operator may set, every problem at once."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from cocoon_net.dhcp.options import classless, domains, with_default
from cocoon_net.dhcp.settings import OURS, Settings, Terms, parse
from cocoon_net.errors import SpecError

GOOD = """
lease-time = "12h"
offer-time = "45s"
cooling-time = "2m"
quarantine-time = "1h"
rapid-commit = true
domain = "vms.example.org"
search = ["vms.example.org", "example.org"]
ntp = ["172.20.0.5", "172.20.0.6"]
routes = ["10.0.0.0/8 via 172.20.100.1"]

[options]
252 = "http://wpad.example.org/wpad.dat"
43 = "0x010400000002"
44 = ["172.20.0.7"]
"""


def test_everything_that_can_be_set_is_read() -> None:
    assert parse(GOOD) == Settings(
        Terms(lease=43_200, offer=45, cooling=120, quarantine=3_600, rapid_commit=True),
        {
            15: b"vms.example.org",
            119: b"\x03vms\x07example\x03org\x00\xc0\x04",
            42: bytes((172, 20, 0, 5, 172, 20, 0, 6)),
            121: bytes((8, 10, 172, 20, 100, 1)),
            252: b"http://wpad.example.org/wpad.dat",
            43: bytes((1, 4, 0, 0, 0, 2)),
            44: bytes((172, 20, 0, 7)),
        },
    )


def test_nothing_set_is_the_default() -> None:
    assert parse("") == Settings()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('lease-time = "1 day"', "not a time like 90s"),
        ("lease-time = 3600", "not a time like 90s"),
        ('lease-time = "0s"', "shorter than three seconds"),  # a reply would have no lease time at all
        ('lease-time = "2s"', "shorter than three seconds"),  # its T1 and T2 would be one moment (RFC 2131 §4.4.5)
        ('lease-time = "99999999d"', "longer than DHCP can say"),
        ('rapid-commit = "yes"', "neither true nor false"),
        ('domain = "-bad.example"', "not a domain name"),
        ('search = "example.org"', "not a list"),
        ("search = []", "not a list"),
        ('ntp = ["ntp.example.org"]', "ntp.example.org"),
        ('routes = ["10.0.0.0/8"]', "not a route like"),
        ('routes = ["10.0.0.1/8 via 172.20.100.1"]', "host bits set"),
        ("speed = 1", "not known; known are lease-time"),
        ('[options]\n300 = "x"', "300 is not an option that can be set"),
        ('[options]\n15 = ""', "it is empty"),
        ('[options]\n15 = "0xzz"', "non-hexadecimal"),
        ("[options]\n15 = 7", "neither text"),
        ('[options]\n42 = "0x010203"', "not a list of addresses"),
        ('[options]\nname = "x"', "options.name"),
        *((f'[options]\n{code} = "x"', "not an option that can be set") for code in sorted(OURS)),
    ],
)
def test_what_cannot_be_used_is_named(line: str, complaint: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse(line, "here.toml")
    assert complaint in refused.value.message
    assert refused.value.message.startswith("here.toml: ")


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SpecError) as refused:
        parse('lease-time = "x"\ndomain = ""\nspeed = 1')
    assert len(refused.value.problems) == 3


def test_what_is_not_toml_is_said_to_be_so() -> None:
    with pytest.raises(SpecError, match="is not TOML"):
        parse("lease-time: 1h")


NETWORKS = {  # RFC 3442, the examples of the section on the option's format
    "0.0.0.0/0": "00",
    "10.0.0.0/8": "08 0a",
    "10.0.0.0/24": "18 0a 00 00",
    "10.17.0.0/16": "10 0a 11",
    "10.27.129.0/24": "18 0a 1b 81",
    "10.229.0.128/25": "19 0a e5 00 80",
    "10.198.122.47/32": "20 0a c6 7a 2f",
}


@pytest.mark.parametrize(("network", "rendered"), NETWORKS.items())
def test_a_classless_route_has_only_the_octets_that_matter(network: str, rendered: str) -> None:
    router = IPv4Address("10.0.0.1")
    assert classless([(IPv4Network(network), router)]) == bytes.fromhex(rendered) + router.packed


def test_the_default_route_is_added_once() -> None:
    gateway, other = IPv4Address("172.20.100.1"), IPv4Address("172.20.100.9")
    some = classless([(IPv4Network("10.0.0.0/8"), other), (IPv4Network("10.1.0.0/31"), other)])
    assert with_default(some, gateway) == b"\0" + gateway.packed + some
    assert with_default(b"", gateway) == b"\0" + gateway.packed
    default = classless([(IPv4Network("10.0.0.0/8"), other), (IPv4Network("0.0.0.0/0"), other)])
    assert with_default(default, gateway) == default


def test_a_search_list_points_back_to_what_it_shares() -> None:
    # RFC 3397 §3: eng.apple.com and marketing.apple.com share "apple.com" at octet 4.
    expected = b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04"
    assert domains(["eng.apple.com", "marketing.apple.com"]) == expected
