"""Kernel settings below /proc/sys (sysctl(8)): forwarding, and no reverse-path check where VM traffic passes.

The effective rp_filter of a link is the greater of ``all`` and its own (ip-sysctl.txt), so both are looked at.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from cocoon_net.engine.model import Call, Change, Context, Seen, Verb, Via
from cocoon_net.errors import CocoonError, InvariantError, NodeError, NodeTransient, Refused
from cocoon_net.records import Sysctl

PROC = Path("/proc/sys")


class Sysctls:
    """Keys are the settings that our steps ask for and those in the ledger; the ones of a missing link are absent."""

    def __init__(self, asked: Callable[[Context], Iterable[str]]) -> None:
        """``asked`` names what our steps ask for."""
        self._asked = asked

    def observe(self, cx: Context) -> Seen:
        """Read every setting. Raises NodeError, Refused."""
        seen = {name: _read(name) for name in dict.fromkeys((*self._asked(cx), *cx.records("sysctl")))}
        return {name: Sysctl(name, value) for name, value in seen.items() if value is not None}

    def calls(self, change: Change, cx: Context) -> tuple[Call, ...]:
        """Write the setting."""
        value = change.want.value if isinstance(change.want, Sysctl) else f"(that of {_default(change.key)})"
        return (Call(Via.KERNEL, f"sysctl -w {change.key}={value}"),)

    def apply(self, change: Change, token: str, cx: Context) -> Mapping[str, str]:
        """Write one setting; deleting one puts a link's back to ``default``, since a setting cannot be absent.

        Raises NodeTransient when its link is not there, NodeError, Refused.
        """
        match (change.verb, change.want):
            case (Verb.DELETE, _):
                default = _read(_default(change.key))
                if default is not None and _read(change.key) is not None:
                    _write(change.key, default)
            case (_, Sysctl(name=name, value=value)):
                _write(name, value)
            case _:
                raise InvariantError(f"sysctl cannot apply {change.want!r}")
        return {}


def _path(name: str) -> Path:
    """Return the file of a setting: dots separate, ``/`` stands for a dot (sysctl(8) reads it the same way)."""
    path = PROC.joinpath(*(part.replace("/", ".") for part in name.split(".")))
    if ".." in path.parts:
        raise InvariantError(f"{name!r} is no name of a setting")
    return path


def _read(name: str) -> str | None:
    try:
        return _path(name).read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refusal(error, f"read {name}") from error


def _write(name: str, value: str) -> None:
    try:
        with _path(name).open("r+") as setting:
            setting.write(f"{value}\n")
    except FileNotFoundError as error:
        message = f"cannot set {name} to {value}: the kernel has no such setting (yet)"
        raise NodeTransient(message, hint="its link is not there; `ip link` shows those that are") from error
    except OSError as error:
        raise _refusal(error, f"set {name} to {value}") from error


def _default(name: str) -> str:
    """Return the setting that new links take their value from; the setting itself where it is not a link's."""
    match name.split("."):
        case ["net", "ipv4", "conf", link, setting] if link not in ("all", "default"):
            return f"net.ipv4.conf.default.{setting}"
        case _:
            return name


def _refusal(error: OSError, wanted: str) -> CocoonError:
    message = f"cannot {wanted}: {error.strerror}"
    match error.errno:
        case errno.EPERM | errno.EACCES:
            return Refused(message, hint="run as root; in a container, with CAP_NET_ADMIN and a writable /proc/sys/net")
        case errno.EROFS:
            return NodeError(message, hint="/proc/sys is mounted read-only here: run outside of the container")
        case _:
            hint = "`sysctl -a` and `dmesg` may say more"
            return NodeError(message, hint=hint, code=errno.errorcode.get(error.errno or 0, ""))
