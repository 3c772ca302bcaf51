"""The front of the OpenAPI: who is calling, may they, is something to go wrong, and only then the action.

One call is one transaction: its effect and its line in the log reach the disk together, before the reply.
"""

from __future__ import annotations

import hashlib
import json
import random
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import AddressValueError, IPv4Address
from urllib.parse import parse_qsl

from cocoon_net.clock import Clock
from cocoon_net.lab.cloud.actions import ACTIONS, VERSIONS, Action
from cocoon_net.lab.cloud.disk import CallRow, Disk
from cocoon_net.lab.cloud.records import Record, Replay
from cocoon_net.lab.cloud.signature import Authorization, Request, parse_authorization, verify
from cocoon_net.lab.cloud.wire import (
    ApiError,
    Call,
    failure,
    flatten,
    gateway_error,
    invalid,
    request_id,
    success,
)
from cocoon_net.lab.cloud.world import World

Changes = list[tuple[str, str, Record | None]]


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back: a status and a body, or nothing at all."""

    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"
    outcome: str = "answered"
    """answered | spoiled (an error after the effect) | garbled (not JSON) | lost | reset; the last two send nothing.

    Of a mishap also ``busy``: refused because something of the object is under way."""
    hang: float = 0.0
    """Seconds to keep the connection before it is closed without a reply."""


@dataclass(frozen=True, slots=True)
class Mishap:
    """A way for a call to fail by chance; an ambiguous one may happen after the effect."""

    code: str
    status: int
    outcome: str = "answered"
    ambiguous: bool = False


MISHAPS = (
    Mishap("FlowLimitExceeded", 429),
    Mishap("AccountFlowLimitExceeded", 429),
    Mishap("AccountFlowLimitExceeded", 400),
    Mishap("AccountFlowLimitExceeded", 200),
    Mishap("InternalError", 500, ambiguous=True),
    Mishap("InternalServiceError", 502, ambiguous=True),
    Mishap("ServiceUnavailableTemp", 503, ambiguous=True),
    Mishap("InternalServiceTimeout", 504, ambiguous=True),
    Mishap("", 200, "garbled", ambiguous=True),
    Mishap("", 0, "reset", ambiguous=True),
    Mishap("", 0, "lost", ambiguous=True),
    Mishap("InvalidStatus", 400, "busy"),
)

_BUSY = {"Subnet": "InvalidVpc", "SecurityGroup": "InvalidSecurityGroup"}
"""What the name of an action holds -> whose status is not the one for it; else an interface's."""


class Gateway:
    """Answers calls, one at a time; ``changed`` is told after each commit that changed something."""

    def __init__(self, world: World, disk: Disk, clock: Clock, *, chance: int, changed: Callable[[], None]) -> None:
        self.world = world
        self.disk = disk
        self.clock = clock
        self.lock = threading.RLock()
        """Held for each look at the world and each change of it."""
        self._random = random.Random(chance)
        self._changed = changed
        self._buckets: dict[str, tuple[float, float]] = {}
        self._closed = False

    def answer(self, request: Request) -> Reply:
        """Answer one HTTP request to the OpenAPI."""
        began = self.clock.monotonic()
        if latency := self.world.faults.api_latency:
            self.clock.sleep(latency)
        with self.lock:
            if self._closed:
                return Reply(0, b"", outcome="reset")
            faults = self.world.faults
            changes = self.settle_quietly()
            call, scope, problem = self._identify(request)
            reply, code = self._decide(request, call, scope, problem)
            changes += self.world.commit(self.clock.now())
            action = ACTIONS.get(call.service, {}).get(call.action)
            row = CallRow(
                time=call.now.isoformat(),
                source=request.source,
                instance=instance_at(self.world, request.source),
                access_key="" if scope is None else scope.access_key,
                service=call.service,
                action=call.action,
                parameters=dict(call.parameters),
                unknown=[] if action is None else action.unknown(call.parameters),
                status=reply.status,
                code=code,
                request_id=call.request_id,
                outcome=reply.outcome,
                seconds=round(self.clock.monotonic() - began, 6),
            )
            self.disk.save(changes, row, None if self.world.faults is faults else self.world_settings())
        if changes:
            self._changed()
        return reply

    def close(self) -> None:
        """Answer no more, and close the state."""
        with self.lock:
            self._closed = True
            self.disk.close()

    def settle(self) -> None:
        """Make the transitions that are due, and commit them."""
        with self.lock:
            changes = self.settle_quietly()
            if changes:
                self.disk.save(changes)
        if changes:
            self._changed()

    def settle_quietly(self) -> Changes:
        """Make the transitions that are due; the caller holds the lock and saves the changes."""
        now = self.clock.now()
        self.world.rollback()
        self.world.settle(now)
        return self.world.commit(now)

    def world_settings(self) -> dict[str, str]:
        """Return what of the world is kept as settings on disk."""
        return {"region": self.world.region, "faults": json.dumps(self.world.faults.settings())}

    def _identify(self, request: Request) -> tuple[Call, Authorization | None, ApiError | None]:
        """Return the call as far as it can be read, its scope, and why it is refused before anything is done."""
        now = self.clock.now()
        fields = dict(request.query)
        scope: Authorization | None = None
        problem: ApiError | None = None
        try:
            fields |= _body_fields(request)
            scope = parse_authorization(request)
            self._admit(request, scope, now)
        except ApiError as error:
            problem = error
        call = Call(
            service="" if scope is None else scope.service,
            action=fields.pop("Action", ""),
            version=fields.pop("Version", ""),
            region="" if scope is None else scope.region,
            parameters=fields,
            request_id=request_id(now, secrets.token_hex(9)),
            now=now,
        )
        return call, scope, problem

    def _admit(self, request: Request, scope: Authorization, now: datetime) -> None:
        if request.method not in ("GET", "POST"):
            raise gateway_error("MethodNotAllowed")
        key = self.world.keys.get(scope.access_key)
        if key is None:
            raise gateway_error("InvalidAccessKey")
        if not scope.region or not scope.service:
            raise gateway_error("InvalidCredential")
        try:
            verify(key.secret, request, scope, now)
        except ApiError as error:
            if error.code == "InvalidTimestamp":
                raise gateway_error(error.code, self.world.faults.timestamp_status) from None
            raise
        token = request.headers.get("x-security-token", "")
        if token != key.token or (key.expires is not None and now >= key.expires):
            raise gateway_error("InvalidSecretToken")

    def _decide(
        self, request: Request, call: Call, scope: Authorization | None, problem: ApiError | None
    ) -> tuple[Reply, str]:
        mishap = self._mishap(call)
        late = mishap is not None and mishap.ambiguous and self._random.random() < 0.5
        if mishap is not None and not late:
            return self._fail(call, mishap, "answered")
        try:
            if problem is not None:
                raise problem
            self._throttle(call)
            self._refuse(call)
            body = self._perform(call)
        except ApiError as error:
            self.world.rollback()
            return Reply(error.status, failure(call, error)), error.code
        if mishap is not None:
            return self._fail(call, mishap, "spoiled")
        if self._loses(call):
            return Reply(0, b"", outcome="lost", hang=self.world.faults.lose_hang), ""
        return Reply(200, body), ""

    def _mishap(self, call: Call) -> Mishap | None:
        rate = self.world.faults.error_rate
        if not rate or self._random.random() >= rate:
            return None
        action = ACTIONS.get(call.service, {}).get(call.action)
        writes = action is not None and action.writes  # only who changes something finds it busy
        return self._random.choice([mishap for mishap in MISHAPS if writes or mishap.outcome != "busy"])

    def _fail(self, call: Call, mishap: Mishap, when: str) -> tuple[Reply, str]:
        match mishap.outcome:
            case "garbled":
                page = b"<html><body>502 Bad Gateway</body></html>"
                return Reply(mishap.status, page, "text/html", "garbled"), "garbled"
            case "reset":
                return Reply(0, b"", outcome="reset"), "reset"
            case "lost":
                return Reply(0, b"", outcome="lost", hang=self.world.faults.lose_hang), "lost"
            case "busy":
                whose = next((code for name, code in _BUSY.items() if name in call.action), "InvalidEni")
                error = ApiError(f"{whose}.InvalidStatus", "The object is not in the status for this.", mishap.status)
                return Reply(error.status, failure(call, error), outcome=when), error.code
            case _:
                error = gateway_error(mishap.code, mishap.status)
                return Reply(error.status, failure(call, error), outcome=when), error.code

    def _throttle(self, call: Call) -> None:
        """Let through ``throttle`` calls a second of each action and ``throttle_all`` in all, with as many at once."""
        faults = self.world.faults
        if faults.throttle_all and not self._spend("*", faults.throttle_all):
            raise gateway_error("AccountFlowLimitExceeded", 429)
        if faults.throttle and not self._spend(call.action, faults.throttle):
            raise gateway_error("FlowLimitExceeded")

    def _spend(self, name: str, rate: float) -> bool:
        now, most = self.clock.monotonic(), max(1.0, rate)
        tokens, since = self._buckets.get(name, (most, now))
        tokens = min(most, tokens + (now - since) * rate)
        self._buckets[name] = (tokens - 1 if tokens >= 1 else tokens, now)
        return tokens >= 1

    def _refuse(self, call: Call) -> None:
        refusal, self.world.faults = self.world.faults.failure_of(call.action)
        if refusal is not None:
            raise ApiError(refusal.code, "The lab was told to refuse this call.", refusal.status)

    def _loses(self, call: Call) -> bool:
        lost, self.world.faults = self.world.faults.loss_of(call.action)
        return lost or self._random.random() < self.world.faults.lose_reply

    def _perform(self, call: Call) -> bytes:
        if not call.action or not call.version:
            raise gateway_error("MissingRequestInfo")
        if call.service not in ACTIONS:
            raise gateway_error("ServiceNotFound")
        action = ACTIONS[call.service].get(call.action)
        if action is None or call.version != VERSIONS[call.service]:
            raise gateway_error("InvalidActionOrVersion")
        # The gateway serves all regions; in any other one this account owns nothing.
        world = self.world if call.region == self.world.region else World(call.region)
        action.check(call)
        result = self._run_once(world, call, action)
        if action.writes and world.faults.async_task_id:
            result["AsyncTaskId"] = secrets.token_hex(16)
        return success(call, result, world.faults.empty_lists)

    def _run_once(self, world: World, call: Call, action: Action) -> dict[str, object]:
        """Run the action, or repeat the answer that its ClientToken has got before."""
        token = call.text("ClientToken") if "ClientToken" in action.known else ""
        if not token:
            return action.run(world, call)
        if len(token) > 64 or not token.isascii():
            raise invalid("ClientToken", "at most 64 ASCII characters")
        digest = hashlib.sha256(json.dumps(sorted(call.parameters.items())).encode()).hexdigest()
        key = f"{call.action}/{token}"
        earlier = world.replays.get(key)
        if earlier is not None and call.now - earlier.created < timedelta(seconds=world.faults.token_life):
            if earlier.arguments != digest:
                raise ApiError("IdempotentParameterMismatch", "The ClientToken was used with other parameters.")
            return dict(json.loads(earlier.result))
        result = action.run(world, call)
        world.replays.put(Replay(key, digest, json.dumps(result), call.now))
        return result


def instance_at(world: World, source: str) -> str:
    """Return the id of the instance that has an address, empty if none has."""
    try:
        wanted = IPv4Address(source)
    except AddressValueError:
        return ""
    for row in world.interfaces.rows.values():
        if row.instance_id is not None and (row.primary == wanted or wanted in row.secondaries):
            return row.instance_id
    return ""


def _body_fields(request: Request) -> dict[str, str]:
    """Return the parameters in the body of a POST, a form or JSON."""
    if request.method != "POST" or not request.body:
        return {}
    kind = request.headers.get("content-type", "").partition(";")[0]
    try:
        if kind == "application/json":
            return dict(flatten(json.loads(request.body)))
        return dict(parse_qsl(request.body.decode(), keep_blank_values=True))
    except ValueError:
        raise invalid("the body", "a form or JSON") from None
