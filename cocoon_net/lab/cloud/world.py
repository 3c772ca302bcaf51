"""What exists in the simulated cloud: tables of frozen records, with the states that change by themselves.

A call works on the tables and is then committed or rolled back as a whole, so a refused call leaves no trace.
Time passes in ``settle``: every transition whose moment has come is made, with that moment as its time.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import IPv4Address
from typing import Generic

from cocoon_net.lab.cloud.faults import Faults
from cocoon_net.lab.cloud.records import (
    GONE,
    AccessKey,
    Group,
    Instance,
    InstanceType,
    Interface,
    Move,
    R,
    Record,
    Replay,
    Subnet,
    Vpc,
    from_json,
)

RESERVED = 3
"""Addresses of a subnet that nobody gets: the network, the first host (the gateway) and the broadcast address."""

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


class Table(Generic[R]):
    """Records of one kind by id; knows what changed since the last commit and what readers still see."""

    def __init__(self, kind: type[R]) -> None:
        self.kind = kind
        self.rows: dict[str, R] = {}
        self.before: dict[str, R | None] = {}
        """The records as they were at the last commit, of those that changed since."""
        self._shadows: dict[str, tuple[R | None, int]] = {}

    def fill(self, rows: Iterable[tuple[str, str]]) -> None:
        """Take ids and JSON as they were on disk; nothing of it counts as a change."""
        self.rows.update((key, from_json(self.kind, text)) for key, text in rows)

    def get(self, key: str) -> R | None:
        """Return the record as it is."""
        return self.rows.get(key)

    def all(self) -> Iterator[R]:
        """Return all records as they are, ordered as they were made."""
        return iter(tuple(self.rows.values()))

    def put(self, row: R) -> R:
        """Add or replace a record."""
        self.before.setdefault(row.id, self.rows.get(row.id))
        self.rows[row.id] = row
        return row

    def drop(self, key: str) -> None:
        """Remove a record."""
        self.before.setdefault(key, self.rows.get(key))
        self.rows.pop(key, None)

    def read(self) -> list[R]:
        """Return what a Describe call sees, sorted by id; a shadow of an old state wears off with each read."""
        seen = dict(self.rows)
        for key, (old, reads) in tuple(self._shadows.items()):
            if old is None:
                seen.pop(key, None)
            else:
                seen[key] = old
            if reads > 1:
                self._shadows[key] = (old, reads - 1)
            else:
                del self._shadows[key]
        return sorted(seen.values(), key=lambda row: row.id)

    def commit(self, lag: int) -> list[tuple[str, R | None]]:
        """Make the changes final and return them; ``lag`` reads will still see the state before."""
        changes = [(key, self.rows.get(key)) for key in self.before]
        if lag:
            for key, old in self.before.items():
                self._shadows[key] = (self._shadows[key][0] if key in self._shadows else old, lag)
        self.before.clear()
        return changes

    def rollback(self) -> None:
        """Take back what changed since the last commit."""
        for key, old in self.before.items():
            if old is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = old
        self.before.clear()


class World:
    """All tables, the faults, and the rules that several actions share."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.account = "2100000001"
        self.faults = Faults()
        self.vpcs = Table(Vpc)
        self.subnets = Table(Subnet)
        self.groups = Table(Group)
        self.interfaces = Table(Interface)
        self.instances = Table(Instance)
        self.types = Table(InstanceType)
        self.keys = Table(AccessKey)
        self.replays = Table(Replay)
        self._history: deque[tuple[datetime, dict[str, Interface]]] = deque()

    def settle(self, now: datetime) -> None:
        """Make every transition that is due at ``now``."""
        for vpc in self.vpcs.all():
            if vpc.move is not None and vpc.move.due <= now:
                self.vpcs.put(replace(vpc, status=vpc.move.to, move=None, updated=vpc.move.due))
        for subnet in self.subnets.all():
            if subnet.move is not None and subnet.move.due <= now:
                if subnet.move.to == GONE:
                    self.subnets.drop(subnet.id)
                else:
                    self.subnets.put(replace(subnet, status=subnet.move.to, move=None, updated=subnet.move.due))
        for interface in self.interfaces.all():
            if interface.move is not None and interface.move.due <= now:
                self._arrive(interface, interface.move)

    def _arrive(self, interface: Interface, move: Move) -> None:
        arrived = replace(interface, status=move.to, move=None, updated=move.due)
        match move.to:
            case "Gone":
                self.interfaces.drop(interface.id)
            case "InUse":
                self.interfaces.put(replace(arrived, in_use_since=move.due))
            case _:
                self.interfaces.put(replace(arrived, instance_id=None, index=None, in_use_since=None))

    def unstick(self, now: datetime) -> None:
        """Let the interfaces go on whose transition was held up (``attach-stuck``)."""
        for interface in self.interfaces.all():
            if interface.status == "Attaching" and interface.move is None:
                self.interfaces.put(replace(interface, move=self.move("InUse", now)))

    def next_due(self) -> datetime | None:
        """Return the moment of the next transition, or None."""
        moves = [
            row.move.due
            for table in (self.vpcs, self.subnets, self.interfaces)
            for row in table.rows.values()
            if row.move is not None
        ]
        return min(moves, default=None)

    def move(self, to: str, now: datetime) -> Move:
        """Return a transition that begins now and takes the state latency."""
        return Move(to, now + timedelta(seconds=self.faults.state_latency))

    def commit(self, now: datetime) -> list[tuple[str, str, Record | None]]:
        """Make all changes final; return them as kind, id and record (None: removed)."""
        lag = self.faults.describe_lag
        if self.faults.metadata_lag and self.interfaces.before:
            self._remember(now)
        changes: list[tuple[str, str, Record | None]] = []
        for table in self.tables():
            if table.before:
                changes += [(table.kind.__name__, key, row) for key, row in table.commit(lag)]
        return changes

    def _remember(self, now: datetime) -> None:
        """Keep the interfaces as they were, for those who learn of changes late."""
        if not self._history:
            older = {**self.interfaces.rows, **self.interfaces.before}
            rows = {key: row for key, row in older.items() if row is not None}
            if not rows:
                return  # the seed: the world begins with it, for everyone
            self._history.append((datetime.min.replace(tzinfo=now.tzinfo), rows))
        self._history.append((now, dict(self.interfaces.rows)))
        horizon = now - timedelta(seconds=self.faults.metadata_lag)
        while len(self._history) > 1 and self._history[1][0] <= horizon:
            self._history.popleft()

    def lagging_interfaces(self, now: datetime) -> list[Interface]:
        """Return the interfaces as the metadata service knows them at ``now``."""
        if not self.faults.metadata_lag:
            self._history.clear()
        horizon = now - timedelta(seconds=self.faults.metadata_lag)
        rows = self.interfaces.rows
        for since, known in self._history:
            if since <= horizon:
                rows = known
        return list(rows.values())

    def rollback(self) -> None:
        """Take back all changes since the last commit."""
        for table in self.tables():
            table.rollback()

    def tables(
        self,
    ) -> tuple[
        Table[Vpc],
        Table[Subnet],
        Table[Group],
        Table[Interface],
        Table[Instance],
        Table[InstanceType],
        Table[AccessKey],
        Table[Replay],
    ]:
        """Return all tables."""
        return (
            self.vpcs,
            self.subnets,
            self.groups,
            self.interfaces,
            self.instances,
            self.types,
            self.keys,
            self.replays,
        )

    def interfaces_of(self, instance_id: str) -> list[Interface]:
        """Return the interfaces that take a place in an instance, whatever their status."""
        return [row for row in self.interfaces.rows.values() if row.instance_id == instance_id]

    def inhabitants(self, subnet_id: str) -> list[Interface]:
        """Return the interfaces of a subnet."""
        return [row for row in self.interfaces.rows.values() if row.subnet_id == subnet_id]

    def free_count(self, subnet: Subnet) -> int:
        """Return how many addresses the subnet can still give out."""
        room = subnet.cidr.num_addresses - RESERVED
        if self.faults.subnet_free is not None:
            room = min(room, self.faults.subnet_free)
        return max(0, room - sum(len(row.addresses) for row in self.inhabitants(subnet.id)))

    def used(self, subnet: Subnet) -> set[IPv4Address]:
        """Return the addresses of a subnet that cannot be given out, the reserved ones included."""
        first, last = subnet.cidr.network_address, subnet.cidr.broadcast_address
        taken = {address for row in self.inhabitants(subnet.id) for address in row.addresses}
        return taken | {first, first + 1, last}

    def interface_limit(self, instance: Instance) -> int:
        """Return how many interfaces the instance may have, the primary included."""
        if self.faults.instance_quota is not None:
            return self.faults.instance_quota
        return self.types.rows[instance.type_id].interfaces

    def address_limit(self, instance: Instance) -> int:
        """Return how many addresses an interface of the instance may have, the primary included."""
        if self.faults.ips_per_eni is not None:
            return self.faults.ips_per_eni
        return self.types.rows[instance.type_id].addresses_per_interface

    def new_mac(self) -> str:
        """Return a MAC address that no interface has, with the provider's prefix."""
        taken = {row.mac for row in self.interfaces.rows.values()}
        while True:
            mac = "00:16:3e:" + secrets.token_bytes(3).hex(":")
            if mac not in taken:
                return mac


def new_id(prefix: str) -> str:
    """Return an id as the provider makes them, such as ``eni-`` and 20 letters and digits."""
    return f"{prefix}-" + "".join(secrets.choice(_ALPHABET) for _ in range(20))
