"""The fence: may a call change or delete this very object, as it was read just now? Pure; the one place that decides.

Every call that takes something away or changes it reads its object first and comes through here. A mark of ours allows
it; an object without any mark is the ledger's to judge; whatever is somebody else's, or about to be, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from cocoon_net.cloud.garbage import GRACE, LookedAfter
from cocoon_net.cloud.volcengine.eni import Eni, instance_of, known_ids
from cocoon_net.cloud.volcengine.tags import LINEAGE, ours, owner, stranger
from cocoon_net.engine.model import Context, Origin
from cocoon_net.errors import CloudError
from cocoon_net.records import Subnet


class Act(StrEnum):
    """What is about to be done to an interface; reads after "not ours to"."""

    CHANGE = "change"
    UNASSIGN = "take addresses from"
    DETACH = "detach"
    DELETE = "delete"


_STEPS = {Act.UNASSIGN: "addresses", Act.DETACH: "attach", Act.DELETE: "enis"}
"""The step whose row in the ledger allows an act on an interface without a mark."""


def fence(act: Act, each: Eni, key: str, cx: Context) -> None:
    """Raise CloudError unless ``act`` is ours to do on the interface ``each``, just read."""
    if why := refusal(act, each, key, cx):
        raise CloudError(f"the interface {each.id} ({key}) is not ours to {act}: {why}", hint="it was left alone")


def refusal(act: Act, each: Eni, key: str, cx: Context) -> str:
    """Say why not; empty when it is ours to do."""
    here = instance_of(cx).instance_id
    row = cx.ledger.get((_STEPS.get(act, "enis"), key))
    if each.is_primary:
        return "it is the primary one"
    if each.service_managed:
        return "a service of the cloud manages it"
    if each.instance_id and each.instance_id != here:
        return f"it is attached to {each.instance_id}"
    if each.ours(cx.spec.node_name) is False:
        return _theirs(each.tags)
    if act is not Act.CHANGE and row is not None and row.origin is Origin.ADOPTED:
        return "it was adopted, and stays as it is"
    if each.ours(cx.spec.node_name):
        return ""
    known = known_ids(cx).get(key) == each.id
    match act:
        case Act.CHANGE if known or (each.instance_id == here and each.primary in cx.spec.subnet):
            return ""
        case Act.UNASSIGN if known:
            return ""
        case Act.DETACH | Act.DELETE if known and row is not None and row.origin is Origin.CREATED:
            return ""
        case _:
            return "it carries no mark of ours"


def garbage_refusal(each: Eni, node: str, known: LookedAfter, seconds: float | None) -> str:
    """Say why an interface, just read, is not garbage of ``node``; ``seconds`` is for how long it has not changed."""
    if each.is_primary:
        return "it is the primary one"
    if each.service_managed:
        return "a service of the cloud manages it"
    if not each.ours(node):
        return _theirs(each.tags)
    if each.instance_id or each.status != "Available":
        return f"it is {each.status}" + (f" at {each.instance_id}" if each.instance_id else "")
    if each.id in known.ids:
        return "this node's database knows it"
    if (each.tags.get(LINEAGE, ""), each.key) in known.expected:
        return f"an unfinished run may have made it as {each.key}"
    if seconds is None:
        return "nobody can say since when it is so"
    if seconds <= GRACE.total_seconds():
        return f"it changed less than {GRACE.total_seconds() / 60:.0f} minutes ago"
    return ""


def fence_subnet(identifier: str, tags: Mapping[str, str], cx: Context) -> None:
    """Raise CloudError unless a subnet, just read, is ours to delete."""
    row = cx.ledger.get(("subnet", "subnet"))
    same = row is not None and isinstance(row.record, Subnet) and row.record.id == identifier
    mark = ours(tags, cx.spec.node_name)
    if row is not None and row.origin is Origin.ADOPTED:
        why = "it was adopted, and stays as it is"
    elif mark or (mark is None and same and row is not None and row.origin is Origin.CREATED):
        return
    else:
        why = "it carries no mark of ours" if mark is None else _theirs(tags)
    raise CloudError(
        f"the subnet {identifier} ({cx.spec.subnet}) is not ours to delete: {why}",
        hint="delete it by hand if nobody needs it",
    )


def fence_rule(marked: bool, key: str, cx: Context) -> None:
    """Raise CloudError unless a rule of a security group, just read, is ours to remove."""
    row = cx.ledger.get(("ingress", key))
    if not marked and (row is None or row.origin is not Origin.CREATED):
        raise CloudError(f"the rule {key} is not ours to remove: it carries no mark", hint="it was left alone")


def _theirs(tags: Mapping[str, str]) -> str:
    return (
        f"it carries the mark of node {owner(tags)!r}" if owner(tags) else f"it is another program's ({stranger(tags)})"
    )
