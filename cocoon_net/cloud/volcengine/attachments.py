"""That the node's interfaces are attached to this instance. Keys: those of the step ``enis`` in the ledger."""

from __future__ import annotations

from collections.abc import Mapping

from cocoon_net.cloud.volcengine import eni as enis
from cocoon_net.cloud.volcengine.client import Client
from cocoon_net.cloud.volcengine.eni import Eni, id_of, instance_of, known_ids
from cocoon_net.cloud.volcengine.fence import Act, fence
from cocoon_net.engine.model import Busy, Call, Change, Context, Seen, Verb, Via
from cocoon_net.errors import CloudError, CloudGone, CloudTransient, InvariantError, Unsupported, WorldError
from cocoon_net.records import Attachment


class Attachments:
    """Attaches and detaches interfaces; DescribeNetworkInterfaces tells how far that is."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def observe(self, cx: Context) -> Seen:
        """Look: one listing by the ids of the ledger. An interface that is missing is attached to nothing."""
        ids = known_ids(cx)
        there = enis.look_up(self._client, ids.values())
        seen: dict[str, Attachment | Busy] = {}
        for key, identifier in ids.items():
            each = there.get(identifier)
            if each is None or each.status in ("Available", "Error", "Deleting"):
                continue
            why = enis.waiting_for(key, each.status)
            seen[key] = Busy(why) if why else _record(each, cx)
        return seen

    def calls(self, change: Change, cx: Context) -> tuple[Call, ...]:
        """Attach or detach. An update is Unsupported: another instance has the interface."""
        match change.verb, change.want, change.seen:
            case Verb.CREATE, Attachment() as want, _:
                params = {"InstanceId": want.instance_id, "NetworkInterfaceId": id_of(cx, change.key)}
                return (Call(Via.CLOUD, "AttachNetworkInterface", params),)
            case Verb.UPDATE, Attachment() as want, Attachment() as seen:
                raise Unsupported(
                    f"{change.key} ({seen.interface_id}) is attached to {seen.instance_id}, not to {want.instance_id}",
                    hint=f"detach it there, or run cocoon-net teardown on {seen.instance_id}; "
                    "each node needs a --node-name of its own",
                )
            case Verb.DELETE, _, Attachment() as seen:
                params = {"InstanceId": instance_of(cx).instance_id, "NetworkInterfaceId": seen.interface_id}
                return (Call(Via.CLOUD, "DetachNetworkInterface", params),)
        raise InvariantError(f"the inventory of attachments cannot {change.verb} {change.want or change.seen!r}")

    def apply(self, change: Change, token: str, cx: Context) -> Mapping[str, str]:
        """Attach or detach."""
        (call,) = self.calls(change, cx)
        match change.seen:
            case Attachment() as seen:
                return self._detach(call, change.key, seen, cx)
            case _:
                return self._attach(change.key, call)

    def _attach(self, key: str, call: Call) -> Mapping[str, str]:
        """AttachNetworkInterface takes no token: a second one is refused for the status, and the next look tells."""
        identifier = str(call.params["NetworkInterfaceId"])
        try:
            result = self._client.perform(call)
        except CloudTransient as error:
            if error.code == "InvalidEni.InvalidStatus":
                self._refuse_broken(key, identifier)
            raise
        return {"id": identifier, "request_id": str(result.get("RequestId", ""))}

    def _refuse_broken(self, key: str, identifier: str) -> None:
        """Raise CloudError for an interface in the state Error, which no waiting will mend."""
        try:
            each = enis.look_up(self._client, [identifier]).get(identifier)
        except WorldError:
            return  # what it is in is not known now, the refusal is
        if each is not None and each.status == "Error":
            raise CloudError(
                f"{key} ({identifier}) is in the state Error and cannot be attached",
                hint="delete it in the cloud's console; the same command then makes another",
            )

    def _detach(self, call: Call, key: str, seen: Attachment, cx: Context) -> Mapping[str, str]:
        """Read the interface, refuse what is not ours, then detach it; gone or detached is success."""
        there = enis.read(self._client, seen.interface_id)
        if there is None or not there.instance_id:
            return {"id": seen.interface_id}
        fence(Act.DETACH, there, key, cx)
        try:
            result = self._client.perform(call)
        except CloudGone:
            return {"id": seen.interface_id}
        except CloudError as error:
            if error.code == "InvalidEni.InstanceMismatch":
                return {"id": seen.interface_id}
            raise
        return {"id": seen.interface_id, "request_id": str(result.get("RequestId", ""))}


def _record(each: Eni, cx: Context) -> Attachment:
    here = each.instance_id == instance_of(cx).instance_id
    return Attachment(each.instance_id, each.id, ours=each.ours(cx.spec.node_name) if here else False)
