"""What each step wants: pure functions, and the table that names them.

``subnet enis ingress attach addresses links bridge sysctl routes firewall cni dhcp``: the nine states, with the
ingress rule where the interfaces exist that need it, the kernel settings and host routes where the bridge exists.
"""

from __future__ import annotations

from cocoon_net.engine.model import Step
from cocoon_net.steps import cloud, node

STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step("subnet", "subnet", cloud.subnet),
        Step("enis", "enis", cloud.enis),
        Step("ingress", "ingress", cloud.ingress),
        Step("attach", "attach", cloud.attach),
        Step("addresses", "addresses", cloud.addresses, part_of="enis", restores=False),
        Step("links", "links", node.links, part_of="attach"),
        Step("bridge", "bridge", node.bridge),
        Step("sysctl", "sysctl", node.sysctl),
        Step("routes", "routes", node.routes, prune=True),
        Step("firewall", "firewall", node.firewall),
        Step("cni", "cni", node.cni),
        Step("dhcp", "dhcp", node.dhcp),
    )
}
"""Name -> Step, in the order of provisioning."""

NODE = frozenset({"links", "bridge", "sysctl", "routes", "firewall", "cni"})
"""The steps whose world is this node's kernel and files; a daemon may put them right without asking the cloud."""
