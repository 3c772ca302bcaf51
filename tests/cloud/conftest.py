"""A scripted HTTP server for odd answers, and the lab's cloud for whole stories; both on 127.0.0.1, the SDK is real."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from loguru import logger

from cocoon_net.clock import SystemClock
from cocoon_net.cloud.volcengine.client import Client
from cocoon_net.cloud.volcengine.credentials import Credentials, CredentialSource
from cocoon_net.cloud.volcengine.metadata import Metadata
from cocoon_net.cloud.volcengine.platform import Volcengine
from cocoon_net.engine.model import Busy, Change, Context, Origin, Row
from cocoon_net.engine.plan import diff, token
from cocoon_net.errors import CocoonError
from cocoon_net.lab.cloud import Cloud, Seed
from cocoon_net.records import Record
from cocoon_net.site import Site
from cocoon_net.spec import Spec, parse

SECRET = "sk-3f9a-never-to-be-seen"
ACCESS = "AKLTnever-to-be-seen"
TOKEN = "sts-token-never-to-be-seen"


@dataclass(frozen=True)
class Request:
    """What the scripted server got."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """What it says; ``hang`` seconds pass before it says it, ``cut`` closes the connection instead."""

    status: int = 200
    body: str = ""
    hang: float = 0.0
    cut: bool = False


@dataclass
class Script:
    """The server: ``answers`` are given in turn, the last one for ever; or ``by`` decides."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    by: Callable[[Request], Answer] | None = None
    requests: list[Request] = field(default_factory=list)

    def say(self, *answers: Answer | Mapping[str, Any]) -> None:
        """Set the answers; a mapping is the JSON of a 200."""
        self.answers = [a if isinstance(a, Answer) else Answer(body=json.dumps(a)) for a in answers]
        self.requests.clear()

    def refuse(self, code: str, status: int, message: str = "No.") -> None:
        """Answer as the API does when it refuses."""
        error = {"CodeN": 1, "Code": code, "Message": message}
        body = {"ResponseMetadata": {"RequestId": "req-1", "Action": "X", "Error": error}}
        self.say(Answer(status, json.dumps(body)))

    def next(self, request: Request) -> Answer:
        """Note a request and return what to answer."""
        self.requests.append(request)
        if self.by is not None:
            return self.by(request)
        return self.answers[min(len(self.requests), len(self.answers)) - 1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        request = Request(self.command, parts.path, dict(parse_qsl(parts.query)), dict(self.headers))
        answer = self.script.next(request)
        if answer.hang:
            time.sleep(answer.hang)
        if answer.cut:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = answer.body.encode("latin-1")
        head = f"HTTP/1.1 {answer.status} X\r\nContent-Length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)

    def do_PUT(self) -> None:
        self.do_GET()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the story."""


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    handler = type("Handler", (_Handler,), {"script": script})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield script
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def answer() -> type[Answer]:
    return Answer


@pytest.fixture
def secrets() -> tuple[str, str, str]:
    return ACCESS, SECRET, TOKEN


@pytest.fixture
def client_at() -> Callable[..., Client]:
    """Return a function that makes a client of an endpoint, with fixed keys."""

    def make(url: str, *, region: str = "cn-hongkong", connect: float = 1.0, read: float = 1.0) -> Client:
        keys = Credentials(ACCESS, SECRET, TOKEN, region)
        source = CredentialSource({}, Metadata("http://127.0.0.1:1"), SystemClock(), explicit=keys)
        return Client(source, endpoint=url, connect_timeout=connect, read_timeout=read)

    return make


class Node:
    """One node with its ledger: walks the cloud's steps as the engine does, without the engine's journal."""

    def __init__(self, cloud: Cloud, home: Path, *, node: str = "node1", name: str = "pool", subnet: str) -> None:
        self.cloud = cloud
        site = Site(metadata_url=cloud.metadata_url, endpoint=cloud.endpoint)
        environ = {
            "HOME": str(home),
            "VOLCENGINE_ACCESS_KEY": cloud.access_key,
            "VOLCENGINE_SECRET_KEY": cloud.secret_key,
            "VOLCENGINE_REGION": cloud.region,
        }
        self.platform = Volcengine.connect(site, environ, clock=SystemClock())
        self.inventories = self.platform.inventories()
        self.written: list[str] = []
        self._watch(self.platform._client)
        self.spec: Spec = parse(platform="volcengine", node_name=name, subnet=subnet, pool_size=4)
        facts = self.platform.describe(self.spec)  # of the instance that metadata takes a stranger for
        self.instance = replace(facts, instance_id=cloud.instance_id(node))
        self.ledger: dict[tuple[str, str], Row] = {}
        self.lineage = f"lineage-of-{name}"

    def _watch(self, client: Client) -> None:
        """Note what this node writes."""
        call = client.call

        def noted(action: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
            if not action.startswith("Describe"):
                self.written.append(action)
            return call(action, *args, **kwargs)

        client.call = noted  # type: ignore[method-assign]

    @property
    def cx(self) -> Context:
        """The context of now."""
        return Context(self.spec, self.instance, dict(self.ledger), self.lineage, SystemClock().now())

    def look(self, step: str) -> dict[str, Record | Busy]:
        """Observe once."""
        return dict(self.inventories[step].observe(self.cx))

    def apply(self, change: Change) -> dict[str, str]:
        """Apply one change; whatever it writes, it has foretold."""
        inventory = self.inventories[change.step]
        self.written.clear()
        try:
            return dict(inventory.apply(change, token(self.lineage, change, 0), self.cx))
        finally:
            assert len(self.written) <= 1, "one apply is one side effect"
            assert not self.written or self.written[0] in {call.action for call in inventory.calls(change, self.cx)}

    def reach(self, step: str, wanted: Mapping[str, Record], *, deadline: float = 5.0) -> dict[str, Any]:
        """Look and apply until the step is as wanted; writes the ledger and returns what is there."""
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            seen = self.look(step)
            found = diff(step, wanted, seen, prune=True)
            if found.settled:
                records = {key: r for key, r in seen.items() if not isinstance(r, Busy) and key in wanted}
                self.ledger = {k: row for k, row in self.ledger.items() if k[0] != step}
                for key, record in records.items():
                    origin = Origin.CREATED if record.ours else Origin.FOUND
                    self.ledger[step, key] = Row(step, key, origin, record)
                return records
            for change in found.changes:
                try:
                    self.apply(change)
                except CocoonError as error:
                    if not error.retryable:
                        raise
            time.sleep(0.01)
        raise AssertionError(f"{step} did not come to rest: {self.look(step)}")

    def calls(self) -> dict[str, int]:
        """Return how many calls were made since this was last asked, by action."""
        counts: dict[str, int] = {}
        for (action, _), count in self.platform.calls().items():
            counts[action] = counts.get(action, 0) + count
        return counts

    def enis(self) -> list[dict[str, Any]]:
        """Return the cloud's own list of interfaces that are not primary."""
        return [each for each in self.cloud.admin.state()["interfaces"] if each["kind"] != "primary"]


@pytest.fixture
def node_of(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Return a function that makes a node; all nodes of a test are in one cloud."""
    clouds: list[Cloud] = []

    def make(
        node: str = "node1", name: str = "pool", subnet: str = "172.20.100.0/24", seed: Seed | None = None
    ) -> Node:
        if not clouds:
            clouds.append(Cloud.start(tmp_path / "cloud", default_instance="node1", seed=seed))
        return Node(clouds[0], tmp_path, node=node, name=name, subnet=subnet)

    yield make
    unknown = {(call["action"], name) for each in clouds for call in each.admin.calls() for name in call["unknown"]}
    for each in clouds:
        each.close()
    assert not unknown, f"parameters that the API does not know: {unknown}"


@pytest.fixture
def vpc() -> IPv4Network:
    return IPv4Network("172.20.0.0/16")


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """Return what is warned about, a line each, as it comes."""
    said: list[str] = []
    sink = logger.add(lambda message: said.append(str(message)), level="WARNING")
    yield said
    logger.remove(sink)
