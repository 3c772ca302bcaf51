"""The kernel's links of our interfaces, found by MAC: names like eth1 are the kernel's to give and to change.

A link with the MAC of an interface may still be the wrong one: a vlan, a bond or a macvlan on top of it wears the
same MAC, and so may a guest's port of the bridge. Hardware is taken first, then what looks most like it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cocoon_net.engine.model import Call, Change, Context, Later, Seen, Verb, Via
from cocoon_net.errors import InvariantError, NodeTransient, Unsupported
from cocoon_net.node import netlink
from cocoon_net.node.netlink import KernelLink
from cocoon_net.records import Interface, Link

KINDS = ("", "veth")
"""The kinds that an interface's link may be of: hardware and virtio have none; in the lab it is a veth."""


class Links:
    """Keys are those of the interfaces in the ledger; a link that has not appeared yet is absent."""

    def observe(self, cx: Context) -> Seen:
        """Find the link of every interface; none is ours to delete, it comes and goes with it. Raises NodeError."""
        macs = _macs(cx)
        present = netlink.links() if macs else ()
        found = {key: choose(present, mac) for key, mac in macs.items()}
        return {
            key: Link(up=link.up, name=link.name, index=link.index, mac=mac, mtu=link.mtu, ours=False)
            for key, mac in macs.items()
            if (link := found[key]) is not None
        }

    def calls(self, change: Change, cx: Context) -> tuple[Call, ...]:
        """Set the link up or down; its name is known once it has appeared."""
        known = change.seen if isinstance(change.seen, Link) else cx.records("links").get(change.key)
        name = known.name if known is not None and known.name else Later(f"(link of {change.key})")
        up = isinstance(change.want, Link) and change.want.up
        return (Call(Via.KERNEL, f"ip link set {name} {'up' if up else 'down'}"),)

    def apply(self, change: Change, token: str, cx: Context) -> Mapping[str, str]:
        """Set a link up or down; it never gets an address.

        One that has not appeared is NodeTransient: attaching takes the kernel a moment; Unsupported where it was never
        seen attached, which only a skipped step can leave behind. NodeTransient, too, is one that has appeared
        since it was looked for: how it was before us is seen by looking again. A link is not ours to delete, the cloud
        takes it away with its interface: deleting sets it down.
        """
        mac = _macs(cx).get(change.key, "")
        present = netlink.links()
        link = choose(present, mac) if mac else None
        match (change.verb, link):
            case (Verb.DELETE, None):
                return {}
            case (_, None) if "attach" in cx.skipped:
                raise Unsupported(
                    f"{_missing(change.key, mac, present)}, since attaching it has not come to rest",
                    hint="`cocoon-net workflow steps` shows that attach was skipped; `cocoon-net workflow abandon` and "
                    "the same command anew do every step, `cocoon-net workflow skip` leaves this one out, too",
                )
            case (_, None):
                raise NodeTransient(_missing(change.key, mac, present), hint="`ip link` shows what the kernel has")
            case (Verb.CREATE, KernelLink()):
                message = f"the link of {change.key} ({link.name}) has only just appeared"
                raise NodeTransient(message, hint="it is looked at again")
            case (Verb.DELETE, KernelLink()):
                netlink.set_link(link.index, up=False, name=link.name)
            case (_, KernelLink()):
                if not isinstance(change.want, Link):
                    raise InvariantError(f"links cannot apply {change.want!r}")
                netlink.set_link(link.index, up=change.want.up, name=link.name)
        return {"link": link.name}


def choose(links: Iterable[KernelLink], mac: str) -> KernelLink | None:
    """Return the link that is the interface with ``mac``, None when none is. Pure."""
    fit = [link for link in links if mac in (link.mac, link.permanent_mac) and not _refused(link)]
    return min(fit, key=lambda link: (not link.has_device, link.permanent_mac != mac, link.index), default=None)


def link_of(mac: str) -> str:
    """Return the name of the link of the interface with ``mac``; empty when there is none. Raises NodeError."""
    found = choose(netlink.links(), mac.lower()) if mac else None
    return found.name if found else ""


def _refused(link: KernelLink) -> str:
    """Say why a link cannot be an interface's; empty when it can."""
    if link.kind not in KINDS:
        return f"a {link.kind}"
    return "a port of a bridge" if link.port_of == "bridge" else ""


def _missing(key: str, mac: str, links: Iterable[KernelLink]) -> str:
    if not mac:
        return f"the link of {key} cannot be found: the ledger knows no MAC of it yet"
    same = [f"{link.name} is {_refused(link)}" for link in links if link.mac == mac]
    return f"the link of {key} ({mac}) has not appeared" + (f"; {', '.join(same)}" if same else "")


def _macs(cx: Context) -> dict[str, str]:
    interfaces = cx.records("enis").items()
    return {key: record.mac.lower() for key, record in interfaces if isinstance(record, Interface) and record.mac}
