"""The one door to the OpenAPI, through the official SDK's core; the only place that knows the SDK and its errors.

The SDK signs, flattens and sends; it does not retry (only the runner decides to ask again), does not log, and its
exceptions end here. Errors are raised outside of the ``except`` that caught their cause: the SDK's frames hold the
secret key in their locals, and a traceback that shows values must not reach them.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from cocoon_net.clock import SystemClock
from cocoon_net.cloud.budget import Budget
from cocoon_net.cloud.volcengine.credentials import Credentials, CredentialSource
from cocoon_net.cloud.volcengine.refusals import Said, refusal
from cocoon_net.engine.model import Call, Later
from cocoon_net.errors import CloudError, CloudThrottled, CloudTransient, CocoonError, Unsupported, WorldError

VERSION = "2020-04-01"
"""Of both services that we call, vpc and ecs."""

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 30.0

_PAGE = 100
_CONNECTIONS = 16
_DEFAULT_HOST = "open.volcengineapi.com"


class Client:
    """Calls actions as whoever ``source`` says. Nothing is imported or asked before the first call. Thread-safe."""

    def __init__(
        self,
        source: CredentialSource,
        *,
        budget: Budget | None = None,
        endpoint: str = "",
        connect_timeout: float = CONNECT_TIMEOUT,
        read_timeout: float = READ_TIMEOUT,
    ) -> None:
        """``endpoint`` is a URL or a host; an ``http://`` one is reached directly, whatever proxy is set."""
        self._source = source
        self._budget = budget or Budget(SystemClock())
        self._endpoint = endpoint
        self._timeouts = (connect_timeout, read_timeout)
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._date: datetime | None = None
        self._api: Any = None

    def calls(self) -> dict[tuple[str, str], int]:
        """Return how many requests ended since this was last asked, by action and code; no code is success."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return dict(sorted(counts.items()))

    def call(
        self,
        action: str,
        params: Mapping[str, object],
        *,
        service: str = "vpc",
        version: str = VERSION,
        token: str = "",
    ) -> dict[str, Any]:
        """Call an action once and return its ``Result``.

        ``params`` are strings, integers, booleans, lists of them, or lists of such mappings (``Tags``). With a
        ``token`` that names the wish, asking twice is asking once. Raises CloudError and its kin with code and
        request id, or Refused.
        """
        if token:
            params = {**params, "ClientToken": client_token(token, params)}
        credentials = self._source.current()
        api = self._connected(credentials)
        sent = self._budget.admit()
        outcome = self._send(api, action, dict(params), service, version, credentials)
        self._budget.answered(sent, throttled=isinstance(outcome, CloudThrottled))
        with self._lock:
            self._counts[action, _code(outcome)] += 1
        if isinstance(outcome, CocoonError):
            raise outcome
        return outcome

    def date(self) -> datetime | None:
        """Return the API's clock as its last good answer told it (Date, RFC 9110 6.6.1); None where it did not."""
        with self._lock:
            return self._date

    def perform(self, call: Call, *, token: str = "") -> dict[str, Any]:
        """Call what was foretold, once; raises as ``call`` does, Unsupported where a part is not known (yet).

        That is so after an operator skipped the step that would have made it.
        """
        if missing := [f"{name} {value}" for name, value in call.params.items() if isinstance(value, Later)]:
            raise Unsupported(
                f"{call.action} cannot be called: {', '.join(missing)} is not known, since the step that makes it "
                "has not come to rest",
                hint="`cocoon-net workflow steps` shows which was skipped; `cocoon-net workflow abandon` and the same "
                "command anew do every step, `cocoon-net workflow skip` leaves this one out, too",
            )
        return self.call(call.action, call.params, token=token)

    def pages(
        self, action: str, params: Mapping[str, object], collection: str, *, service: str = "vpc"
    ) -> Iterator[dict[str, Any]]:
        """Call a Describe action page by page (MaxResults, NextToken) and yield the objects of ``collection``."""
        token = ""
        seen: set[str] = set()
        while True:
            following = {"NextToken": token} if token else {}
            result = self.call(action, {**params, "MaxResults": _PAGE, **following}, service=service)
            yield from objects(result, collection, action)
            token = result.get("NextToken") or ""
            if not token:
                return
            if token in seen:
                raise CloudTransient(f"{action} gave the same NextToken twice", code="PagingLoop")
            seen.add(token)

    def _send(
        self, api: Any, action: str, params: dict[str, object], service: str, version: str, credentials: Credentials
    ) -> dict[str, Any] | CocoonError:
        """Return the Result, or the error to raise."""
        import urllib3
        import volcenginesdkcore
        from volcenginesdkcore.rest import ApiException

        # Of the content types only text/plain makes the SDK flatten lists in a GET.
        info = volcenginesdkcore.UniversalInfo(
            method="GET", service=service, version=version, action=action, content_type="text/plain"
        )
        try:
            result, _, headers = api.do_call_with_http_info(info, params)
        except ApiException as error:
            return self._refused(action, error, credentials)
        except urllib3.exceptions.HTTPError as error:
            return _unanswered(action, self.host, error, self._timeouts)
        except (AttributeError, UnicodeDecodeError):
            # The SDK takes for granted that an answer with status 200 is a JSON object.
            return _unreadable(action, self.host)
        with self._lock:
            self._date = _moment(headers)
        return result if isinstance(result, dict) else _unreadable(action, self.host)

    def _refused(self, action: str, error: Any, credentials: Credentials) -> CocoonError:
        """Translate the SDK's exception: a body in JSON, or the repr of the Error that came with status 200."""
        status = error.status if isinstance(error.status, int) else 0
        if status == 0:
            return _insecure(action, self.host, credentials.redact(str(error.reason)))
        said = Said.read(error.body) if error.body else Said.literal(str(error.reason))
        if 200 <= status < 300 and not said.code:
            return _unreadable(action, self.host)
        return refusal(
            action,
            status=status,
            code=said.code,
            message=credentials.redact(said.message),
            request_id=said.request_id,
            where=self.host,
        )

    @property
    def host(self) -> str:
        """The host (and port) that calls go to, as far as it is known before the SDK resolves the region."""
        return urlsplit(self._endpoint).netloc or self._endpoint or _DEFAULT_HOST

    def _connected(self, credentials: Credentials) -> Any:
        with self._lock:
            if self._api is None:
                self._api = self._connect(credentials)
            return self._api

    def _connect(self, credentials: Credentials) -> Any:
        """Build the one SDK client that all threads share."""
        import urllib3
        import volcenginesdkcore

        configuration = _quiet_configuration(volcenginesdkcore)
        configuration.region = credentials.region
        configuration.auto_retry = False
        configuration.connect_timeout, configuration.read_timeout = self._timeouts
        configuration.connection_pool_maxsize = _CONNECTIONS
        configuration.credential_provider = _Provider(self._source)
        if self._endpoint:
            configuration.host = self._endpoint
        client = volcenginesdkcore.ApiClient(configuration)
        if self._direct():
            # The SDK takes proxies from the environment and cannot be told not to; its NO_PROXY is not implemented.
            connect, read = self._timeouts
            pool = client.rest_client.pool_manager
            client.rest_client.pool_manager = urllib3.PoolManager(
                maxsize=_CONNECTIONS,
                timeout=urllib3.Timeout(connect=connect, read=read),
                retries=urllib3.Retry(total=False),
                cert_reqs=pool.connection_pool_kw.get("cert_reqs"),
                ca_certs=pool.connection_pool_kw.get("ca_certs"),
            )
        return volcenginesdkcore.UniversalApi(client)

    def _direct(self) -> bool:
        from urllib.request import proxy_bypass

        return self._endpoint.startswith("http://") or bool(proxy_bypass(self.host))


def _code(outcome: dict[str, Any] | CocoonError) -> str:
    """Return by what an outcome is counted: the API's code, else the kind of error; empty for success."""
    match outcome:
        case WorldError() as error:
            return error.code or type(error).__name__
        case CocoonError() as error:
            return type(error).__name__
        case _:
            return ""


def _moment(headers: Any) -> datetime | None:
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(headers["Date"])
    except (KeyError, TypeError, ValueError):
        return None
    return moment if moment.tzinfo is not None else None


def client_token(token: str, params: Mapping[str, object]) -> str:
    """Return the ClientToken (ASCII, at most 64 characters) of a wish about these very objects.

    The same wish may come to concern another object: an interface that vanished was made anew under its key. With
    the wish's own token the API would refuse that for ever (IdempotentParameterMismatch).
    """
    said = json.dumps([token, params], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:40]


def objects(result: Mapping[str, Any], collection: str, action: str) -> list[dict[str, Any]]:
    """Return a list of objects out of a Result; null, [] and a missing key mean none. Raises CloudTransient."""
    found = result.get(collection) or []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise CloudTransient(f"{action} answered with {collection} that are not a list of objects", code="Unreadable")
    return found


@dataclass(frozen=True, slots=True)
class _Keys:
    """What the SDK wants of credentials, under its names."""

    ak: str
    sk: str
    session_token: str

    def __repr__(self) -> str:
        return "_Keys(***)"


class _Provider:
    """Hands the SDK the keys of each request, so that those that expire are renewed."""

    def __init__(self, source: CredentialSource) -> None:
        self._source = source

    def get_credentials(self) -> _Keys:
        """Return the keys that are valid now; the SDK calls this before it signs."""
        keys = self._source.current()
        return _Keys(keys.access_key, keys.secret_key, keys.session_token)


def _quiet_configuration(sdk: Any) -> Any:
    """Return a Configuration, and undo what constructing one does to this process's logging."""
    import logging

    transport = logging.getLogger("urllib3")
    before = (list(transport.handlers), transport.propagate, transport.level)
    configuration = sdk.Configuration()
    handlers, transport.propagate, level = before
    for handler in list(transport.handlers):
        if handler not in handlers:
            transport.removeHandler(handler)
    transport.setLevel(level)
    configuration.logger["package_logger"].disabled = True  # it can print headers, the session token among them
    logging.getLogger("volcenginesdkcore").setLevel(logging.CRITICAL + 1)  # its modules' own print whole answers
    return configuration


def _unreadable(action: str, host: str) -> CloudTransient:
    return CloudTransient(
        f"{action}: the answer of {host} is not one of the API",
        hint="something between here and the API answers in its place (a proxy?), or the service is in trouble",
        code="Unreadable",
    )


def _insecure(action: str, host: str, reason: str) -> CloudError:
    why = " ".join(reason.split())[:200]
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return CloudError(
            f"{action}: the certificate of {host} cannot be trusted ({why})",
            hint="check this machine's clock, and whether a proxy intercepts TLS",
            code="Certificate",
        )
    return CloudTransient(f"{action}: TLS with {host} failed ({why})", hint=_reach(host), code="Tls")


def _unanswered(action: str, host: str, error: Exception, timeouts: tuple[float, float]) -> CloudError:
    """Translate an error of the transport; its own text is left out, since it repeats the URL."""
    from urllib3 import exceptions

    connect, read = timeouts
    match error:
        case exceptions.LocationValueError():
            return CloudError(f"{action}: {host!r} is not a host to call", hint="check VOLCENGINE_ENDPOINT")
        case exceptions.NewConnectionError():
            return CloudTransient(
                f"{action}: no connection to {host} ({_cause(error)})", hint=_reach(host), code="Unreachable"
            )
        case exceptions.ConnectTimeoutError():
            return CloudTransient(
                f"{action}: {host} could not be reached within {connect:g} s", hint=_reach(host), code="Timeout"
            )
        case exceptions.TimeoutError():
            return CloudTransient(
                f"{action}: {host} did not answer within {read:g} s; it may have been carried out", code="Timeout"
            )
        case _:
            return CloudTransient(
                f"{action}: no answer from {host} ({_cause(error)})", hint=_reach(host), code="Unreachable"
            )


def _cause(error: Exception) -> str:
    cause = error.__cause__
    return cause.strerror if isinstance(cause, OSError) and cause.strerror else type(error).__name__


def _reach(host: str) -> str:
    return f"is {host} reachable from here? Check name resolution, routes and HTTPS_PROXY"
