from __future__ import annotations

from dataclasses import replace

import pytest

from cocoon_net.engine.model import Busy, Change, Verb
from cocoon_net.errors import CloudError, CloudQuota, CloudTransient, Unsupported
from cocoon_net.records import AddressSet, Attachment, Interface, Subnet


@pytest.fixture
def node(node_of):
    """A node that has its subnet and two interfaces."""
    node = node_of()
    node.reach("subnet", {"subnet": Subnet(node.spec.subnet, node.instance.zone)})
    each = Interface(node.spec.subnet, tuple(sorted(node.instance.security_groups)))
    node.reach("enis", {"eni-1": each, "eni-2": each})
    return node


def here(node):
    return dict.fromkeys(["eni-1", "eni-2"], Attachment(node.instance.instance_id))


def test_the_whole_life_from_subnet_to_nothing(node):
    attached = node.reach("attach", here(node))
    assert all(record.ours for record in attached.values())
    given = node.reach("addresses", {"eni-1": AddressSet(3), "eni-2": AddressSet(2)})
    assert [len(given[key].addresses) for key in ("eni-1", "eni-2")] == [3, 2]
    assert all(address in node.spec.subnet for record in given.values() for address in record.addresses)
    enis = node.cx.records("enis")
    assert not {enis[key].primary_address for key in enis} & {a for r in given.values() for a in r.addresses}
    more = node.reach("addresses", {"eni-1": AddressSet(5), "eni-2": AddressSet(2)})
    assert set(given["eni-1"].addresses) < set(more["eni-1"].addresses)
    node.reach("addresses", {})
    node.reach("attach", {})
    node.reach("enis", {})
    node.reach("subnet", {})
    assert node.enis() == []
    assert len(node.cloud.admin.state()["subnets"]) == 1


def test_addresses_go_with_their_interface(node):
    """A teardown does not unassign: one call less for each interface."""
    node.reach("attach", here(node))
    node.reach("addresses", {"eni-1": AddressSet(3)})
    node.reach("attach", {})
    node.reach("enis", {})
    assert node.enis() == []


def test_what_is_under_way_is_waited_for_by_name(node):
    node.cloud.admin.set_faults({"state-latency": "250ms"})
    attach = Change("attach", "eni-1", Verb.CREATE, here(node)["eni-1"], None)
    node.apply(attach)
    assert node.look("attach") == {"eni-1": Busy("eni-1 to attach")}
    assert node.look("addresses") == {"eni-1": Busy("eni-1 to attach")}
    assert node.look("enis")["eni-1"] == Busy("eni-1 to attach")
    with pytest.raises(CloudTransient) as caught:
        node.apply(attach)  # asked again, it is refused for its status, and the next look tells
    assert caught.value.code == "InvalidEni.InvalidStatus"
    node.cloud.admin.set_faults({"fail.DescribeNetworkInterfaces": "InternalError@500"})
    with pytest.raises(CloudTransient) as caught:
        node.apply(attach)
    assert caught.value.code == "InvalidEni.InvalidStatus", "also when nobody can say in which state it is"
    node.cloud.admin.set_faults({"fail.DescribeNetworkInterfaces": ""})
    seen = node.reach("attach", {"eni-1": here(node)["eni-1"]})["eni-1"]
    node.apply(Change("attach", "eni-1", Verb.DELETE, None, seen))
    assert node.look("attach") == {"eni-1": Busy("eni-1 to detach")}
    node.reach("attach", {})


def test_an_attach_that_falls_back_is_asked_for_again(node):
    node.cloud.admin.set_faults({"attach-fail": "2"})
    assert set(node.reach("attach", here(node))) == {"eni-1", "eni-2"}


def test_a_look_costs_one_call_and_none_without_a_ledger(node):
    node.calls()
    node.look("attach")
    node.look("addresses")
    assert node.calls() == {"DescribeNetworkInterfaces": 2}
    node.ledger.clear()
    assert node.look("attach") == node.look("addresses") == {}
    assert node.calls() == {}


def test_an_interface_that_is_gone_is_attached_to_nothing(node):
    identifier = node.ledger["enis", "eni-2"].record.id
    node.reach("attach", {"eni-1": here(node)["eni-1"]})
    node.apply(Change("enis", "eni-2", Verb.DELETE, None, node.ledger["enis", "eni-2"].record))
    assert set(node.look("attach")) == {"eni-1"}
    gone = Attachment(node.instance.instance_id, identifier, ours=True)
    assert node.apply(Change("attach", "eni-2", Verb.DELETE, None, gone)) == {"id": identifier}


def test_one_that_is_detached_already_is_success(node):
    (record, _) = node.reach("attach", here(node)).values()
    drop = Change("attach", "eni-1", Verb.DELETE, None, record)
    node.apply(drop)
    assert node.apply(drop)["id"] == record.interface_id  # InvalidEni.InstanceMismatch


def test_one_at_another_instance_is_left_there(node, node_of):
    twin = node_of("node2", "pool")  # the same name on another machine: a mistake to be told of
    twin.ledger = dict(node.ledger)
    twin.reach("attach", here(twin))
    (seen, _) = node.look("attach").values()
    assert (seen.instance_id, seen.ours) == (twin.instance.instance_id, False)
    with pytest.raises(Unsupported, match=f"attached to {twin.instance.instance_id}, not to") as caught:
        node.reach("attach", here(node))
    assert "--node-name" in caught.value.hint
    with pytest.raises(CloudError, match="not ours to detach"):
        node.apply(Change("attach", "eni-1", Verb.DELETE, None, seen))
    assert all(record.ours is False for record in node.look("addresses").values())
    assert len(twin.look("attach")) == 2


def test_one_too_many_for_the_instance_is_a_quota(node):
    node.cloud.admin.set_faults({"instance-quota": "2"})
    with pytest.raises(CloudQuota, match=r"LimitExceeded\.EnisPerInstance"):
        node.reach("attach", here(node))


def test_too_many_addresses_for_the_type_are_a_quota(node):
    node.reach("attach", here(node))
    with pytest.raises(CloudQuota, match=r"LimitExceeded\.PrivateIpsPerEni"):
        node.reach("addresses", {"eni-1": AddressSet(21)})


def test_a_full_subnet_is_a_quota(node):
    node.cloud.admin.set_faults({"subnet-free": "5"})
    with pytest.raises(CloudQuota, match="InsufficientIpInSubnet"):
        node.reach("addresses", {"eni-1": AddressSet(10)})


def test_addresses_are_never_taken_away_one_by_one(node):
    node.reach("addresses", {"eni-1": AddressSet(5)})
    with pytest.raises(Unsupported, match="eni-1 has 5 addresses, wanted are 3"):
        node.reach("addresses", {"eni-1": AddressSet(3)})
    assert node.look("addresses")["eni-1"].count == 5


@pytest.mark.parametrize("returns", ["new", "all"])
def test_a_lost_reply_assigns_once_whatever_assign_returns(node, returns):
    node.cloud.admin.set_faults({"lose": "AssignPrivateIpAddresses", "assign-returns": returns})
    assign = Change("addresses", "eni-1", Verb.CREATE, AddressSet(4), None)
    with pytest.raises(CloudTransient):
        node.apply(assign)
    node.apply(assign)
    assert node.look("addresses")["eni-1"].count == 4


def test_unassigning_twice_is_unassigning_once(node):
    (record,) = node.reach("addresses", {"eni-1": AddressSet(4)}).values()
    for claim in (record, replace(record, interface_id="eni-nobody-knows-me")):
        node.apply(Change("addresses", "eni-1", Verb.DELETE, None, claim))
    drop = Change("addresses", "eni-1", Verb.DELETE, None, replace(record, count=1, addresses=record.addresses[:1]))
    node.apply(drop)  # InvalidPrivateIp.Malformed: it has no such address any more
    assert node.look("addresses") == {}


def test_listings_that_lag_do_not_make_anything_twice(node):
    node.cloud.admin.set_faults({"describe-lag": "3"})
    node.reach("attach", here(node))
    node.reach("addresses", {"eni-1": AddressSet(4), "eni-2": AddressSet(4)})
    node.cloud.admin.set_faults({"describe-lag": ""})
    assert [record.count for record in node.look("addresses").values()] == [4, 4]
    node.cloud.admin.set_faults({"describe-lag": "3"})
    node.reach("attach", {})
    node.reach("enis", {})
    node.reach("subnet", {})
    assert node.enis() == []


def test_the_ways_of_writing_an_empty_list_do_not_matter(node):
    for way in ("[]", "null", "missing"):
        node.cloud.admin.set_faults({"empty-lists": way})
        assert node.look("attach") == node.look("addresses") == {}
        assert set(node.look("enis")) == {"eni-1", "eni-2"}


def test_the_same_wish_about_another_interface_is_not_refused(node):
    """An interface vanished before its addresses came to rest and was made anew under its key."""
    assign = Change("addresses", "eni-1", Verb.CREATE, AddressSet(4), None)
    node.apply(assign)
    node.apply(Change("enis", "eni-1", Verb.DELETE, None, node.ledger["enis", "eni-1"].record))
    row = node.ledger["enis", "eni-2"]
    node.ledger["enis", "eni-1"] = replace(row, key="eni-1")
    node.apply(assign)
    node.apply(assign)
    assert node.look("addresses")["eni-1"].count == 4
