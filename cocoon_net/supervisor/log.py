"""Logs: one line a fact, its fields as ``key=value`` or as JSON, secrets blacked out at the sink.

The libraries' own logging goes the same way. Whatever reaches the sink is one physical line, except the traceback of
a bug, and no secret survives it, whoever wrote it: the sink is the only place that can promise that.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from loguru import Message, Record

LEVELS = {"debug": "DEBUG", "info": "INFO", "warn": "WARNING", "warning": "WARNING", "error": "ERROR"}
"""``COCOON_NET_LOG_LEVEL`` -> the level's name in loguru."""

BLACK = "***"

_SECRET_VARIABLES = re.compile(r"^VOLC(?:ENGINE|STACK)_.*(?:SECRET|TOKEN)|^VOLC(?:ENGINE|STACK)_.*SECRET.*KEY")
_NAMED = re.compile(
    r"""(?ix)
    ( [\w-]* (?: secret [ _-]? (?:access[ _-]?)? key | secret | password
               | (?:session | security | metadata | access) [ _-]? token )
      ["']? \s* (?: [:=] | \ is ) \s* )
    (?: "[^"]*" | '[^']*' | [^\s,;&"'}\])]+ )
    """
)
"""``secret_access_key = "..."``, ``X-Security-Token: ...``, ``'secret-key': '...'``, and their JSON."""
_AUTHORIZATION = re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?)[^\"'\n]+")
_SIGNATURE = re.compile(r"(?i)(\b(?:x-)?signature=)[0-9a-f]{16,}")
_SHAPES = re.compile(r"\bSTS[A-Za-z0-9+/_=.-]{32,}|\b[A-Za-z0-9+/]{54,}==")
"""STS tokens and secret keys as Volcengine makes them, whatever stands before them."""
_KEY_ID = re.compile(r"\b(AK(?:LT|TP))[A-Za-z0-9+/_=-]{16,}")
"""Access key ids: no secret, but whose they are; the first letters tell the kind (permanent, temporary)."""
_SHORTEST_SECRET = 8
"""A shorter value would black out innocent text."""

PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}
"""Level -> priority of sd-daemon(3), which journald reads off the beginning of a line."""

FEW = 5
"""Lines about as many things of one kind; the rest is counted: with one bridge the routes of all leases go."""

_COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "31;1"}
_QUIET = ("apscheduler", "transitions", "pyroute2", "asyncio", "urllib3", "volcenginesdkcore")
"""Libraries whose INFO is about themselves, not about this node."""


def configure(
    environ: Mapping[str, str] = os.environ, stream: TextIO | None = None, *, level: str | None = None
) -> None:
    """Send all logs to ``stream`` (stderr) at the level of ``COCOON_NET_LOG_LEVEL``, or ``level``.

    ``COCOON_NET_LOG_FORMAT=json`` makes each line a JSON object. To journald go priorities instead of times. An unknown
    level or format is complained about: a typo must not keep the daemon from starting. The values of the
    environment's secrets are blacked out wherever they appear.
    """
    from loguru import logger

    asked = level if level is not None else environ.get("COCOON_NET_LOG_LEVEL", "") or "info"
    chosen = LEVELS.get(asked.lower(), "INFO")
    out = stream or sys.stderr
    form = environ.get("COCOON_NET_LOG_FORMAT", "") or "text"
    journal = is_journal(environ, out)
    colour = not environ.get("NO_COLOR")
    sink = _Sink(out, colour=colour, secrets=_secrets(environ), journal=journal, as_json=form.lower() == "json")
    logger.remove()
    # Messages may hold braces: the sink renders the record itself instead of letting loguru format it.
    logger.add(sink, level=chosen, format="{message}", colorize=False, backtrace=False, diagnose=False, catch=True)
    logging.basicConfig(handlers=[_Inbound()], level=logging.getLevelName(chosen), force=True)
    logging.captureWarnings(True)
    if asked.lower() not in LEVELS:
        logger.warning("COCOON_NET_LOG_LEVEL is {!r}, taken for info; known are: debug, info, warn, error", asked)
    if form.lower() not in ("json", "text"):
        logger.warning("COCOON_NET_LOG_FORMAT is {!r}, taken for text; known are: text, json", form)


def is_journal(environ: Mapping[str, str], stream: TextIO) -> bool:
    """Whether ``stream`` leads to journald: ``JOURNAL_STREAM`` is its device and inode (systemd.exec(5))."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def tell(level: str, lines: Sequence[str], form: str = "{}") -> None:
    """Log the first lines, each put into ``form``, and one that counts the rest."""
    from loguru import logger

    rest = len(lines) - FEW
    for line in [*lines[:FEW], f"{rest} more like these"] if rest > 0 else lines:
        logger.log(level, form, line)


def verbose(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether lines for debugging are written."""
    return LEVELS.get(environ.get("COCOON_NET_LOG_LEVEL", "").lower()) == "DEBUG"


def redact(text: str, secrets: tuple[str, ...] = ()) -> str:
    """Black out ``secrets`` and whatever is named like one: keys, tokens, passwords, signatures, or looks like one."""
    for secret in secrets:
        text = text.replace(secret, BLACK)
    text = _AUTHORIZATION.sub(rf"\g<1>{BLACK}", text)
    text = _NAMED.sub(rf"\g<1>{BLACK}", text)
    text = _SIGNATURE.sub(rf"\g<1>{BLACK}", text)
    text = _KEY_ID.sub(rf"\g<1>{BLACK}", text)
    return _SHAPES.sub(BLACK, text)


def _secrets(environ: Mapping[str, str]) -> tuple[str, ...]:
    values = {v for k, v in environ.items() if _SECRET_VARIABLES.search(k) and len(v) >= _SHORTEST_SECRET}
    # Longest first: one secret may be the beginning of another.
    return tuple(sorted(values, key=len, reverse=True))


class _Sink:
    """Renders one record as one line and writes it at once."""

    def __init__(self, stream: TextIO, *, colour: bool, secrets: tuple[str, ...], journal: bool, as_json: bool) -> None:
        self._stream = stream
        self._colour = colour and stream.isatty()
        self._secrets = secrets
        self._journal, self._as_json = journal, as_json

    def __call__(self, message: Message) -> None:
        record = message.record
        text = redact(self._document(record) if self._as_json else self._line(record), self._secrets)
        if self._journal:
            # Each line of a traceback: journald takes every one for an entry of its own.
            prefix = f"<{PRIORITIES.get(record['level'].name, 6)}>"
            text = "".join(prefix + line for line in text.splitlines(keepends=True))
        self._stream.write(text)
        self._stream.flush()

    def _document(self, record: Record) -> str:
        """Return a record as JSON; what it says is blacked out before quotes in it are escaped."""
        document = {name: redact(f"{name}={value}", self._secrets)[len(name) + 1 :] for name, value in _extra(record)}
        document |= {"at": _at(record), "level": record["level"].name.lower()}
        document["message"] = redact(record["message"], self._secrets)
        if record["exception"] is not None:
            document["exception"] = redact("".join(traceback.format_exception(*record["exception"])), self._secrets)
        return json.dumps(document, ensure_ascii=False) + "\n"

    def _line(self, record: Record) -> str:
        level = record["level"].name
        shown = f"{level:<7}"
        if self._colour and level in _COLOURS:
            shown = f"\x1b[{_COLOURS[level]}m{shown}\x1b[0m"
        fields = "".join(f" {name}={_field(value)}" for name, value in _extra(record))
        # journald knows the time and, by the prefix, the level.
        begin = "" if self._journal else f"{_at(record)} {shown} "
        line = f"{begin}{_flat(record['message'])}{fields}\n"
        if record["exception"] is not None:
            line += "".join(traceback.format_exception(*record["exception"]))
        return line


class _Inbound(logging.Handler):
    """Hands a record of the standard library's logging to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        from loguru import logger

        # Not by level: some of these loggers set their own.
        if record.levelno < logging.WARNING and record.name.split(".")[0] in _QUIET:
            return
        logger.opt(exception=record.exc_info).log(record.levelname, "{}: {}", record.name, record.getMessage())


def _extra(record: Record) -> Iterable[tuple[str, Any]]:
    return record["extra"].items()


def _at(record: Record) -> str:
    # loguru's time is a datetime of the local zone; every other time of ours is UTC.
    return f"{record['time'].astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"


def _flat(text: str) -> str:
    return "; ".join(line for line in text.splitlines() if line.strip()) if "\n" in text else text


def _field(value: Any) -> str:
    text = str(value)
    return text if text and not re.search(r'[\s="]', text) else json.dumps(text, ensure_ascii=False)
