"""``cni0``: the bridge that guests are plugged into, with the gateway's address.

It is ours where its alias says so. The MAC and the MTU are pinned: without that a bridge takes both from its ports,
and guests lose their gateway when one comes or goes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import IPv4Interface
from pathlib import Path

from cocoon_net.engine.model import Call, Change, Context, Origin, Seen, Verb, Via
from cocoon_net.errors import InvariantError, NodeError, NodeTransient, Unsupported
from cocoon_net.node import netlink
from cocoon_net.node.netlink import KernelLink
from cocoon_net.records import BRIDGE, Bridge

ALIAS = "cocoon-net"
"""How the alias of a bridge that we made begins (``ip link show`` prints it); it goes on with the node's name."""

NO_ADDRESS = IPv4Interface("0.0.0.0/0")
"""What is seen as the address of a bridge that has none."""


class Bridges:
    """One key: the name of our bridge, seen where a bridge of that name exists."""

    def observe(self, cx: Context) -> Seen:
        """Look at the bridge; a link of that name that is no bridge is not in our keyspace. Raises NodeError."""
        link = netlink.link(BRIDGE)
        if link is None or link.kind != "bridge":
            return {}
        ours = _marked(link)
        address = _telling(netlink.addresses(link.index), _gateway(cx), ours=ours)
        return {BRIDGE: Bridge(link.name, address, link.mac, link.mtu, link.up, link.index, ours or None)}

    def calls(self, change: Change, cx: Context) -> tuple[Call, ...]:
        """Make the bridge and pin what its ports would change, put right what differs, or delete it."""
        match change.want, change.seen:
            case Bridge() as want, None:
                options = "type bridge stp_state 0 forward_delay 0"
                commands = [
                    f"ip link add {want.name} address {want.mac} mtu {want.mtu - 1} {options}",
                    f"ip link set {want.name} mtu {want.mtu} alias '{ALIAS} {cx.spec.node_name}'",
                    *([f"ip addr add {want.address} dev {want.name}"] if want.address != NO_ADDRESS else []),
                    f"ip link set {want.name} {'up' if want.up else 'down'}",
                ]
            case Bridge() as want, Bridge() as seen:
                ours = bool(seen.ours) or _made_by_us(change, cx)
                commands = _corrections(want, seen, old=seen.address if ours or seen.address == _gateway(cx) else None)
            case _:
                commands = [f"ip link del {change.key}"]
        return tuple(Call(Via.KERNEL, command) for command in commands)

    def apply(self, change: Change, token: str, cx: Context) -> Mapping[str, str]:
        """Make the bridge as wanted, or delete it with its addresses and routes.

        Killed between two messages it leaves a bridge that differs, which an update finishes. Deleting notes the
        ports that were still plugged in. Raises Unsupported where a link of that name is no bridge, NodeError.
        """
        link = netlink.link(change.key)
        if change.verb is Verb.DELETE:
            return _delete(link)
        want = change.want
        if not isinstance(want, Bridge):
            raise InvariantError(f"bridge cannot apply {want!r}")
        if link is None:
            # Made with another MTU than wanted: only a change of it counts as set by hand, and so survives the ports.
            netlink.add_bridge(want.name, mac=want.mac, mtu=want.mtu - 1)
            link = netlink.link(want.name)
            if link is None:
                hint = f"somebody deletes it: `ip monitor link` shows {want.name} come and go"
                raise NodeTransient(f"{want.name} was made and went away again", hint=hint)
        if link.kind != "bridge":
            raise Unsupported(
                f"{link.name} should be a bridge and is {f'a {link.kind}' if link.kind else 'hardware'}",
                hint=f"find out who made it, then rename or delete it: `ip -d link show {link.name}`",
            )
        made_by_us = _made_by_us(change, cx)
        netlink.set_link(
            link.index,
            mac=want.mac if link.mac != want.mac else "",
            mtu=want.mtu if link.mtu != want.mtu else 0,
            alias=f"{ALIAS} {cx.spec.node_name}" if made_by_us and not link.alias else None,
            name=link.name,
        )
        _address(link, want.address, gateway=_gateway(cx), ours=made_by_us or _marked(link))
        if link.up != want.up:
            netlink.set_link(link.index, up=want.up, name=link.name)
        return {"index": str(link.index)}


def plug(unplugged: Collection[tuple[int, int]]) -> list[str] | None:
    """Plug links into our bridge again that lost theirs, unless they are another's ports by now; returns their names.

    ``unplugged`` are links and the bridge that each left. One that left the bridge that stands now was taken out of it
    by somebody; one whose bridge is gone was a guest's, and nobody else plugs it in again: a tap learns of its bridge
    when the VM starts. All are plugged in at once: killed in between would leave a bridge that looks as if it had its
    guests. None while no bridge stands: to be asked again. Raises Refused, NodeError.
    """
    bridge = _standing()
    if not bridge:
        return None
    ports = {port for port, left in unplugged if left != bridge}
    lost = [link for link in netlink.links() if link.index in ports and not link.master] if ports else []
    try:
        netlink.plug(lost, bridge)
    except NodeError:
        if _standing() == bridge:
            raise
    # It may have gone under our hands, and a link that was not plugged in yet is told of by no notice.
    return [link.name for link in lost] if not lost or _standing() == bridge else None


def _standing() -> int:
    link = netlink.link(BRIDGE)
    return link.index if link is not None and link.kind == "bridge" else 0


def _corrections(want: Bridge, seen: Bridge, *, old: IPv4Interface | None) -> list[str]:
    """Spell what makes ``seen`` what is wanted; ``old`` is the address that is ours to take away."""
    commands = []
    settings = (("address", want.mac, seen.mac), ("mtu", want.mtu, seen.mtu))
    if pinned := [f"{what} {new}" for what, new, now in settings if new != now]:
        commands.append(f"ip link set {want.name} {' '.join(pinned)}")
    if want.address != seen.address:
        if want.address != NO_ADDRESS:
            commands.append(f"ip addr add {want.address} dev {want.name}")
        if old is not None and old != NO_ADDRESS:
            commands.append(f"sysctl -w net.ipv4.conf.{want.name}.promote_secondaries=1")
            commands.append(f"ip addr del {old} dev {want.name}")
    if want.up != seen.up:
        commands.append(f"ip link set {want.name} {'up' if want.up else 'down'}")
    return commands


def _delete(link: KernelLink | None) -> Mapping[str, str]:
    if link is None or link.kind != "bridge":
        return {}
    ports = [other.name for other in netlink.links() if other.master == link.index]
    netlink.delete_link(link.index, name=link.name)
    return {"unplugged": ", ".join(ports)} if ports else {}


def _address(link: KernelLink, want: IPv4Interface, *, gateway: IPv4Interface, ours: bool) -> None:
    """Give the link the wanted address and take away the others: all where the bridge is ours, else our gateway's.

    The wanted one comes first: the kernel drops every route of a link, those of the leases too, with its last
    address. For the same reason an address of the same subnet is to be promoted when the one before it goes.
    """
    present = netlink.addresses(link.index)
    if want != NO_ADDRESS and want not in present:
        netlink.add_address(link.index, want, name=link.name)
    old = [address for address in present if address != want and (ours or address == gateway)]
    if not old:
        return
    _promote(link.name)
    for address in old:
        netlink.delete_address(link.index, address, name=link.name)


def _promote(name: str) -> None:
    try:
        Path(f"/proc/sys/net/ipv4/conf/{name}/promote_secondaries").write_text("1\n")
    except OSError as error:
        raise netlink.failure(error, f"keep the routes of {name} while its address changes") from error


def _telling(addresses: tuple[IPv4Interface, ...], want: IPv4Interface, *, ours: bool) -> IPv4Interface:
    """Return the one address that the record shows: the wanted one where all is well, else one that should go.

    On a bridge that is not ours, other addresses are not our business.
    """
    others = [address for address in addresses if address != want]
    if want in addresses and not (ours and others):
        return want
    return others[0] if others else NO_ADDRESS


def _made_by_us(change: Change, cx: Context) -> bool:
    """Whether we make the bridge now, or the ledger says that we did."""
    row = cx.ledger.get((change.step, change.key))
    return change.verb is Verb.CREATE or (row is not None and row.origin is Origin.CREATED)


def _marked(link: KernelLink) -> bool:
    return link.alias == ALIAS or link.alias.startswith(f"{ALIAS} ")


def _gateway(cx: Context) -> IPv4Interface:
    return IPv4Interface(f"{cx.spec.gateway}/{cx.spec.subnet.prefixlen}")
