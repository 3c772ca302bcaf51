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
        Step("subnet", cloud.subnet),
        Step("enis", cloud.enis),
        Step("ingress", cloud.ingress),
        Step("attach", cloud.attach),
        Step("addresses", cloud.addresses, part_of="enis", leaves=cloud.without_ours),
        Step("links", node.links, part_of="attach", permanent=True),
        Step("bridge", node.bridge),
        Step("sysctl", node.sysctl, permanent=True),
        Step("routes", node.routes, prune=True),
        Step("firewall", node.firewall),
        Step("cni", node.cni),
        Step("dhcp", node.dhcp),
    )
}
"""Name -> Step, in the order of provisioning."""

NODE = frozenset({"links", "bridge", "sysctl", "routes", "firewall", "cni"})
"""The steps whose world is this node's kernel and files; a daemon may put them right without asking the cloud."""
