"""TagResources, UntagResources and ListTagsForResources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cocoon_net.lab.cloud.actions.action import TAG_FILTERS, Action
from cocoon_net.lab.cloud.actions.listing import matches_tags
from cocoon_net.lab.cloud.records import Group, Interface, Subnet, Tags, Vpc
from cocoon_net.lab.cloud.wire import ApiError, Call, Fields, invalid
from cocoon_net.lab.cloud.world import World

_IDS = "ResourceType* ResourceIds.N*"


def tag_resources(world: World, call: Call) -> Fields:
    """Set tags on up to 50 objects of one type; a key that is there gets the new value; at most 50 tags each."""
    tags = call.tags()
    if not tags:
        raise invalid("Tags", "at least one tag")
    for key in call.listed("ResourceIds", most=50):
        merged = tuple(sorted({**dict(_tags_of(world, call, key)), **dict(tags)}.items()))
        if len(merged) > 50:
            raise ApiError("QuotaExceeded.TagsPerResource", "The resource has as many tags as it may have.")
        _put_tags(world, call, key, merged)
    return {}


def untag_resources(world: World, call: Call) -> Fields:
    """Remove tags by key from up to 50 objects of one type; a key that is not there is no error."""
    keys = set(call.listed("TagKeys", most=20))
    for resource in call.listed("ResourceIds", most=50):
        kept = tuple((key, value) for key, value in _tags_of(world, call, resource) if key not in keys)
        _put_tags(world, call, resource, kept)
    return {}


def list_tags_for_resources(world: World, call: Call) -> Fields:
    """List the tags of objects of one type, one entry for each tag."""
    kind = call.required("ResourceType")
    wanted = call.listed("ResourceIds", most=50)
    entries: list[Fields] = [
        {"ResourceId": key, "ResourceType": kind, "TagKey": name, "TagValue": value}
        for key, tags in _all_tags(world, call)
        if (not wanted or key in wanted) and matches_tags(call, tags)
        for name, value in tags
    ]
    start = int(call.text("NextToken")) if call.text("NextToken").isdigit() else 0
    end = start + (call.integer("MaxResults", 1, 100) or 10)
    return {"ResourceTags": entries[start:end], "NextToken": str(end) if end < len(entries) else ""}


def _all_tags(world: World, call: Call) -> Iterator[tuple[str, Tags]]:
    rows: list[Vpc] | list[Subnet] | list[Group] | list[Interface]
    match call.required("ResourceType"):
        case "vpc":
            rows = world.vpcs.read()
        case "subnet":
            rows = world.subnets.read()
        case "securitygroup":
            rows = world.groups.read()
        case "eni":
            rows = world.interfaces.read()
        case _:
            raise invalid("ResourceType", "vpc, subnet, securitygroup or eni")
    for row in rows:
        yield row.id, row.tags


def _tags_of(world: World, call: Call, key: str) -> Tags:
    row: Vpc | Subnet | Group | Interface | None
    match call.required("ResourceType"):
        case "vpc":
            row = world.vpcs.get(key)
        case "subnet":
            row = world.subnets.get(key)
        case "securitygroup":
            row = world.groups.get(key)
        case "eni":
            row = world.interfaces.get(key)
        case _:
            raise invalid("ResourceType", "vpc, subnet, securitygroup or eni")
    if row is None:
        raise ApiError("InvalidResource.NotFound", f"The specified resource {key} does not exist.", 404)
    return row.tags


def _put_tags(world: World, call: Call, key: str, tags: Tags) -> None:
    match call.required("ResourceType"):
        case "vpc":
            world.vpcs.put(replace(world.vpcs.rows[key], tags=tags))
        case "subnet":
            world.subnets.put(replace(world.subnets.rows[key], tags=tags))
        case "securitygroup":
            world.groups.put(replace(world.groups.rows[key], tags=tags))
        case _:
            world.interfaces.put(replace(world.interfaces.rows[key], tags=tags))


ACTIONS = {
    "TagResources": Action(tag_resources, f"{_IDS} Tags.N.Key Tags.N.Value"),
    "UntagResources": Action(untag_resources, f"{_IDS} TagKeys.N*"),
    "ListTagsForResources": Action(
        list_tags_for_resources, f"ResourceType* ResourceIds.N TagType MaxResults NextToken {TAG_FILTERS}"
    ),
}
