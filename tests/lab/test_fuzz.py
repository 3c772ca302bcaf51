"""A quick sample of ``scripts/dhcp-fuzz``, and what it notices when the server is broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.dhcp import exchange, wire
from cocoon_net.dhcp.book import Book
from cocoon_net.dhcp.decision import Decision
from cocoon_net.dhcp.options import MessageType
from cocoon_net.dhcp.reply import render
from cocoon_net.dhcp.routes import Routes
from cocoon_net.lab.fuzz import CORPUS, Fuzzer, guilty
from cocoon_net.lab.oracle import Broken
from tests.dhcp.story import packet

BATCHES = 60


def run(directory: Path, seed: int, batches: int = BATCHES) -> Fuzzer:
    directory.mkdir()
    fuzzer = Fuzzer(directory, CORPUS, seed)
    for _ in range(batches):
        fuzzer.batch()
    fuzzer.world.restart()
    return fuzzer


@pytest.mark.parametrize("seed", [2, 3], ids=["two messages", "rapid commit"])
def test_nothing_breaks_the_server_and_every_answer_is_seen(tmp_path: Path, seed: int) -> None:
    reasons = run(tmp_path / "a", seed, 4 * BATCHES).reasons
    for reason in ("offered", "bound", "renewed", "released", "declined", "informed", "expired", "cooled", "truncated"):
        assert reasons[reason], f"{reason}: {reasons}"


def test_a_seed_leads_to_the_same_place_again(tmp_path: Path) -> None:
    first, second, other = (run(tmp_path / name, seed) for name, seed in (("a", 5), ("b", 5), ("c", 6)))
    assert first.reasons == second.reasons != other.reasons


def without_identifier(decision: Decision, packet: wire.Packet, pool: Any) -> bytes:
    return render(decision, packet._replace(options={**packet.options, 61: b""}), pool)


def at_giaddr_only(decision: Decision, packet: wire.Packet, pool: Any) -> bytes:
    return render(decision, packet._replace(giaddr=0), pool)


def with_times_for_all(decision: Decision, packet: wire.Packet, pool: Any) -> bytes:
    return render(decision._replace(seconds=9), packet, pool)


decode = wire.decode


def hasty(data: bytes, port: str = "") -> wire.Packet | wire.Malformed:
    read = decode(data, port)
    return read if isinstance(read, wire.Malformed) else read._replace(siaddr=0)


def test_the_datagram_that_breaks_it_alone_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = (wire.encode(packet(MessageType.DISCOVER, client_id=name)) for name in (b"", b"identity"))
    said = [(good, "tap1"), (bad, "tap2"), (good, "tap3")]
    assert guilty(said) == said, "nothing is broken"
    monkeypatch.setattr(exchange, "render", without_identifier)
    assert guilty(said) == [(bad, "tap2")]


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (exchange, "render", without_identifier),
        (exchange, "render", at_giaddr_only),
        (exchange, "render", with_times_for_all),
        (wire, "decode", hasty),
        (Book, "commit", lambda *_: None),
        (Routes, "withdraw", lambda *_: set()),
    ],
    ids=["identifier", "giaddr", "lease time", "decoder", "book", "routes"],
)
def test_what_is_broken_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: object, name: str, broken: Callable[..., Any]
) -> None:
    monkeypatch.setattr(where, name, broken)
    with pytest.raises(Broken):
        run(tmp_path / "a", 2, 4 * BATCHES)
