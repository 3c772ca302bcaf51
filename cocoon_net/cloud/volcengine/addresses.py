"""The secondary addresses of the node's interfaces. Keys: those of the step ``enis`` in the ledger."""

from __future__ import annotations

from collections.abc import Mapping

from cocoon_net.cloud.volcengine import eni as enis
from cocoon_net.cloud.volcengine.client import Client
from cocoon_net.cloud.volcengine.eni import Eni, id_of, instance_of, known_ids
from cocoon_net.engine.model import Busy, Call, Change, Context, Seen, Verb, Via
from cocoon_net.errors import CloudError, CloudGone, InvariantError, Unsupported
from cocoon_net.records import AddressSet


class Addresses:
    """Assigns addresses by number, which ones is the cloud's choice; takes them away only all at once."""

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
                seen[key] = _record(each, cx)
        return seen

    def calls(self, change: Change, cx: Context) -> tuple[Call, ...]:
        """Assign what is missing, or unassign all. Fewer than there are is Unsupported: they may be leased."""
        match change.verb, change.want, change.seen:
            case Verb.CREATE, AddressSet() as want, _:
                return (_assign(change.key, want.count, cx),)
            case Verb.UPDATE, AddressSet() as want, AddressSet() as seen if want.count > seen.count:
                return (_assign(change.key, want.count - seen.count, cx),)
            case Verb.UPDATE, AddressSet() as want, AddressSet() as seen:
                raise Unsupported(
                    f"{change.key} has {seen.count} addresses, wanted are {want.count}; "
                    "addresses that guests may hold are not taken away",
                    hint="a teardown and a new init with the smaller --pool-size do it",
                )
            case Verb.DELETE, _, AddressSet() as seen:
                if seen.ours is False:
                    raise CloudError(f"the addresses of {change.key} ({seen.interface_id}) are not ours to take away")
                params = {
                    "NetworkInterfaceId": seen.interface_id,
                    "PrivateIpAddress": [str(address) for address in seen.addresses],
                }
                return (Call(Via.CLOUD, "UnassignPrivateIpAddresses", params),)
        raise InvariantError(f"the inventory of addresses cannot {change.verb} {change.want or change.seen!r}")

    def apply(self, change: Change, token: str, cx: Context) -> Mapping[str, str]:
        """Assign what is missing, or unassign all."""
        (call,) = self.calls(change, cx)
        match change.verb, change.seen:
            case Verb.DELETE, AddressSet() as seen:
                return self._unassign(call, seen)
            case _:
                result = self._client.perform(call, token=token)
                return {"id": str(call.params["NetworkInterfaceId"]), "request_id": str(result.get("RequestId", ""))}

    def _unassign(self, call: Call, seen: AddressSet) -> Mapping[str, str]:
        try:
            result = self._client.perform(call)
        except CloudGone:
            return {"id": seen.interface_id}
        except CloudError as error:
            # "Malformed" is also what an address is called that the interface has no more; the next look tells.
            if error.code == "InvalidPrivateIp.Malformed":
                return {"id": seen.interface_id}
            raise
        return {"id": seen.interface_id, "request_id": str(result.get("RequestId", ""))}


def _assign(key: str, count: int, cx: Context) -> Call:
    params = {"NetworkInterfaceId": id_of(cx, key), "SecondaryPrivateIpAddressCount": count}
    return Call(Via.CLOUD, "AssignPrivateIpAddresses", params)


def _record(each: Eni, cx: Context) -> AddressSet:
    elsewhere = bool(each.instance_id) and each.instance_id != instance_of(cx).instance_id
    mark = False if elsewhere else each.ours(cx.spec.node_name)
    return AddressSet(len(each.secondaries), each.secondaries, each.id, ours=mark)
