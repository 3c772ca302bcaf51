"""How a plan reads: pure lines, so no world is needed."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import IPv4Network
from typing import Any

import pytest

from cocoon_net.cli.plan import lines
from cocoon_net.engine.forecast import Forecast, Outlook, Planned
from cocoon_net.engine.model import Call, Change, Verb, Via
from cocoon_net.records import File, Interface, Record, Ruleset, Subnet, Sysctl
from cocoon_net.spec import parse

NET = IPv4Network("172.20.100.0/24")
SPEC = parse(platform="volcengine", node_name="pool", subnet=str(NET))


def told(*steps: Outlook) -> list[str]:
    forecast = Forecast("init", "", SPEC, None, "0", datetime(2026, 1, 1, tzinfo=UTC), steps)
    return [text for _, text in lines(forecast)]


def update(was: Record, wanted: Record, **how: Any) -> Outlook:
    planned = Planned(Change("s", "k", Verb.UPDATE, wanted, was), how.pop("calls", ()), **how)
    return Outlook("s", {"k": was}, {"k": wanted}, (planned,), ())


@pytest.mark.parametrize(
    ("was", "wanted", "says"),
    [
        (Sysctl("k", "1"), Sysctl("k", "0"), ["      value: 1 → 0"]),
        (File("k", "a\nb\n"), File("k", "a\nc\n"), ["      content:", "        -b", "        +c"]),
        (File("k", "a\n", 0o600), File("k", "a\n"), ["      mode: 0600 → 0644"]),
        (
            Ruleset(("one", "two"), ()),
            Ruleset(("two", "three"), ()),
            ["      filter_rules:", "        - one", "        + three"],
        ),
        (Ruleset(("one", "two"), ()), Ruleset(("two", "one"), ()), ["      filter_rules: in another order"]),
        (Interface(NET, ("sg-a",)), Interface(NET, ()), ["      security_groups:", "        - sg-a"]),
    ],
)
def test_a_change_tells_each_field_that_differs_and_no_other(was: Record, wanted: Record, says: list[str]) -> None:
    assert told(update(was, wanted))[1:-3] == ["~ s          k", *says]


def test_a_new_thing_is_one_line_and_a_thing_to_go_is_named_by_its_id() -> None:
    new, old = Subnet(NET, "zone-a"), Subnet(NET, "zone-a", id="subnet-1", owner="pool", ours=True)
    make = Planned(Change("s", "k", Verb.CREATE, new, None), (Call(Via.CLOUD, "CreateSubnet", {"ZoneId": "zone-a"}),))
    drop = Planned(Change("s", "l", Verb.DELETE, None, old), (Call(Via.CLOUD, "DeleteSubnet"),))
    assert told(Outlook("s", {}, {}, (make, drop), ())) == [
        "plan: init of pool (an instance that was not asked for); nothing is changed",
        "+ s          k   cidr 172.20.100.0/24, zone zone-a",
        "    → CreateSubnet ZoneId=zone-a",
        "- s          l   cidr 172.20.100.0/24, zone zone-a, id subnet-1, available 0",
        "    → DeleteSubnet",
        "",
        "1 to create, 0 to change, 1 to delete",
        "calls: 2 API calls",
    ]


def test_what_is_waited_for_kept_or_refused_is_told() -> None:
    refused = update(Sysctl("k", "1"), Sysctl("k", "0"), refused="it is read-only")
    assert "    ! would be refused: it is read-only" in told(refused)
    assert told(refused)[-1] == "a run would stop at 's': see ! above"
    resting = Outlook("s", {}, {}, (), ("k to attach",), {"a": "adopted: it stays", "b": "adopted: it stays"})
    assert told(resting)[1:] == [
        "… s          waiting for k to attach",
        "= s          a, b: adopted: it stays",
        "",
        "0 to create, 0 to change, 0 to delete, 1 to wait for",
        "calls: none",
    ]


def test_nothing_to_do_is_said_so() -> None:
    assert told(Outlook("s", {}, {}, (), ()))[-1] == "no changes: the world is as wanted"
