"""The admin interface of the simulated cloud, the side that answers: JSON over HTTP on a Unix socket.

Only the owner of the lab's directory reaches the socket. ``cocoon_net.lab.cloud.admin`` is the side that asks.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from ipaddress import IPv4Network

from cocoon_net.errors import SpecError
from cocoon_net.lab.cloud.gateway import Gateway, Reply
from cocoon_net.lab.cloud.records import Instance, Subnet, Tags, plain
from cocoon_net.lab.cloud.seed import plant_interface, plant_subnet
from cocoon_net.lab.cloud.signature import Request
from cocoon_net.lab.cloud.wire import Fields


class Control:
    """Answers on the admin socket."""

    def __init__(self, gateway: Gateway, changed: Callable[[], None], stop: threading.Event) -> None:
        self._gateway = gateway
        self._changed = changed
        self._stop = stop

    def answer(self, request: Request) -> Reply:
        """Answer one request; a wrong one gets 400 with the list of problems."""
        try:
            return _json(200, self._route(request))
        except SpecError as error:
            return _json(400, {"problems": list(error.problems), "hint": error.hint})

    def _route(self, request: Request) -> object:
        body = _object(request.body)
        query = dict(request.query)
        self._gateway.settle()
        with self._gateway.lock:
            match request.method, request.path:
                case "GET", "/state":
                    return self._state()
                case "GET", "/calls":
                    since = query.get("since", "0")
                    if not since.isdigit():
                        raise SpecError(f"since={since}: wanted a sequence number")
                    return self._gateway.disk.calls(int(since))
                case "POST", "/clear-calls":
                    self._gateway.disk.clear_calls()
                    return {}
                case "GET", "/counters":
                    return self._gateway.disk.counters()
                case "GET", "/faults":
                    return self._gateway.world.faults.settings()
                case "PUT", "/faults":
                    return self._set_faults(body)
                case "GET", "/credentials":
                    return self._credentials()
                case "POST", "/plant":
                    return self._plant(body)
                case "POST", "/shutdown":
                    self._stop.set()
                    return {}
                case _:
                    raise SpecError(f"the admin socket does not know {request.method} {request.path}")

    def _state(self) -> Fields:
        world = self._gateway.world
        return {
            "time": self._gateway.clock.now().isoformat(),
            "region": world.region,
            "vpcs": [plain(row) for row in world.vpcs.all()],
            "subnets": [{**plain(row), "free": world.free_count(row)} for row in world.subnets.all()],
            "groups": [plain(row) for row in world.groups.all()],
            "interfaces": [plain(row) for row in world.interfaces.all()],
            "instances": [plain(row) for row in world.instances.all()],
            "types": [plain(row) for row in world.types.all()],
        }

    def _credentials(self) -> Fields:
        for key in self._gateway.world.keys.all():
            if not key.role:
                return {"access_key": key.id, "secret_key": key.secret, "region": self._gateway.world.region}
        raise SpecError("the lab's cloud has no access key")

    def _set_faults(self, body: Fields) -> dict[str, str]:
        world, now = self._gateway.world, self._gateway.clock.now()
        world.faults = world.faults.set({name: str(value) for name, value in body.items()})
        if "attach-stuck" in body and not world.faults.attach_stuck:
            world.unstick(now)
        self._gateway.disk.save(world.commit(now), settings=self._gateway.world_settings())
        self._changed()
        return world.faults.settings()

    def _plant(self, body: Fields) -> Fields:
        """Put things of somebody else into the world; see ``Admin.plant_interface`` and ``plant_subnet``."""
        world, now = self._gateway.world, self._gateway.clock.now()
        tags = _tags(body.get("tags"))
        first, *_ = world.vpcs.all()
        match body.get("kind"):
            case "subnet":
                cidr = _network(body.get("cidr"))
                zone = str(body.get("zone") or f"{world.region}-a")
                planted = [plant_subnet(world, first, cidr, zone, now, tags).id]
            case "interface":
                subnet = self._subnet(str(body.get("subnet_id", "")))
                instance = self._instance(str(body.get("instance", "")))
                planted = [
                    plant_interface(
                        world,
                        subnet,
                        now,
                        name=str(body.get("name", "")),
                        tags=tags,
                        secondaries=_whole(body, "secondaries", 0),
                        instance=instance,
                        service_managed=bool(body.get("service_managed", False)),
                        status=str(body.get("status", "")),
                    ).id
                    for _ in range(_whole(body, "count", 1))
                ]
            case kind:
                raise SpecError(f"kind={kind}: wanted interface or subnet")
        self._gateway.disk.save(world.commit(now))
        self._changed()
        return {"ids": planted}

    def _subnet(self, key: str) -> Subnet:
        rows = list(self._gateway.world.subnets.all())
        for row in rows:
            if key in (row.id, row.name, str(row.cidr), ""):
                return row
        raise SpecError(f"no subnet {key}", hint=f"there are {', '.join(str(row.cidr) for row in rows)}")

    def _instance(self, key: str) -> Instance | None:
        if not key:
            return None
        for row in self._gateway.world.instances.all():
            if key in (row.id, row.node):
                return row
        raise SpecError(f"no instance {key}")


def _json(status: int, value: object) -> Reply:
    return Reply(status, json.dumps(value).encode())


def _object(body: bytes) -> Fields:
    try:
        value = json.loads(body or b"{}")
    except ValueError:
        raise SpecError("the body is not JSON") from None
    if not isinstance(value, dict):
        raise SpecError("the body is not a JSON object")
    return value


def _tags(value: object) -> Tags:
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise SpecError("tags: wanted an object of keys and values")
    return tuple(sorted((str(key), str(text)) for key, text in value.items()))


def _network(value: object) -> IPv4Network:
    try:
        return IPv4Network(str(value))
    except ValueError as error:
        raise SpecError(f"cidr={value}: {error}") from None


def _whole(body: Fields, name: str, default: int) -> int:
    value = body.get(name, default)
    if not isinstance(value, int) or not 0 <= value <= 5000:
        raise SpecError(f"{name}={value}: wanted a whole number from 0 to 5000")
    return value
