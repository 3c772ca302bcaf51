"""What there is of a lab, asked of the kernel and of its cloud; a lab that is down or broken has a status too."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cocoon_net.errors import NodeError
from cocoon_net.lab import guests, namespace
from cocoon_net.lab.cloud import Admin, Faults
from cocoon_net.lab.lab import Lab


def look(lab: Lab) -> dict[str, Any]:
    """Return the status as JSON values.

    Keys: ``name directory running pid namespaces nodes guests faults calls problem``. A node has ``name``,
    ``instance_id``, ``links`` (name, mac, up, addresses) and ``interfaces`` (id, name, status, index, mac, primary,
    secondaries); ``faults`` are those that are not at their default; ``calls`` counts by action; ``problem`` is why
    the cloud did not answer, or empty.
    """
    namespace.require_root()
    process = lab.process()
    cloud: dict[str, Any] = {"instances": [], "interfaces": []}
    faults: dict[str, str] = {}
    calls: dict[str, int] = {}
    problem = ""
    try:
        admin = Admin(lab.admin_socket)
        cloud = admin.state()
        defaults = Faults().settings()
        faults = {knob: value for knob, value in admin.faults().items() if value != defaults.get(knob)}
        calls = {action: int(numbers["calls"]) for action, numbers in admin.counters().items()}
    except NodeError as error:
        problem = error.message
    return {
        "name": lab.name,
        "directory": str(lab.directory),
        "running": process is not None,
        "pid": None if process is None else process.pid,
        "namespaces": [space for space in map(lab.namespace, lab.machines()) if namespace.exists(space)],
        "nodes": [_node(lab, name, cloud) for name in [*lab.nodes(), "host"] if lab.shape() is not None],
        "guests": [
            {**asdict(guest), "address": None if address is None else str(address)}
            for guest, address in guests.listed(lab)
        ],
        "faults": faults,
        "calls": calls,
        "problem": problem,
    }


def _node(lab: Lab, name: str, cloud: dict[str, Any]) -> dict[str, Any]:
    instance = next((row["id"] for row in cloud["instances"] if row["node"] == name), "")
    interfaces = [row for row in cloud["interfaces"] if instance and row["instance_id"] == instance]
    return {
        "name": name,
        "instance_id": instance,
        "links": _links(lab.namespace(name)),
        "interfaces": [
            {
                **{key: row[key] for key in ("id", "name", "status", "index", "mac", "primary")},
                "secondaries": len(row["secondaries"]),
            }
            for row in sorted(interfaces, key=lambda row: (row["index"] is None, row["index"]))
        ],
    }


def _links(space: str) -> list[dict[str, Any]]:
    from pyroute2 import IPRoute

    if not namespace.exists(space):
        return []
    with namespace.inside(space), IPRoute() as route:
        addresses: dict[int, list[str]] = {}
        for message in route.get_addr(family=2):
            addresses.setdefault(message["index"], []).append(f"{message.get('address')}/{message['prefixlen']}")
        return [
            {
                "name": message.get("ifname"),
                "mac": message.get("address"),
                "up": message.get("state") == "up",
                "addresses": addresses.get(message["index"], []),
            }
            for message in route.get_links()
            if message.get("ifname") != "lo"
        ]
