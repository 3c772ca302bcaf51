"""The conflist: what cocoon reads, byte for byte."""

from __future__ import annotations

import json

from cocoon_net.formats.conflist import render


def test_the_file_is_what_the_contract_says() -> None:
    data = json.loads(render(1500))
    assert data["cniVersion"] == "1.0.0"
    assert data["name"] == "cocoon-dhcp"
    assert data["plugins"] == [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": False,
            "ipMasq": False,
            "portIsolation": True,
            "macspoofchk": True,
            "mtu": 1500,
            "ipam": {},
        }
    ]


def test_the_same_wish_is_the_same_bytes_with_a_newline_at_the_end() -> None:
    assert render(1400) == render(1400)
    assert render(1400).endswith("}\n")
