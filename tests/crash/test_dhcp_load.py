"""The daemon under load is reloaded and stopped as an operator does it: nobody has to ask twice, nothing is lost."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from cocoon_net.lab.arena import Arena
from cocoon_net.lab.durability import missing
from cocoon_net.lab.patience import eventually

pytestmark = [pytest.mark.root, pytest.mark.slow]

ROUNDS = """
import time
from cocoon_net.lab.load import Clients
clients, until, leases, again = Clients(200), time.monotonic() + 4, 0, 0
while time.monotonic() < until:
    report = clients.run(8, retry=0.4)
    leases, again = leases + report.leases, again + report.again
print(leases, again)
"""
"""200 clients lease, and renew again and again."""


def test_a_reload_drops_no_packet() -> None:
    with Arena(options=("--trusted-port", "port0")) as arena:
        arena.start()
        eventually(arena.serves)
        words = ["ip", "netns", "exec", arena.client, sys.executable, "-c", ROUNDS]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as load:
            time.sleep(0.5)
            for number in range(1, 11):
                arena.reload()
                eventually(lambda number=number: arena.log.read_text().count("was read again") >= number)
            told, _ = load.communicate(timeout=60)
        leases, again = map(int, told.split())
        assert leases > 400 and again == 0, f"{again} of {leases} had to be asked for again"


def test_stopped_under_load_it_ends_within_a_second_and_every_promise_is_in_the_book() -> None:
    with Arena(options=("--trusted-port", "port0")) as arena:
        arena.start()
        eventually(arena.serves)
        arena.ask()
        offset = 0
        for _ in range(5):
            eventually(lambda offset=offset: arena.served(offset))
            time.sleep(0.2)
            began = time.monotonic()
            assert arena.stop() == 0
            took = time.monotonic() - began
            assert took < 1.0, f"it took {took:.2f} s to stop"
            fresh, offset = arena.heard(offset)
            assert fresh and missing(fresh, arena.book(), time.time()) == []
            arena.start()
        with arena.silence():
            eventually(arena.serves)
            assert arena.unrouted() == []
