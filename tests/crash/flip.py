"""Flip bits of a node's database, use the node, and say what came of it; one JSON line for each seed.

    flip.py STATE_DIR PRISTINE SEED... -- FLAGS OF INIT

``PRISTINE`` is a copy of the state directory. ``leases.json`` holds guests that have their addresses all the while.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import sqlite3
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from cocoon_net.cli import main
from cocoon_net.dhcp.book import Book
from cocoon_net.dhcp.lease import State
from cocoon_net.dhcp.pool import Pool
from cocoon_net.dhcp.table import Table
from cocoon_net.errors import CocoonError
from cocoon_net.recovery import open_sound, recall
from cocoon_net.site import Site


def use(*words: str) -> dict[str, Any]:
    """Give one command; returns how it ended."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code: Any = main.run(list(words))
    except BaseException as error:
        code = f"{type(error).__name__}: {error}"
    return {"code": code, "said": err.getvalue()[-1500:]}


def flip(path: Path, rng: random.Random, bits: int) -> list[int]:
    """Flip bits anywhere, or (every other time) on the first pages of the tables that somebody acts on."""
    content = bytearray(path.read_bytes())
    with contextlib.closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as database:
        (size,) = database.execute("PRAGMA page_size").fetchone()
        query = "SELECT rootpage FROM sqlite_schema WHERE name IN ('leases', 'pool', 'ledger', 'runs', 'meta')"
        pages = [page for (page,) in database.execute(query)]
    areas = [range((page - 1) * size * 8, page * size * 8) for page in pages]
    area = rng.choice(areas) if rng.random() < 0.5 else range(len(content) * 8)
    places = [rng.choice(area) for _ in range(bits)]
    for place in places:
        content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)
    return [place // 8 for place in places]


def twice(site: Site) -> list[str]:
    """Start as the daemon does; returns the addresses of guests that another one could be given."""
    now = int(time.time())
    rows = json.loads(site.lease_file.read_text())
    database = open_sound(site, site.run_lock, lambda line: None, "flip")
    with contextlib.closing(database):
        pool = Book(database).pool()
        if pool is None:
            return []
        recall(site, database, pool, now)
        table = Table(Pool.of(pool), Book(database).leases())
        held = {lease.address for lease in table.leases.values() if lease.state in (State.BOUND, State.QUARANTINED)}
        return [row["ip"] for row in rows if int(IPv4Address(row["ip"])) in table.pool.members - held]


def story(site: Site, pristine: Path, seed: int, flags: list[str]) -> dict[str, Any]:
    shutil.rmtree(site.state_dir)
    shutil.copytree(pristine, site.state_dir)
    rng = random.Random(seed)
    told: dict[str, Any] = {"seed": seed, "places": flip(site.database, rng, 1 + seed % 8)}
    told["show"], told["status"] = use("workflow", "show"), use("status")
    try:
        told["twice"] = twice(site)
    except CocoonError as error:
        told["twice"] = []
        told["start"] = f"{type(error).__name__}: {error.message}"
    told["init"] = use("init", *flags)
    told["rebuilt"] = bool(list(site.state_dir.glob("*.damaged-*")))
    return told


if __name__ == "__main__":
    split = sys.argv.index("--")
    home, good = Path(sys.argv[1]), Path(sys.argv[2])
    for word in sys.argv[3:split]:
        print(
            json.dumps(
                story(
                    Site.from_environment({"COCOON_NET_STATE_DIR": str(home)}), good, int(word), sys.argv[split + 1 :]
                )
            ),
            flush=True,
        )
