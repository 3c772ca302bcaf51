"""The DHCP server killed under load, again and again; afterwards its promises are counted.

A bridge with many clients in two network namespaces, the whole daemon on a database of its own, and SIGKILL at a
moment of chance, with a restart at once. What the clients saw is a file of ACKs; held against the book and the kernel
it must hold that

1. no address was promised to two clients at one time,
2. every promise that a client saw is in the book after the death,
3. after the restart the leases have their routes, and nothing else has one.

The same with a disk that fills up (``Fault.DISK``) and with a bridge that goes down or away (``Fault.BRIDGE``).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address

from cocoon_net.lab.arena import Arena, Fault, Row
from cocoon_net.lab.load import Heard
from cocoon_net.lab.patience import eventually


@dataclass(slots=True)
class Verdict:
    """What an ordeal showed; ``broken`` are the promises that were not kept, a line each."""

    deaths: int = 0
    acks: int = 0
    clients: int = 0
    addresses: int = 0
    reused: int = 0
    """Addresses that one client after another had."""
    refused: int = 0
    """How often the daemon complained that it could not write a batch down: once in ten seconds at most."""
    broken: list[str] = field(default_factory=list)


def overlapping(acks: Iterable[Heard]) -> list[str]:
    """Return each address that was promised to a client while another believed in its lease, at its latest."""
    broken: list[str] = []
    owners: dict[int, tuple[str, float]] = {}
    for ack in sorted(acks, key=lambda ack: ack.asked):
        mac, until = owners.get(ack.address, ("", 0.0))
        if mac not in ("", ack.mac) and ack.asked < until:
            broken.append(f"{IPv4Address(ack.address)} was {mac}'s for {until - ack.asked:.1f} s when {ack.mac} got it")
        owners[ack.address] = (ack.mac, ack.at + ack.seconds)
    return broken


def missing(acks: Iterable[Heard], book: Mapping[int, Row], now: float) -> list[str]:
    """Return each promise that still runs at ``now`` and that the book does not know; a client's last one counts.

    The server counts in whole seconds and ends a lease in the second after.
    """
    last = {ack.mac: ack for ack in acks}
    broken: list[str] = []
    for ack in last.values():
        if ack.asked + ack.seconds <= now:
            continue
        row = book.get(ack.address)
        if row is None or (row.state, row.mac) != ("bound", ack.mac) or row.ends + 1 < ack.asked + ack.seconds:
            broken.append(f"{ack.mac} was promised {IPv4Address(ack.address)}; the book has {row}")
    return broken


def ordeal(
    deaths: int, fault: Fault = Fault.NONE, seed: int | None = None, say: Callable[[str], None] = print
) -> Verdict:
    """Kill the daemon ``deaths`` times and return what became of its promises."""
    verdict = Verdict()
    everything: list[Heard] = []
    offset = 0
    with Arena(fault, seed) as arena:
        arena.start()
        eventually(arena.serves)
        arena.ask()
        while verdict.deaths < deaths:
            eventually(partial(arena.served, offset))  # somebody was served in this life
            time.sleep(arena.chance.random() * 0.4)
            arena.disturb()
            arena.kill()
            verdict.deaths += 1
            fresh, offset = arena.heard(offset)
            everything += fresh
            verdict.broken += missing(fresh, arena.book(), time.time())
            arena.start()
            if arena.chance.random() < 0.1:  # now and then it dies before it serves
                time.sleep(arena.chance.random() * 0.4)
                arena.kill()
                verdict.deaths += 1
                arena.start()
            if verdict.deaths % 10 == 0 or verdict.deaths >= deaths:
                with arena.silence():
                    eventually(arena.serves)
                    verdict.broken += arena.unrouted()
                say(f"{verdict.deaths} deaths, {len(everything)} ACKs, {len(verdict.broken)} broken promises")
        verdict.refused = arena.refusals()
    verdict.broken += overlapping(everything)
    verdict.acks = len(everything)
    verdict.clients = len({ack.mac for ack in everything})
    owners: dict[int, set[str]] = defaultdict(set)
    for ack in everything:
        owners[ack.address].add(ack.mac)
    verdict.addresses = len(owners)
    verdict.reused = sum(len(macs) > 1 for macs in owners.values())
    return verdict


def main() -> int:
    """Parse flags, go through it, and print what was found; exit 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="scripts/dhcp-kill", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--deaths", type=int, default=1000)
    parser.add_argument("--fault", type=Fault, choices=list(Fault), default=Fault.NONE, help="what else goes wrong")
    parser.add_argument("--seed", type=int, help="of the moments of death")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("needs root, for network namespaces")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that namespaces and processes go, too
    began = time.monotonic()
    verdict = ordeal(options.deaths, options.fault, options.seed)
    print(
        f"{verdict.deaths} deaths, {time.monotonic() - began:.0f} s: {verdict.acks} ACKs to {verdict.clients} clients, "
        f"{verdict.addresses} addresses, {verdict.reused} of them reused; the disk was full {verdict.refused} times"
    )
    for line in verdict.broken[:20]:
        print(f"broken: {line}")
    print(f"{len(verdict.broken)} broken promises")
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    sys.exit(main())
