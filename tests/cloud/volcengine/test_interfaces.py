from __future__ import annotations

from dataclasses import replace

import pytest

from cocoon_net.engine.model import Busy, Change, Origin, Row, Verb
from cocoon_net.errors import CloudError, CloudQuota, CloudTransient, Unsupported
from cocoon_net.lab.cloud import Seed
from cocoon_net.records import Attachment, Interface, Subnet

OURS = {"cocoon-net:product": "cocoon-net", "cocoon-net:node": "pool"}
THEIRS = {"cocoon-net:product": "cocoon-net", "cocoon-net:node": "another"}


@pytest.fixture
def node(node_of):
    """A node that has its subnet."""
    node = node_of()
    node.reach("subnet", {"subnet": Subnet(node.spec.subnet, node.instance.zone)})
    return node


def wanted(node, count):
    each = Interface(node.spec.subnet, tuple(sorted(node.instance.security_groups)))
    return {f"eni-{n + 1}": each for n in range(count)}


def remove(node, seen, key="eni-1"):
    return node.apply(Change("enis", key, Verb.DELETE, None, seen))


def foreign(node, identifier, **facts):
    """Return a record that claims an interface of somebody else."""
    return Interface(node.spec.subnet, (), id=identifier, **facts)


def test_they_are_made_with_our_names_and_marks_and_go_again(node):
    assert node.look("enis") == {}
    made = node.reach("enis", wanted(node, 3))
    rows = {each["id"]: each for each in node.enis()}
    assert len(rows) == 3
    for key, record in made.items():
        row = rows[record.id]
        assert row["name"] == f"pool-{key}"
        assert dict(row["tags"]) == {**OURS, "cocoon-net:key": key, "cocoon-net:lineage": "lineage-of-pool"}
        assert (record.mac, record.ours, record.instance_id) == (row["mac"], True, "")
        assert str(record.primary_address) == row["primary"]
    node.reach("enis", {})
    assert node.enis() == []
    for key, record in made.items():
        assert remove(node, record, key) == {"id": record.id}  # gone is success


@pytest.mark.parametrize("gone", ["404", "empty"])
def test_gone_is_success_however_the_api_says_it(node, gone):
    (record,) = node.reach("enis", wanted(node, 1)).values()
    remove(node, record)
    node.cloud.admin.set_faults({"gone-describe": gone})
    assert remove(node, record) == {"id": record.id}


def test_a_lost_reply_does_not_make_a_second_one(node):
    node.cloud.admin.set_faults({"lose": "CreateNetworkInterface"})
    create = Change("enis", "eni-1", Verb.CREATE, wanted(node, 1)["eni-1"], None)
    with pytest.raises(CloudTransient):
        node.apply(create)
    assert node.apply(create)["id"] == node.enis()[0]["id"]
    assert len(node.enis()) == 1


def test_one_on_its_way_is_waited_for(node):
    node.cloud.admin.set_faults({"state-latency": "300ms"})
    node.apply(Change("enis", "eni-1", Verb.CREATE, wanted(node, 1)["eni-1"], None))
    assert node.look("enis") == {"eni-1": Busy("eni-1 to become Available")}
    (record,) = node.reach("enis", wanted(node, 1)).values()
    remove(node, record)
    assert node.look("enis") == {"eni-1": Busy("eni-1 to be deleted")}
    node.reach("enis", {})


def test_a_look_costs_two_calls(node):
    node.reach("enis", wanted(node, 3))
    node.calls()
    node.look("enis")
    assert node.calls() == {"DescribeNetworkInterfaces": 2}


def test_things_of_others_are_never_seen(node):
    plant = node.cloud.admin.plant_interface
    plant(subnet="172.20.100.0/24", tags=THEIRS)
    plant(subnet="172.20.100.0/24", tags=THEIRS, instance="node1")
    plant(subnet="172.20.100.0/24", service_managed=True, instance="node1")
    plant(subnet="172.20.100.0/24", tags=OURS, service_managed=True, instance="node1")
    plant(subnet="172.20.100.0/24", name="orphan")
    plant(subnet="172.20.100.0/24", instance="node2")
    plant(instance="node1", name="in the hosts' subnet")
    plant(tags={"cocoon-net:node": "pool"}, name="without our product's mark")
    assert node.look("enis") == {}


def test_things_of_others_are_never_deleted(node):
    plant = node.cloud.admin.plant_interface
    (other_node,) = plant(subnet="172.20.100.0/24", tags=THEIRS)
    (managed,) = plant(subnet="172.20.100.0/24", tags=OURS, service_managed=True)
    (unmarked,) = plant(subnet="172.20.100.0/24", instance="node1")
    (away,) = plant(subnet="172.20.100.0/24", tags=OURS, instance="node2")
    primary = node.instance.primary_interface_id
    before = node.enis()
    for identifier, why in [
        (other_node, "the mark of node 'another'"),
        (managed, "a service of the cloud"),
        (unmarked, "no mark"),
        (away, f"attached to {node.cloud.instance_id('node2')}"),
        (primary, "the primary one"),
    ]:
        with pytest.raises(CloudError, match=f"not ours to delete: .*{why}"):
            remove(node, foreign(node, identifier, ours=True))
    assert node.enis() == before
    writes = [call["action"] for call in node.cloud.admin.calls() if not call["action"].startswith("Describe")]
    assert writes == ["CreateSubnet"]


def test_one_of_ours_elsewhere_is_a_record_that_is_not_ours_to_touch(node):
    node.cloud.admin.plant_interface(subnet="172.20.100.0/24", tags=OURS, instance="node2")
    (seen,) = node.look("enis").values()
    elsewhere = node.cloud.instance_id("node2")
    assert (seen.instance_id, seen.owner, seen.ours) == (elsewhere, elsewhere, False)
    with pytest.raises(Unsupported):
        node.apply(Change("enis", "eni-1", Verb.UPDATE, wanted(node, 1)["eni-1"], seen))


def test_those_that_were_attached_by_hand_are_found_and_get_the_lowest_free_keys(node):
    plant = node.cloud.admin.plant_interface
    by_hand = plant(subnet="172.20.100.0/24", instance="node1", count=2)
    (marked,) = plant(subnet="172.20.100.0/24", tags={**OURS, "cocoon-net:key": "eni-1"})
    seen = node.look("enis")
    assert {key: record.id for key, record in seen.items()} == dict(
        zip(["eni-1", "eni-2", "eni-3"], [marked, *sorted(by_hand)], strict=True)
    )
    assert [seen[key].ours for key in ("eni-1", "eni-2", "eni-3")] == [True, None, None]


def test_the_ledger_s_keys_go_before_tags_and_twins_keep_apart(node):
    plant = node.cloud.admin.plant_interface
    twins = plant(subnet="172.20.100.0/24", tags={**OURS, "cocoon-net:key": "eni-2"}, count=2)
    (odd,) = plant(subnet="172.20.100.0/24", tags={**OURS, "cocoon-net:key": "nonsense"})
    last = max(twins)
    node.ledger["enis", "eni-2"] = Row("enis", "eni-2", Origin.CREATED, foreign(node, last))
    seen = {key: record.id for key, record in node.look("enis").items()}
    assert seen["eni-2"] == last
    assert set(seen) == {"eni-1", "eni-2", "eni-3"}
    assert {seen["eni-1"], seen["eni-3"]} == {min(twins), odd}


def test_one_that_only_the_ledger_knows_is_looked_up_and_may_go(node):
    (there,) = node.cloud.admin.plant_interface(subnet="172.20.100.0/24")
    node.ledger["enis", "eni-4"] = Row("enis", "eni-4", Origin.CREATED, foreign(node, there))
    seen = node.look("enis")
    assert {key: (record.id, record.ours) for key, record in seen.items()} == {"eni-4": (there, None)}
    remove(node, seen["eni-4"], "eni-4")
    assert node.enis() == []
    assert node.look("enis") == {}  # an id that nobody knows any more is absent


def test_a_failing_look_raises_instead_of_reporting_nothing(node):
    node.reach("enis", wanted(node, 1))
    node.cloud.admin.set_faults({"fail.DescribeNetworkInterfaces": "FlowLimitExceeded@429"})
    for step in ("enis", "attach", "addresses"):
        with pytest.raises(CloudTransient):
            node.look(step)


def test_security_groups_are_put_right_and_the_subnet_is_not(node):
    (made,) = node.reach("enis", wanted(node, 1)).values()
    groups = sorted(each["id"] for each in node.cloud.admin.state()["groups"])
    want = replace(made, security_groups=tuple(groups))
    assert node.reach("enis", {"eni-1": want})["eni-1"].security_groups == tuple(groups)
    node.reach("enis", wanted(node, 1))
    (stray,) = node.cloud.admin.plant_interface(tags={**OURS, "cocoon-net:key": "eni-7"})
    seen = node.look("enis")["eni-7"]
    assert str(seen.subnet) == "172.20.0.0/20"
    with pytest.raises(Unsupported, match=rf"eni-7 \({stray}\) is in the subnet 172.20.0.0/20"):
        node.apply(Change("enis", "eni-7", Verb.UPDATE, wanted(node, 1)["eni-1"], seen))


def test_after_a_lost_ledger_they_are_still_known_and_let_go(node):
    """Without the ledger nobody knows the attachments; deleting then detaches first."""
    made = node.reach("enis", wanted(node, 2))
    for key in made:
        node.apply(Change("attach", key, Verb.CREATE, _attached(node), None))
    node.ledger.clear()
    assert set(node.look("enis")) == {"eni-1", "eni-2"}
    node.reach("enis", {})
    assert node.enis() == []


def test_one_in_the_state_error_is_not_attached_for_ever_and_can_be_deleted(node):
    (broken,) = node.cloud.admin.plant_interface(
        subnet="172.20.100.0/24", tags={**OURS, "cocoon-net:key": "eni-1"}, status="Error"
    )
    (seen,) = node.look("enis").values()
    assert seen.id == broken
    node.ledger["enis", "eni-1"] = Row("enis", "eni-1", Origin.FOUND, seen)
    assert node.look("attach") == {}
    with pytest.raises(CloudError, match="is in the state Error") as caught:
        node.apply(Change("attach", "eni-1", Verb.CREATE, _attached(node), None))
    assert not caught.value.retryable


def test_a_subnet_without_room_is_a_quota_with_advice(node):
    node.cloud.admin.set_faults({"subnet-free": "1"})
    with pytest.raises(CloudQuota, match="InsufficientIpInSubnet") as caught:
        node.reach("enis", wanted(node, 2))
    assert "orphaned" in caught.value.hint


def test_ours_are_found_among_hundreds(node_of):
    node = node_of(seed=Seed(other_interfaces=230))
    node.reach("subnet", {"subnet": Subnet(node.spec.subnet, node.instance.zone)})
    tags = {**OURS, "cocoon-net:key": ""}
    node.cloud.admin.plant_interface(subnet="172.20.100.0/24", tags=tags, count=120)
    assert len(node.look("enis")) == 120


def _attached(node):
    return Attachment(node.instance.instance_id)
