"""The composition root: what is applied in threads does not meet in one place."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from cocoon_net import records
from cocoon_net.dhcp.book import Book
from cocoon_net.engine.journal import Journal
from cocoon_net.engine.model import Change, Context, Verb
from cocoon_net.site import Site
from cocoon_net.spec import Spec
from cocoon_net.store import open_database
from cocoon_net.world import World

SPEC = Spec("volcengine", "node", IPv4Network("172.20.100.0/24"), IPv4Address("172.20.100.1"))
POOL = records.Pool(SPEC.subnet, SPEC.gateway, (), (IPv4Address("172.20.100.9"),), 1500)


class Undone(Exception):
    """The journal's transaction comes to nothing."""


@pytest.mark.parametrize(("verb", "want", "before"), [(Verb.CREATE, POOL, None), (Verb.DELETE, None, POOL)])
def test_the_pool_is_not_written_inside_of_the_journal_s_transaction(
    tmp_path: Path, verb: Verb, want: records.Pool | None, before: records.Pool | None
) -> None:
    """The runner writes the outcome of one change while another one is applied: neither may end the other's."""
    site = Site(state_dir=tmp_path)
    database = open_database(site.database)
    Book(database).put_pool(before, datetime.now(UTC))
    inventory = World(site, SPEC, database).node["dhcp"]
    cx = Context(SPEC, None, {}, "lineage", datetime.now(UTC))
    with suppress(Undone), Journal(database).transaction():
        inventory.apply(Change("dhcp", "pool", verb, want, before), "token", cx)
        database.execute("INSERT INTO meta (name, value) VALUES ('half', 'done')")
        raise Undone
    assert Journal(database).note("half") == "", "what is undone together was one transaction until its end"
    assert Book(database).pool() == want
    assert set(inventory.observe(cx)) == ({"pool"} if want else set())
