"""``cocoon-net lease``, beside a live daemon and without one: the same questions, the same answers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from ipaddress import IPv4Address

import pytest

from cocoon_net.cli.main import run
from cocoon_net.lab.arena import Arena
from cocoon_net.lab.patience import eventually

pytestmark = [pytest.mark.root]

A, B = "02:10:00:00:00:00", "02:10:00:00:00:01"
LEASE = "from cocoon_net.lab.load import Clients; c = Clients({0}); assert c.run(4, patience=25.0).leases == {0}"
Command = Callable[..., str]


@pytest.fixture
def arena() -> Iterator[Arena]:
    with Arena() as arena:
        arena.start()
        eventually(arena.serves)
        yield arena


@pytest.fixture
def lease(arena: Arena, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*words: str, code: int = 0) -> str:
        got = run(["lease", *words, "--state-dir", str(arena.state), "--run-dir", str(arena.home)])
        out, err = capsys.readouterr()
        assert got == code, err
        return out + err

    return call


def ask(arena: Arena, code: str) -> None:
    subprocess.run(["ip", "netns", "exec", arena.client, sys.executable, "-c", code], check=True, timeout=30)


def test_what_a_daemon_knows_and_what_its_book_says(arena: Arena, lease: Command) -> None:
    assert lease("list") == "no leases\n"
    ask(arena, LEASE.format(2) + f"; c.send(c.request(0, {int(IPv4Address('172.20.1.1'))}))")
    head, first, second = lease("list").splitlines()
    assert head.split() == ["ADDRESS", "MAC", "STATE", "EXPIRES", "PORT", "HOSTNAME"]
    assert first.startswith(f"172.20.1.0  {A}  bound  ") and "port0" in first
    assert second.startswith(f"172.20.1.1  {B}  bound  ")
    assert "bound since" in lease("show", A.upper().replace(":", "-"))
    trace = lease("trace", A)
    assert "DISCOVER → OFFER     offered" in trace and "REQUEST → ACK        bound" in trace
    eventually(lambda: "REQUEST → NAK        the address belongs to another client" in lease("trace", A))
    assert json.loads(lease("trace", A, "--json"))["decisions"][0]["port"] == "port0"
    assert lease("release", A) == "released 172.20.1.0\n"
    assert lease("release", A) == f"{A} has no lease\n"
    assert A not in (arena.state / "leases.json").read_text()
    assert "172.20.1.0" not in lease("list") and "cooling" in lease("list", "--all")
    assert lease("trace", A).splitlines()[-1].endswith("ended by order")

    arena.kill()
    assert B in lease("list") and "cooling" in lease("list", "--all")
    assert "history          172.20.1.0       bound: bound" in lease("trace", A)
    (arena.state / "dhcp.toml").write_text('cooling-time = "2h"\n')
    assert lease("release", B) == "released 172.20.1.1\n"
    (row,) = (row for row in json.loads(lease("list", "--all", "--json"))["leases"] if row["mac"] == B)
    rest = datetime.fromisoformat(row["expiry"]) - datetime.fromisoformat(row["since"])
    assert (row["state"], rest) == ("cooling", timedelta(hours=2)), "as long as the daemon would have it"
    assert lease("list") == "no leases\n"
    assert json.loads((arena.state / "leases.json").read_text()) == []
    arena.start()
    eventually(arena.serves)
    assert lease("list") == "no leases\n"
    assert arena.routes() == set(), "what was released without a daemon has no route after its start"


def test_a_reservation_is_obeyed_at_once_or_at_the_next_start(arena: Arena, lease: Command) -> None:
    own = ("--option", "15=db.example.org", "--option", "42=10.0.0.1,10.0.0.2", "--option", "43=0x0104")
    assert lease("reserve", A, "172.20.1.77", "--hostname", "win11-0", *own) == f"172.20.1.77 is reserved for {A}\n"
    ask(arena, LEASE.format(1))
    assert f"172.20.1.77  {A}  bound" in lease("list")
    assert "is reserved for" in lease("reserve", B, "172.20.1.77", code=78)
    assert "not of the pool" in lease("reserve", B, "10.0.0.1", code=78)
    assert "is not an IPv4 address" in lease("reserve", B, "tiger", code=78)
    assert "is not a MAC" in lease("reserve", "tiger", "172.20.1.78", code=2)
    assert json.loads(lease("reservations", "--json"))["reservations"][0]["hostname"] == "win11-0"
    arena.kill()
    told = {"15": b"db.example.org".hex(), "42": "0a0000010a000002", "43": "0104"}
    assert json.loads(lease("reserve", A, "172.20.1.78", "--json"))["options"] == told, "they are its client's"
    assert json.loads(lease("reserve", A, "172.20.1.77", "--json", "--option", "none"))["options"] == {}
    assert "is not an option that can be set" in lease("reserve", A, "172.20.1.77", "--option", "53=x", code=78)
    assert lease("unreserve", A) == "172.20.1.77 is no longer reserved\n"
    assert lease("unreserve", A) == f"nothing is reserved for {A}\n"
    lease("reserve", B, "172.20.1.88")
    arena.start()
    eventually(arena.serves)
    ask(arena, LEASE.format(2))
    assert f"172.20.1.88  {B}  bound" in lease("list")


def test_who_was_never_heard_is_told_so(arena: Arena, lease: Command) -> None:
    assert "no message of 02:99:00:00:00:00 was heard" in lease("trace", "02:99:00:00:00:00", code=78)
    assert "nothing is known of 02:99:00:00:00:00" in lease("show", "02:99:00:00:00:00", code=78)


def test_a_trace_that_follows_shows_each_decision_when_it_is_made(arena: Arena) -> None:
    words = [sys.executable, "-m", "cocoon_net", "lease", "trace", "--follow", A]
    words += ["--state-dir", str(arena.state), "--run-dir", str(arena.home)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as following:
        try:
            time.sleep(1.0)
            ask(arena, LEASE.format(1))
            assert following.stdout is not None
            assert "DISCOVER → OFFER" in following.stdout.readline()
            assert "REQUEST → ACK" in following.stdout.readline()
        finally:
            following.kill()


def test_a_live_daemon_whose_socket_is_elsewhere_is_not_gone_around(arena: Arena, lease: Command) -> None:
    nowhere = str(arena.home / "nowhere")
    assert lease("list", "--control-socket", nowhere) == "no leases\n", "reading, the database will do"
    refused = lease("release", A, "--control-socket", nowhere, code=75)
    assert "its control socket" in refused and "--control-socket" in refused
