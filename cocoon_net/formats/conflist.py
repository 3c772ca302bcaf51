"""The CNI configuration list ``30-cocoon-dhcp.conflist`` (CNI spec 1.0.0), byte for byte.

cocoon loads every conflist of the directory; one that does not parse disables CNI for every VM. An empty ``ipam``
makes the bridge plugin leave addressing to the guest's DHCP.
"""

from __future__ import annotations

import json

from cocoon_net.records import BRIDGE

NAME = "cocoon-dhcp"


def render(mtu: int) -> str:
    """Return the file's text; the guests' links get ``mtu``."""
    plugin = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": False,
        "ipMasq": False,
        "portIsolation": True,
        "macspoofchk": True,
        "mtu": mtu,
        "ipam": {},
    }
    return json.dumps({"cniVersion": "1.0.0", "name": NAME, "plugins": [plugin]}, indent=2) + "\n"
