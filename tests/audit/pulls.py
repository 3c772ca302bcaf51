"""What is pulled out of a node: the one table of it, for passes by hand and beside a service."""

from __future__ import annotations

from typing import Any, NamedTuple


class Pull(NamedTuple):
    """What shows, what somebody types, and what he types to take it back where nobody else does."""

    kind: str
    pull: str
    mend: str = ""

    def out_of(self, node: Any) -> None:
        """Type it on the node."""
        _type(node, self.pull)

    def back(self, node: Any) -> None:
        """Take it back."""
        if self.mend:
            _type(node, self.mend)


def _type(node: Any, line: str) -> None:
    node.inside("sh", "-c", line.format(cni=node.home / "cni", state=node.home / "state"))


REPAIRED = {
    "link down": Pull("link-down", "ip link set eth1 down"),
    "bridge address": Pull("bridge", "ip addr del 172.20.100.1/24 dev cni0"),
    "bridge mac": Pull("bridge", "ip link set cni0 address 02:00:00:00:00:99"),
    "bridge mtu": Pull("bridge", "ip link set cni0 mtu 1400"),
    "bridge gone": Pull("bridge", "ip link del cni0"),
    "forwarding": Pull("sysctl", "sysctl -w net.ipv4.ip_forward=0"),
    "rp_filter of all": Pull("sysctl", "sysctl -w net.ipv4.conf.all.rp_filter=1"),
    "rp_filter of a link": Pull("sysctl", "sysctl -w net.ipv4.conf.eth1.rp_filter=1"),
    "stray route": Pull("route-stray", "ip route add 172.20.100.199/32 dev cni0 proto 174"),
    "jump": Pull("firewall", "iptables -D FORWARD -j COCOON-NET-FORWARD"),
    "jump no longer first": Pull(
        "firewall", "iptables -I FORWARD 1 -i lo -j DROP", "iptables -D FORWARD -i lo -j DROP"
    ),
    "chain emptied": Pull("firewall", "iptables -F COCOON-NET-FORWARD"),
    "order of rules": Pull("firewall", "iptables -A COCOON-NET-FORWARD -j DROP"),
    "nat chain": Pull("firewall", "iptables -t nat -F COCOON-NET-POSTROUTING"),
    "conflist edited": Pull("conflist", "sed -i s/1500/1400/ {cni}/30-cocoon-dhcp.conflist"),
    "conflist gone": Pull("conflist", "rm {cni}/30-cocoon-dhcp.conflist"),
    "pool.json gone": Pull("pool", "rm {state}/pool.json"),
    "pool.json edited": Pull("pool", "sed -i s/172.20.100.0/172.20.200.0/ {state}/pool.json"),
}
"""What a pass puts right."""

REPORTED = {
    "link renamed": Pull(
        "link-renamed",
        "ip link set eth1 down name wan9 && ip link set wan9 up",
        "ip link set wan9 down name eth1 && ip link set eth1 up",
    ),
    "link mtu": Pull("link-mtu", "ip link set eth1 mtu 1400", "ip link set eth1 mtu 1500"),
    "policy of mangle": Pull(
        "firewall-foreign",
        "iptables -t mangle -P FORWARD DROP",
        "iptables -t mangle -P FORWARD ACCEPT",
    ),
    "rule of others": Pull(
        "firewall-foreign",
        "iptables -t raw -A PREROUTING -i cni0 -j DROP",
        "iptables -t raw -D PREROUTING -i cni0 -j DROP",
    ),
    "rule of nft": Pull(
        "firewall-foreign",
        "nft 'add table inet guard; add chain inet guard f {{ type filter hook forward priority 5; policy drop; }}'",
        "nft delete table inet guard",
    ),
    "broken neighbour": Pull("conflist-neighbour", "echo '{{' > {cni}/10-x.conflist", "rm {cni}/10-x.conflist"),
    "leases.json": Pull("lease-file", "echo nonsense > {state}/leases.json", "rm {state}/leases.json"),
}
"""What a pass tells, with what to type."""
