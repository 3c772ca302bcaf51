"""Whose keys sign our calls, and in which region: looked for in a fixed order, said clearly where nothing is found.

Keys: given explicitly; the environment, in both spellings; the credentials file, flat as the Go cocoon-net has it or
with the profiles of the ``ve`` command; the instance's role. A source that is there but broken ends the search:
using other keys than the operator meant would be worse than stopping. The region is looked for in the same places,
wherever the keys came from. The SDK's own chain knows neither the flat file nor ``VOLCENGINE_REGION``.
"""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cocoon_net.clock import Clock
from cocoon_net.cloud.volcengine.metadata import Metadata
from cocoon_net.errors import CloudError, CloudTransient, Refused

RENEWAL = timedelta(minutes=5)
"""Keys that expire are looked up again so long before their end."""

_ACCESS = ("VOLCENGINE_ACCESS_KEY_ID", "VOLCENGINE_ACCESS_KEY")
_SECRET = ("VOLCENGINE_SECRET_ACCESS_KEY", "VOLCENGINE_SECRET_KEY")
_HINT = (
    "set VOLCENGINE_ACCESS_KEY_ID, VOLCENGINE_SECRET_ACCESS_KEY and VOLCENGINE_REGION, "
    'or write {"access_key_id": ..., "secret_access_key": ..., "region": ...} to ~/.volcengine/config.json (mode 0600)'
)


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """A pair of keys, perhaps with a session token, and the region that they sign for."""

    access_key: str
    secret_key: str
    session_token: str = ""
    region: str = ""
    source: str = "given"
    """Where the keys came from, for people."""
    expires: datetime | None = None

    def __repr__(self) -> str:
        return f"Credentials(from {self.source}, region={self.region!r}, expires={self.expires})"

    def redact(self, text: str) -> str:
        """Return ``text`` without the keys, should a provider's message repeat them."""
        for secret in (self.secret_key, self.session_token, self.access_key):
            if secret:
                text = text.replace(secret, "***")
        return text


class CredentialSource:
    """Finds credentials when first asked, keeps them, and finds them anew before they expire. Thread-safe."""

    def __init__(
        self, environ: Mapping[str, str], metadata: Metadata, clock: Clock, *, explicit: Credentials | None = None
    ) -> None:
        self._environ = environ
        self._metadata = metadata
        self._clock = clock
        self._explicit = explicit
        self._lock = threading.Lock()
        self._current: Credentials | None = None

    def current(self) -> Credentials:
        """Return credentials that are valid now. Raises Refused (nothing usable), CloudTransient (not now)."""
        with self._lock:
            now = self._clock.now()
            kept = self._current
            if kept is None or (kept.expires is not None and kept.expires - RENEWAL <= now):
                self._current = kept = resolve(self._environ, self._metadata, now, explicit=self._explicit)
            return kept


def resolve(
    environ: Mapping[str, str], metadata: Metadata, now: datetime, *, explicit: Credentials | None = None
) -> Credentials:
    """Look for keys and a region in every place, in order.

    Raises Refused listing where it looked, CloudTransient when the role's keys cannot be fetched just now.
    """
    looked: list[str] = []
    stored = _File.read(environ)
    keys = (
        _given(explicit, looked)
        or _from_environment(environ, looked)
        or stored.credentials(looked)
        or _from_role(environ, metadata, now, looked)
    )
    if keys is None:
        raise Refused("no Volcengine credentials; looked at " + "; ".join(looked), hint=_HINT)
    region = keys.region or environ.get("VOLCENGINE_REGION", "") or stored.region or _region_of(metadata)
    return replace(keys, region=region)


def _given(explicit: Credentials | None, looked: list[str]) -> Credentials | None:
    if explicit is None:
        return None
    if bool(explicit.access_key) != bool(explicit.secret_key):
        missing = "secret" if explicit.access_key else "access"
        raise Refused(f"credentials were given without the {missing} key", hint="give both keys, or none of them")
    looked.append("what was given (no keys)")
    return explicit if explicit.access_key else None


def _from_environment(environ: Mapping[str, str], looked: list[str]) -> Credentials | None:
    access = next((name for name in _ACCESS if environ.get(name)), "")
    secret = next((name for name in _SECRET if environ.get(name)), "")
    if access and secret:
        token = environ.get("VOLCENGINE_SESSION_TOKEN", "")
        return Credentials(environ[access], environ[secret], token, source=f"the environment ({access})")
    if access or secret:
        others = " or ".join(_SECRET if access else _ACCESS)
        raise Refused(f"{access or secret} is set, but {others} is not", hint="set both, or neither of them")
    looked.append(f"the environment ({', '.join(_ACCESS)}: not set)")
    return None


@dataclass(frozen=True, slots=True, repr=False)
class _File:
    """The credentials file, parsed; ``data`` is empty where there is none."""

    path: Path
    data: Mapping[str, Any]
    profile: str
    """The name of the ``ve`` profile in force."""

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> _File:
        home = Path(environ.get("HOME") or "/root")
        named = environ.get("VOLCENGINE_CLI_CONFIG_FILE")
        path = Path(named) if named else home / ".volcengine" / "config.json"
        try:
            with path.open(encoding="utf-8") as file:
                mode = stat.S_IMODE(path.stat().st_mode)
                data = json.load(file)
        except FileNotFoundError:
            return cls(path, {}, "")
        except OSError as error:
            raise Refused(f"cannot read {path}: {error.strerror}", hint="run as root, or correct its mode") from None
        except ValueError:
            # The parser's own words may quote the file.
            raise Refused(f"{path} is not valid JSON", hint=_HINT) from None
        if not isinstance(data, dict):
            raise Refused(f"{path} does not hold a JSON object", hint=_HINT)
        if mode & 0o077:
            _warn_of_mode(path, mode)
        current = environ.get("VOLCENGINE_PROFILE") or data.get("current") or "default"
        return cls(path, data, str(current))

    @property
    def region(self) -> str:
        """The region of the flat form, else of the profile in force."""
        return _text(self.data, "region") or _text(self._values(), "region")

    def credentials(self, looked: list[str]) -> Credentials | None:
        """Return the keys of the flat form, else of the profile in force. Raises Refused for half a pair."""
        if not self.data:
            looked.append(f"{self.path} (not there)")
            return None
        if _text(self.data, "access_key_id") or _text(self.data, "secret_access_key"):
            return self._pair(self.data, "access_key_id", "secret_access_key", "session_token", str(self.path))
        values = self._values()
        name = f"{self.path}, profile {self.profile!r}"
        if _text(values, "access-key") or _text(values, "secret-key"):
            return self._pair(values, "access-key", "secret-key", "session-token", name)
        mode = _text(values, "mode")
        if mode not in ("", "ak", "ecsrole"):
            raise Refused(
                f"{name} signs in by {mode!r}, which gives cocoon-net no keys",
                hint=f"name a profile of mode ak with VOLCENGINE_PROFILE; {_HINT}",
            )
        looked.append(f"{name} (no keys)")
        return None

    def _values(self) -> Mapping[str, Any]:
        profiles = self.data.get("profiles")
        values = profiles.get(self.profile) if isinstance(profiles, dict) else None
        return values if isinstance(values, dict) else {}

    def _pair(self, values: Mapping[str, Any], access: str, secret: str, token: str, source: str) -> Credentials:
        keys = Credentials(_text(values, access), _text(values, secret), _text(values, token), source=source)
        if not (keys.access_key and keys.secret_key):
            raise Refused(f"{source} has no {secret if keys.access_key else access}", hint=_HINT)
        return keys


def _from_role(environ: Mapping[str, str], metadata: Metadata, now: datetime, looked: list[str]) -> Credentials | None:
    if environ.get("VOLCENGINE_ECS_METADATA_DISABLED", "").lower() == "true":
        looked.append("the instance's role (switched off by VOLCENGINE_ECS_METADATA_DISABLED)")
        return None
    try:
        keys = metadata.role_keys(environ.get("VOLCENGINE_ECS_METADATA", ""))
    except CloudError as error:
        looked.append(f"the instance's role ({error.message})")
        return None
    if keys.expires <= now:
        raise CloudTransient(f"the keys of the instance's role {keys.role!r} expired at {keys.expires}")
    return Credentials(
        keys.access_key,
        keys.secret_key,
        keys.session_token,
        source=f"the instance's role {keys.role!r}",
        expires=keys.expires,
    )


def _region_of(metadata: Metadata) -> str:
    try:
        return metadata.region()
    except CloudError as error:
        raise Refused(
            f"no region to sign for; looked at VOLCENGINE_REGION, the credentials file and metadata ({error.message})",
            hint="set VOLCENGINE_REGION, e.g. cn-hongkong",
        ) from None


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return value.strip() if isinstance(value, str) else ""


def _warn_of_mode(path: Path, mode: int) -> None:
    from loguru import logger  # 70 ms that most runs need not spend here

    logger.warning("{} can be read by others (mode {:04o}); chmod 600 it", path, mode)
