from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from cocoon_net.engine.model import Busy, Change, Origin, Row, Verb
from cocoon_net.errors import CloudError, CloudTransient, CocoonError, Unsupported
from cocoon_net.lab.cloud import Seed
from cocoon_net.records import Subnet

MINE = IPv4Network("172.20.100.0/24")
THEIRS = {"cocoon-net:product": "cocoon-net", "cocoon-net:node": "another"}


def wanted(node):
    return {"subnet": Subnet(MINE, node.instance.zone)}


def test_it_is_made_once_with_our_name_and_marks_and_goes_again(node_of):
    node = node_of()
    before = node.cloud.admin.state()["subnets"]
    assert node.look("subnet") == {}
    made = node.reach("subnet", wanted(node))["subnet"]
    assert made.ours is True and made.available == 253
    (row,) = [each for each in node.cloud.admin.state()["subnets"] if each["id"] == made.id]
    assert row["name"] == "pool-vms"
    assert dict(row["tags"]) == {
        "cocoon-net:product": "cocoon-net",
        "cocoon-net:node": "pool",
        "cocoon-net:key": "subnet",
        "cocoon-net:lineage": "lineage-of-pool",
    }
    node.reach("subnet", {})
    assert node.cloud.admin.state()["subnets"] == before
    assert node.apply(Change("subnet", "subnet", Verb.DELETE, None, made)) == {"id": made.id}  # gone is success


def test_a_lost_reply_does_not_make_a_second_one(node_of):
    node = node_of()
    node.cloud.admin.set_faults({"lose": "CreateSubnet"})
    create = Change("subnet", "subnet", Verb.CREATE, wanted(node)["subnet"], None)
    with pytest.raises(CloudTransient):
        node.apply(create)
    (first,) = node.look("subnet").values()
    assert node.apply(create)["id"] == first.id


def test_one_that_is_on_its_way_is_waited_for(node_of):
    node = node_of()
    node.cloud.admin.set_faults({"state-latency": "300ms"})
    create = Change("subnet", "subnet", Verb.CREATE, wanted(node)["subnet"], None)
    node.apply(create)
    (busy,) = node.look("subnet").values()
    assert busy == Busy("the subnet 172.20.100.0/24, which is Pending")
    # Meanwhile the VPC takes no other child; that is passing.
    other = node_of("node2", "other", "172.20.101.0/24")
    with pytest.raises(CloudTransient) as caught:
        other.apply(Change("subnet", "subnet", Verb.CREATE, Subnet(other.spec.subnet, other.instance.zone), None))
    assert caught.value.code == "InvalidVpc.InvalidStatus"
    assert node.reach("subnet", wanted(node))["subnet"].ours is True


def test_one_made_by_hand_is_found_and_never_deleted(node_of):
    node = node_of()
    there = node.cloud.admin.plant_subnet("172.20.100.0/24")
    found = node.reach("subnet", wanted(node))["subnet"]
    assert (found.id, found.ours) == (there, None)
    assert node.ledger["subnet", "subnet"].origin is Origin.FOUND
    with pytest.raises(CloudError, match="not ours to delete: it carries no mark"):
        node.apply(Change("subnet", "subnet", Verb.DELETE, None, found))
    assert any(each["id"] == there for each in node.cloud.admin.state()["subnets"])


def test_one_without_marks_goes_if_the_ledger_says_that_we_made_it(node_of):
    node = node_of()
    there = node.cloud.admin.plant_subnet("172.20.100.0/24")
    found = node.reach("subnet", wanted(node))["subnet"]
    node.ledger["subnet", "subnet"] = Row("subnet", "subnet", Origin.CREATED, found)
    node.apply(Change("subnet", "subnet", Verb.DELETE, None, found))
    assert all(each["id"] != there for each in node.cloud.admin.state()["subnets"])


def test_another_one_of_that_block_than_we_made_stays(node_of):
    node = node_of()
    node.cloud.admin.plant_subnet("172.20.100.0/24")
    found = node.reach("subnet", wanted(node))["subnet"]
    node.ledger["subnet", "subnet"] = Row("subnet", "subnet", Origin.CREATED, replace(found, id="subnet-gone"))
    with pytest.raises(CloudError, match="not ours to delete: it carries no mark"):
        node.apply(Change("subnet", "subnet", Verb.DELETE, None, found))


def test_one_that_was_adopted_stays_whatever_marks_it_has(node_of):
    node = node_of()
    made = node.reach("subnet", wanted(node))["subnet"]
    node.ledger["subnet", "subnet"] = Row("subnet", "subnet", Origin.ADOPTED, made)
    with pytest.raises(CloudError, match="not ours to delete: it was adopted"):
        node.apply(Change("subnet", "subnet", Verb.DELETE, None, made))


def test_one_of_another_node_is_seen_as_such_and_never_deleted(node_of):
    node = node_of()
    node.cloud.admin.plant_subnet("172.20.100.0/24", tags=THEIRS)
    (seen,) = node.look("subnet").values()
    assert seen.ours is False
    node.ledger["subnet", "subnet"] = Row("subnet", "subnet", Origin.CREATED, seen)
    with pytest.raises(CloudError, match="the mark of node 'another'"):
        node.apply(Change("subnet", "subnet", Verb.DELETE, None, seen))


def test_one_in_another_zone_cannot_be_moved(node_of):
    node = node_of()
    node.cloud.admin.plant_subnet("172.20.100.0/24", zone="cn-hongkong-b")
    (seen,) = node.look("subnet").values()
    assert seen != wanted(node)["subnet"]
    with pytest.raises(Unsupported, match="is in zone cn-hongkong-b, this instance is in cn-hongkong-a"):
        node.reach("subnet", wanted(node))


def test_one_that_overlaps_is_named(node_of):
    node = node_of()
    there = node.cloud.admin.plant_subnet("172.20.96.0/20")
    with pytest.raises(Unsupported, match=rf"172.20.100.0/24 overlaps 172.20.96.0/20 \(.*{there}\)") as caught:
        node.reach("subnet", wanted(node))
    assert "--subnet" in caught.value.hint


def test_a_refusal_that_cannot_be_explained_stands(node_of):
    node = node_of()
    node.cloud.admin.plant_subnet("172.20.96.0/20")
    node.cloud.admin.set_faults({"fail.DescribeSubnets": "InternalError@500"})
    with pytest.raises(CloudError) as caught:
        node.apply(Change("subnet", "subnet", Verb.CREATE, wanted(node)["subnet"], None))
    assert caught.value.code == "InvalidCidr.Conflict"
    assert not caught.value.retryable, "it is known that nothing was made"


def test_that_it_is_not_empty_stands_when_nobody_can_say_who_is_in_it(node_of):
    node = node_of()
    seen = node.reach("subnet", wanted(node))["subnet"]
    node.cloud.admin.plant_interface(subnet="172.20.100.0/24")
    node.cloud.admin.set_faults({"fail.DescribeNetworkInterfaces": "InternalError@500"})
    with pytest.raises(CloudTransient) as caught:
        node.apply(Change("subnet", "subnet", Verb.DELETE, None, seen))
    assert caught.value.code.endswith(".InUse")


def test_a_block_outside_the_vpc_is_refused_by_the_api_and_nothing_is_blamed(node_of):
    node = node_of(subnet="10.9.0.0/24")
    with pytest.raises(CloudError) as caught:
        node.reach("subnet", {"subnet": Subnet(node.spec.subnet, node.instance.zone)})
    assert not isinstance(caught.value, Unsupported)
    assert caught.value.code


def test_it_is_found_behind_a_hundred_others(node_of):
    node = node_of(seed=Seed(other_subnets=150))
    node.reach("subnet", wanted(node))
    node.calls()
    assert list(node.look("subnet")) == ["subnet"]
    assert node.calls() == {"DescribeSubnets": 1}, "by its id"
    stranger = node_of(seed=None)
    assert list(stranger.look("subnet")) == ["subnet"]
    assert stranger.calls()["DescribeSubnets"] == 2, "through the pages"


def test_one_that_was_deleted_and_made_anew_by_hand_is_found_all_the_same(node_of):
    node = node_of()
    node.reach("subnet", wanted(node))
    gone = node.ledger["subnet", "subnet"].record
    node.apply(Change("subnet", "subnet", Verb.DELETE, None, gone))
    assert node.look("subnet") == {}
    other = node.cloud.admin.plant_subnet("172.20.100.0/24")
    assert node.look("subnet")["subnet"].id == other


def test_a_failing_listing_is_not_an_empty_one(node_of):
    node = node_of()
    node.reach("subnet", wanted(node))
    node.cloud.admin.set_faults({"fail.DescribeSubnets": "InternalError@500"})
    with pytest.raises(CocoonError):
        node.look("subnet")
