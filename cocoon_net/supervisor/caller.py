"""The other end of the control socket: a desk that asks the live daemon (docs/control-socket.md)."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from cocoon_net.errors import CocoonError, NodeTransient, Refused, SpecError, StoreError
from cocoon_net.site import Site
from cocoon_net.supervisor.desk import ClosedDesk, Desk, Document
from cocoon_net.supervisor.presence import daemon_owner
from cocoon_net.unix_http import ask


class Unanswered(NodeTransient):
    """A daemon lives and its control socket does not answer."""


class Caller:
    """A desk behind the socket at ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def leases(self, everything: bool) -> list[Document]:
        """``GET /v1/leases``."""
        return list(self._ask("GET", f"/v1/leases{'?state=all' if everything else ''}")["leases"])

    def client(self, mac: str) -> Document:
        """``GET /v1/clients/{mac}``."""
        return self._ask("GET", f"/v1/clients/{mac}")

    def trace(self, mac: str, since: int) -> Document:
        """``GET /v1/trace/{mac}``."""
        return self._ask("GET", f"/v1/trace/{mac}?since={since}")

    def release(self, mac: str) -> object:
        """``DELETE /v1/leases/{mac}``; what is gone already is no failure, and not told apart."""
        return self._ask("DELETE", f"/v1/leases/{mac}")

    def reservations(self) -> list[Document]:
        """``GET /v1/reservations``."""
        return list(self._ask("GET", "/v1/reservations")["reservations"])

    def reserve(self, mac: str, address: str, hostname: str, options: Mapping[int, bytes] | None) -> Document:
        """``PUT /v1/reservations/{mac}/{address}?hostname=…&options=15:6578…,42:…``, the options in hex."""
        query = {"hostname": hostname} if hostname else {}
        if options is not None:
            query["options"] = ",".join(f"{code}:{value.hex()}" for code, value in options.items())
        return self._ask("PUT", f"/v1/reservations/{mac}/{address}?{urlencode(query)}".rstrip("?"))

    def unreserve(self, mac: str) -> object:
        """``DELETE /v1/reservations/{mac}``."""
        return self._ask("DELETE", f"/v1/reservations/{mac}")

    def view(self) -> Document:
        """``GET /v1/view``."""
        return self._ask("GET", "/v1/view")

    def _ask(self, method: str, target: str) -> Document:
        try:
            status, said = ask(self._path, method, target)
            body: Any = json.loads(said or b"{}")
        except PermissionError as error:
            raise Refused(f"{self._path} may not be used: {error.strerror}", hint="run as root") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unanswered(
                f"a daemon lives, and its control socket {self._path} does not answer: {error}",
                hint="give the --run-dir or --control-socket that the daemon was given",
            ) from error
        if status < 300:
            return dict(body)
        raise _error(status, body)


def open_desk(site: Site, *, reading: bool) -> Desk:
    """Return the desk of a node: its live daemon's, else its database.

    To read, the database does where a live daemon has no socket; to write, it does not: the daemon would not know.
    """
    if daemon_owner(site) is None:
        return ClosedDesk(site)
    if reading and not site.control_socket.exists():
        return ClosedDesk(site)
    return Caller(site.control_socket)


def _error(status: int, body: Document) -> CocoonError:
    message, hint = str(body.get("error", f"the daemon answered {status}")), str(body.get("hint", ""))
    match status:
        case 400 | 404 | 405 | 409:
            return SpecError(message, hint=hint)
        case _:
            return StoreError(message, hint=hint)
