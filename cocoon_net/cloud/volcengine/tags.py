"""Ownership that anybody can see: the tags that we put on what we make, and those of others. Pure.

Programs put a namespace into the keys of their tags (``k8s:cello:created-by``, ``volc:vke:cluster-id``,
``io.cilium/...``); people do not (``team``). A thing that bears a program's tag and not ours is that program's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRODUCT = "cocoon-net:product"
NODE = "cocoon-net:node"
KEY = "cocoon-net:key"
LINEAGE = "cocoon-net:lineage"

OURS = "cocoon-net"
"""The value of PRODUCT, and how the description of each rule of ours begins."""

_NEUTRAL = ("cocoon-net:", "sys:tag:", "volc:tag:")
"""Namespaces that tell nothing of an owner: ours, whose PRODUCT decides, and the cloud's note of who called."""


def marks(node: str, key: str, lineage: str) -> list[dict[str, str]]:
    """Return the ``Tags`` of a new object."""
    values = {PRODUCT: OURS, NODE: node, KEY: key, LINEAGE: lineage}
    return [{"Key": name, "Value": value} for name, value in values.items()]


def filters(node: str = "") -> list[dict[str, Any]]:
    """Return the ``TagFilters`` of objects of this product, of one node or of all."""
    product = {"Key": PRODUCT, "Values": [OURS]}
    return [product, {"Key": NODE, "Values": [node]}] if node else [product]


def tags_of(thing: Mapping[str, Any]) -> dict[str, str]:
    """Return an object's tags; null, [] and a missing key mean none."""
    return {str(tag.get("Key", "")): str(tag.get("Value") or "") for tag in thing.get("Tags") or []}


def owner(tags: Mapping[str, str]) -> str:
    """Return the node that an object of this product is tagged with; empty where it is not tagged."""
    return tags.get(NODE, "") if tags.get(PRODUCT) == OURS else ""


def stranger(tags: Mapping[str, str]) -> str:
    """Return the tag by which another program claims a thing; empty where none does."""
    if tags.get(PRODUCT, OURS) != OURS:
        return f"{PRODUCT}={tags[PRODUCT]}"
    return next((key for key in sorted(tags) if _is_a_program_s(key)), "")


def ours(tags: Mapping[str, str], node: str) -> bool | None:
    """Return True for a mark of ours, False for another node's or another program's, None for none."""
    if name := owner(tags):
        return name == node
    return False if stranger(tags) else None


def _is_a_program_s(key: str) -> bool:
    return (":" in key or "/" in key) and not key.startswith(_NEUTRAL)
