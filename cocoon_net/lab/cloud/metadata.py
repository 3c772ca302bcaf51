"""The instance metadata service: what an instance can ask about itself, over plain HTTP.

Three trees are in use by clients, and each can be switched off: ``/latest`` with underscores (documented),
``/volcstack/latest`` (the provider's CNI plugin), and ``/latest/meta-data`` with hyphens (EC2-like, undocumented).
An instance is known by the address that it asks from. On loopback, where all have the same, ``/as/<node>`` before the
path says who asks.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import replace
from datetime import timedelta
from http import HTTPStatus

from cocoon_net.lab.cloud.gateway import Gateway, Reply, instance_at
from cocoon_net.lab.cloud.records import AccessKey, Instance, Interface
from cocoon_net.lab.cloud.signature import Request
from cocoon_net.lab.cloud.world import World

Tree = dict[str, "Tree | str"]

ROLE_LIFE = timedelta(hours=6)
"""How long the credentials of a role are good for; new ones are made in the last third."""

_MAC = re.compile(r"(?<=/macs/)((?:[0-9a-f]{2}[:/-]){5}[0-9a-f]{2})(?=/|$)", re.IGNORECASE)


class Metadata:
    """Answers the requests of instances; ``default_instance`` stands in for a source that no instance has."""

    def __init__(self, gateway: Gateway, default_instance: str = "") -> None:
        self._gateway = gateway
        self._default = default_instance
        self._tokens: dict[str, float] = {}

    def answer(self, request: Request) -> Reply:
        """Answer one HTTP request to the metadata service."""
        self._gateway.settle()
        with self._gateway.lock:
            world = self._gateway.world
            node, request = _named(request)
            named = next((row.id for row in world.instances.all() if row.node == node), "")
            instance = world.instances.get(named or instance_at(world, request.source) or self._default)
            if instance is None:
                return _plain(HTTPStatus.NOT_FOUND, f"no instance has the address {request.source}")
            if request.method == "PUT" and request.path == "/latest/api/token":
                return self._issue_token(request)
            if request.method != "GET":
                return _plain(HTTPStatus.METHOD_NOT_ALLOWED, "only GET")
            if world.faults.metadata_token == "required" and not self._token_is_good(request):
                return _plain(HTTPStatus.UNAUTHORIZED, "a session token is required")
            return self._look_up(request, instance)

    def _look_up(self, request: Request, instance: Instance) -> Reply:
        path = _MAC.sub(lambda match: re.sub("[/-]", ":", match[1].lower()), request.path).strip("/")
        hit: Tree | str | None = self._trees(instance)
        for part in filter(None, path.split("/")):
            hit = hit.get(part) if isinstance(hit, dict) else None
        match hit:
            case None:
                return _plain(HTTPStatus.NOT_FOUND, "404 - Not Found")
            case str():
                return _plain(HTTPStatus.OK, hit)
            case dict() if path.endswith("security_credentials"):
                roles = sorted(hit)
                as_json = ("format", "json") in request.query
                return _plain(HTTPStatus.OK, json.dumps(roles) if as_json else "\n".join(roles))
            case dict():
                names = (f"{name}/" if isinstance(value, dict) else name for name, value in sorted(hit.items()))
                return _plain(HTTPStatus.OK, "\n".join(names))

    def _trees(self, instance: Instance) -> Tree:
        world, clock = self._gateway.world, self._gateway.clock
        interfaces = [row for row in world.lagging_interfaces(clock.now()) if row.instance_id == instance.id]
        on = world.faults.metadata_trees
        underscore: Tree = {}
        if "underscore" in on or "volcstack" in on:
            underscore = _underscore(world, instance, interfaces)
            underscore["iam"] = {"security_credentials": {instance.role: self._role_credentials(instance)}}
        latest: Tree = dict(underscore) if "underscore" in on else {}
        if "hyphen" in on:
            latest["meta-data"] = _hyphen(world, instance, interfaces)
        trees: Tree = {"latest": latest} if latest else {}
        if "volcstack" in on:
            trees["volcstack"] = {"latest": underscore}
        return trees

    def _role_credentials(self, instance: Instance) -> str:
        gateway = self._gateway
        now = gateway.clock.now()
        fresh = [
            key
            for key in gateway.world.keys.all()
            if key.role == instance.role and key.expires is not None and key.expires - now > ROLE_LIFE / 3
        ]
        if fresh:
            key = fresh[-1]
        else:
            key = AccessKey(
                id="AKTP" + secrets.token_hex(16),
                secret=secrets.token_urlsafe(32),
                token="STS" + secrets.token_urlsafe(48),
                expires=now + ROLE_LIFE,
                role=instance.role,
            )
            gateway.world.keys.put(key)
            gateway.disk.save(gateway.world.commit(now))
        fields = {
            "AccessKeyId": key.id,
            "SecretAccessKey": key.secret,
            "SessionToken": key.token,
            "ExpiredTime": "" if key.expires is None else key.expires.isoformat(timespec="seconds"),
            "CurrentTime": now.isoformat(timespec="seconds"),
        }
        return json.dumps(fields)

    def _issue_token(self, request: Request) -> Reply:
        text = request.headers.get("x-volc-ecs-metadata-token-ttl-seconds", "")
        if not text.isdigit() or not 1 <= int(text) <= 21600:
            return _plain(HTTPStatus.BAD_REQUEST, "the header for the token's life wants 1 to 21600 seconds")
        token = secrets.token_urlsafe(32)
        self._tokens[token] = self._gateway.clock.monotonic() + int(text)
        return _plain(HTTPStatus.OK, token)

    def _token_is_good(self, request: Request) -> bool:
        until = self._tokens.get(request.headers.get("x-volc-ecs-metadata-token", ""))
        return until is not None and self._gateway.clock.monotonic() < until


def _named(request: Request) -> tuple[str, Request]:
    """Return the node that a path names (``/as/node7/latest/...``), and the request without it."""
    match request.path.split("/", 3):
        case ["", "as", node, rest]:
            return node, replace(request, path=f"/{rest}")
        case _:
            return "", request


def _underscore(world: World, instance: Instance, interfaces: list[Interface]) -> Tree:
    """Return the documented tree; interfaces appear in it once they are InUse."""
    vpc = world.vpcs.rows[instance.vpc_id]
    visible = [row for row in interfaces if row.status == "InUse"]
    tree: Tree = {
        "availability_zone": instance.zone,
        "hostname": instance.node,
        "instance_id": instance.id,
        "instance_type": instance.type_id,
        "instance_type_id": instance.type_id,
        "mac": _primary(interfaces).mac,
        "network": {"interfaces": {"macs": {row.mac: _interface(world, row) for row in visible}}},
        "owner_account_id": world.account,
        "region_id": world.region,
        "vpc_cidr_block": str(vpc.cidr),
        "vpc_id": vpc.id,
    }
    return tree


def _hyphen(world: World, instance: Instance, interfaces: list[Interface]) -> Tree:
    primary = _primary(interfaces)
    return {
        "hostname": instance.node,
        "instance-id": instance.id,
        "local-ipv4": str(primary.primary),
        "mac": primary.mac,
        "placement": {"availability-zone": instance.zone},
        "region-id": world.region,
        "vpc-id": instance.vpc_id,
    }


def _interface(world: World, row: Interface) -> Tree:
    cidr = world.subnets.rows[row.subnet_id].cidr
    secondaries = "\n".join(str(each) for each in row.secondaries)
    info = {
        "NetworkInterfaceId": row.id,
        "PrimaryIpAddress": str(row.primary),
        "Gateway": str(cidr.network_address + 1),
        "SubnetId": row.subnet_id,
        "SubnetCidrBlock": str(cidr),
        "PrivateIpv4s": secondaries,
    }
    return {
        "gateway": info["Gateway"],
        "network_info": json.dumps(info),
        "network_interface_id": row.id,
        "primary_ip_address": str(row.primary),
        "private_ip_addresses": secondaries,
        "private_ipv4s": secondaries,
        "subnet_cidr_block": str(cidr),
        "subnet_id": row.subnet_id,
    }


def _primary(interfaces: list[Interface]) -> Interface:
    return next(row for row in interfaces if row.kind == "primary")


def _plain(status: HTTPStatus, text: str) -> Reply:
    return Reply(status.value, text.encode(), "text/plain; charset=utf-8")
