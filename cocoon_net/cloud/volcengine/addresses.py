"""The secondary addresses of the node's interfaces. Keys: those of the step ``enis`` in the ledger.

On an interface that was there before us only the addresses that we added are ours. Which ones those are is the cloud's
choice: its answer to AssignPrivateIpAddresses tells, the journal keeps it, and the ledger once the step is at rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address

from cocoon_net.cloud.volcengine import eni as enis
from cocoon_net.cloud.volcengine.client import Client
from cocoon_net.cloud.volcengine.eni import Eni, id_of, instance_of, known_ids
from cocoon_net.cloud.volcengine.fence import Act, fence
from cocoon_net.engine.model import Busy, Call, Change, Context, Seen, Verb, Via
from cocoon_net.errors import CloudError, CloudGone, InvariantError, Unsupported
from cocoon_net.records import AddressSet

ASSIGNED = "assigned"
"""The detail of an operation that tells which addresses it got."""


class Addresses:
    """Assigns addresses by number; takes away only those that it assigned, and only all of them."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def observe(self, cx: Context) -> Seen:
        """Look: one listing by the ids of the ledger. What Assign answers is not believed, its page is ambiguous."""
        ids = known_ids(cx)
        there = enis.look_up(self._client, ids.values())
        seen: dict[str, AddressSet | Busy] = {}
        for key, identifier in ids.items():
            each = there.get(identifier)
            if each is None:
                continue
            if why := enis.waiting_for(key, each.status):
                seen[key] = Busy(why)
            elif each.secondaries:
                seen[key] = _record(key, each, cx)
        return seen

    def calls(self, change: Change, cx: Context) -> tuple[Call, ...]:
        """Assign what is missing, or unassign what we added. Fewer otherwise is Unsupported: they may be leased."""
        match change.verb, change.want, change.seen:
            case Verb.CREATE, AddressSet() as want, _:
                return (_assign(change.key, want.count, cx),)
            case Verb.UPDATE, AddressSet() as want, AddressSet() as seen if want.count > seen.count:
                return (_assign(change.key, want.count - seen.count, cx),)
            case Verb.UPDATE, AddressSet() as want, AddressSet() as seen if _rest(seen) == want.addresses:
                return (_unassign(seen.interface_id, seen.added),)
            case Verb.UPDATE, AddressSet() as want, AddressSet() as seen:
                raise Unsupported(
                    f"{change.key} has {seen.count} addresses, wanted are {want.count}; "
                    "addresses that guests may hold are not taken away",
                    hint="a teardown and a new init with the smaller --pool-size do it",
                )
            case Verb.DELETE, _, AddressSet() as seen:
                return (_unassign(seen.interface_id, seen.addresses if seen.ours else seen.added),)
        raise InvariantError(f"the inventory of addresses cannot {change.verb} {change.want or change.seen!r}")

    def apply(self, change: Change, token: str, cx: Context) -> Mapping[str, str]:
        """Assign what is missing, or unassign what we added."""
        (call,) = self.calls(change, cx)
        match call.action, change.seen:
            case "AssignPrivateIpAddresses", AddressSet(addresses=before):
                return self._assign(call, before, token)
            case "AssignPrivateIpAddresses", _:
                return self._assign(call, (), token)
            case _:
                return self._unassign(call, change.key, cx)

    def _assign(self, call: Call, before: Sequence[IPv4Address], token: str) -> Mapping[str, str]:
        """AssignPrivateIpAddresses; the details say which ones: the last of those that were not there ``before``."""
        result = self._client.perform(call, token=token)
        identifier, count = call.params["NetworkInterfaceId"], call.params["SecondaryPrivateIpAddressCount"]
        details = {"id": str(identifier), "request_id": str(result.get("RequestId", ""))}
        # The page is ambiguous: PrivateIpSet holds the new addresses, or all of them with the new ones last.
        told = [str(each) for each in result.get("PrivateIpSet") or () if str(each) not in map(str, before)]
        if isinstance(count, int) and len(told) >= count:
            details[ASSIGNED] = " ".join(told[-count:])
        return details

    def _unassign(self, call: Call, key: str, cx: Context) -> Mapping[str, str]:
        """Read the interface, refuse what is not ours, then take away what the call names and it still has."""
        identifier, going = str(call.params["NetworkInterfaceId"]), call.params["PrivateIpAddress"]
        there = enis.read(self._client, identifier)
        if there is None:
            return {"id": identifier}
        fence(Act.UNASSIGN, there, key, cx)
        left = [each for each in there.secondaries if isinstance(going, list) and str(each) in going]
        if not left:
            return {"id": identifier}
        try:
            result = self._client.perform(_unassign(identifier, left))
        except CloudGone:
            return {"id": identifier}
        except CloudError as error:
            # "Malformed" is also what an address is called that the interface has no more; the next look tells.
            if error.code == "InvalidPrivateIp.Malformed":
                return {"id": identifier}
            raise
        return {"id": identifier, "request_id": str(result.get("RequestId", ""))}


def added(key: str, each: Eni, cx: Context) -> tuple[IPv4Address, ...]:
    """Return those of an interface's addresses that we assigned, sorted.

    The ledger knows those of the last rest, the journal's open operations those since. Where the answer was lost, as
    many new addresses as were asked for are ours; any other number means that somebody else was there, too, and none
    is taken for ours: leaving one too many is better than taking one that is not ours.
    """
    now = set(each.secondaries)
    row = cx.ledger.get(("addresses", key))
    known = row.record if row is not None and isinstance(row.record, AddressSet) else None
    mine = set(known.added) if known is not None and known.interface_id == each.id else set()
    unsure: list[tuple[int, set[IPv4Address]]] = []
    for act in cx.undertaken("addresses", key):
        want, seen = act.change.want, act.change.seen
        before = seen if isinstance(seen, AddressSet) else AddressSet(0)
        count = want.count - before.count if isinstance(want, AddressSet) else 0
        if told := act.details.get(ASSIGNED):
            mine |= {IPv4Address(text) for text in told.split()}
        elif count > 0 and act.may_have_acted:
            unsure.append((count, set(before.addresses)))
    for count, were in unsure:
        fresh = now - were - mine
        mine |= fresh if len(fresh) == count else set()
    return tuple(sorted(mine & now))


def _rest(seen: AddressSet) -> tuple[IPv4Address, ...]:
    return tuple(address for address in seen.addresses if address not in seen.added)


def _assign(key: str, count: int, cx: Context) -> Call:
    params = {"NetworkInterfaceId": id_of(cx, key), "SecondaryPrivateIpAddressCount": count}
    return Call(Via.CLOUD, "AssignPrivateIpAddresses", params)


def _unassign(identifier: str, addresses: Sequence[IPv4Address]) -> Call:
    params = {"NetworkInterfaceId": identifier, "PrivateIpAddress": [str(each) for each in addresses]}
    return Call(Via.CLOUD, "UnassignPrivateIpAddresses", params)


def _record(key: str, each: Eni, cx: Context) -> AddressSet:
    elsewhere = bool(each.instance_id) and each.instance_id != instance_of(cx).instance_id
    mark = False if elsewhere else each.ours(cx.spec.node_name)
    return AddressSet(len(each.secondaries), each.secondaries, each.id, added=added(key, each, cx), ours=mark)
