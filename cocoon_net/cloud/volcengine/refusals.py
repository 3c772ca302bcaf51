"""What a refusal of the OpenAPI means for us: which error it becomes, and what the operator should do. Pure.

The code decides before the HTTP status does: the pages of different actions disagree about the statuses, and some
refusals come with status 200. Codes: the action pages of the VPC API, its page of common codes, and those that
Volcengine's own CNI (cello) knows by name.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from typing import Any

from cocoon_net.errors import CloudError, CloudGone, CloudQuota, CloudThrottled, CloudTransient, CocoonError, Refused

_DENIED = frozenset(
    {
        "AccessDenied",
        "InvalidAccessKey",
        "InvalidAuthorization",
        "InvalidCredential",
        "InvalidSecretToken",
        "InvalidTimestamp",
        "LackPolicy",
        "MissingAuthenticationToken",
        "MissingSignature",
        "SignatureDoesNotMatch",
    }
)
_PASSING = frozenset(
    {
        "FailToConnect",
        "InternalError",
        "InternalServiceError",
        "InternalServiceTimeout",
        "InvalidOperation.Conflict",
        "ServiceUnavailableTemp",
    }
)
_MISDIRECTED = frozenset({"InvalidActionOrVersion", "MethodNotAllowed", "MissingRequestInfo", "ServiceNotFound"})

_HINTS = {
    "AccessDenied": "the credentials may not do this; grant them VPCFullAccess and ECSReadOnlyAccess or the like",
    "AccountFlowLimitExceeded": "the account's rate limit; other clients share it",
    "Forbidden": "the object belongs to another service of the cloud, or is the instance's primary interface",
    "IdempotentParameterMismatch": "an earlier attempt asked for something else; run teardown, or init --abandon",
    "InsufficientIpInSubnet": "the subnet has too few free addresses: delete orphaned network interfaces in it "
    "(status Available, attached to nothing), or `cocoon-net teardown` and a larger --subnet or a smaller --pool-size",
    "InvalidAccessKey": "the access key is unknown or disabled; check VOLCENGINE_ACCESS_KEY_ID or "
    "~/.volcengine/config.json",
    "InvalidCidr.Malformed": "the --subnet must lie within the VPC and be a /29 or larger",
    "InvalidEni.ZoneMismatch": "subnet and instance are in different zones; choose another --subnet",
    "InvalidSecretToken": "the session token is wrong or has expired; renew it",
    "InvalidTimestamp": "this machine's clock is off; check its time synchronisation (timedatectl)",
    "LackPolicy": "the credentials have no policy for this; grant them VPCFullAccess and ECSReadOnlyAccess or the like",
    "LimitExceeded.EnisPerInstance": "the instance type takes no more interfaces: detach one that nobody needs, "
    "or `cocoon-net teardown` and a smaller --pool-size",
    "LimitExceeded.PrivateIpsPerEni": "the instance type takes no more addresses per interface; "
    "`cocoon-net run init --abandon` with all flags and a smaller --pool-size",
    "QuotaExceeded.Eni": "delete interfaces that nobody needs, or have the account's quota raised",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key; check both for typing errors",
}


@dataclass(frozen=True, slots=True)
class Said:
    """What a refusal says of itself."""

    code: str = ""
    message: str = ""
    request_id: str = ""

    @classmethod
    def read(cls, body: Any) -> Said:
        """Read ``ResponseMetadata.Error`` of a body; nothing where it is not JSON (a proxy's page)."""
        try:
            metadata = json.loads(body)["ResponseMetadata"]
            return cls._of(metadata.get("Error"), str(metadata.get("RequestId") or ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls()

    @classmethod
    def literal(cls, reason: str) -> Said:
        """Read the Python repr of an Error, which is all that the SDK keeps of one that came with status 200."""
        try:
            return cls._of(ast.literal_eval(reason), "")
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return cls()

    @classmethod
    def _of(cls, error: Any, request_id: str) -> Said:
        if not isinstance(error, dict):
            return cls(request_id=request_id)
        message = " ".join(str(error.get("Message") or "").split())
        return cls(str(error.get("Code") or ""), message[:300], request_id)


def refusal(
    action: str, *, status: int, code: str = "", message: str = "", request_id: str = "", where: str = ""
) -> CocoonError:
    """Return the error that a refused call becomes; ``where`` is the host that answered, for misdirected calls."""
    said = f"{code}: {message}" if code and message else code or message or "without a readable reason"
    tail = f" (HTTP {status}" + (f", request {request_id})" if request_id else ")")
    text = f"{action} was refused: {said}{tail}"
    kind = classify(status, code)
    if kind is Refused:
        return Refused(text, hint=_HINTS.get(code, "check the credentials and their policies"))
    hint = _HINTS.get(code, "")
    if not hint and issubclass(kind, CloudTransient):
        hint = "this passes; the same command goes on"
    if code in _MISDIRECTED:
        hint = f"{where or 'the endpoint'} does not know this action; check VOLCENGINE_ENDPOINT and the region"
    if issubclass(kind, CloudError):
        return kind(text, hint=hint, code=code, request_id=request_id)
    return kind(text, hint=hint)


def classify(status: int, code: str) -> type[CocoonError]:
    """Return the class of error for a code and an HTTP status (0: not known)."""
    name = code.rpartition(".")[2]
    if code in _DENIED:
        return Refused
    if code.startswith(("QuotaExceeded", "LimitExceeded")) or code == "InsufficientIpInSubnet":
        return CloudQuota
    if code.endswith("FlowLimitExceeded"):
        return CloudThrottled
    if code in _PASSING or name in ("InvalidStatus", "InUse"):
        # InUse: what still lives in it goes asynchronously, as do the interfaces of a subnet.
        return CloudTransient
    if code in _MISDIRECTED or code == "Forbidden":
        return CloudError
    if name == "NotFound":
        return CloudGone
    match status:
        case 401 | 403:
            return Refused
        case 404:
            return CloudGone if code else CloudError
        case 429:
            return CloudThrottled
        case 408:
            return CloudTransient
        case _ if status >= 500:
            return CloudTransient
        case _:
            return CloudError
