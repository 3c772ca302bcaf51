"""The admin interface of the simulated cloud, the side that asks; used by the command line and by tests."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cocoon_net.errors import NodeError, SpecError
from cocoon_net.unix_http import ask


class Admin:
    """A client of one cloud's admin socket; one short connection for each question."""

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        self.path = path
        self._timeout = timeout

    def state(self) -> dict[str, Any]:
        """Return ``vpcs subnets groups interfaces instances types``, each a list of records; never a secret."""
        return dict(self._ask("GET", "/state"))

    def calls(self, since: int = 0) -> list[dict[str, Any]]:
        """Return the logged calls with ``seq`` above ``since``; the fields are those of ``disk.CallRow``."""
        return list(self._ask("GET", f"/calls?since={since}"))

    def clear_calls(self) -> None:
        """Forget the logged calls."""
        self._ask("POST", "/clear-calls")

    def counters(self) -> dict[str, dict[str, float]]:
        """Return calls, errors, lost replies and seconds, for each action."""
        return dict(self._ask("GET", "/counters"))

    def faults(self) -> dict[str, str]:
        """Return all knobs and their settings."""
        return dict(self._ask("GET", "/faults"))

    def set_faults(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Change some knobs; an empty value is the default. Raises ``SpecError`` that lists all problems."""
        return dict(self._ask("PUT", "/faults", dict(settings)))

    def credentials(self) -> dict[str, str]:
        """Return ``access_key``, ``secret_key`` and ``region`` of the lab's account."""
        return dict(self._ask("GET", "/credentials"))

    def plant_interface(
        self,
        *,
        subnet: str = "",
        instance: str = "",
        name: str = "",
        tags: Mapping[str, str] | None = None,
        secondaries: int = 0,
        service_managed: bool = False,
        status: str = "",
        count: int = 1,
    ) -> list[str]:
        """Put interfaces of somebody else into the cloud and return their ids.

        ``subnet``: id, name or CIDR block, the host subnet if empty; ``instance``: id or node, not attached if empty.
        """
        body = {
            "kind": "interface",
            "subnet_id": subnet,
            "instance": instance,
            "name": name,
            "tags": dict(tags or {}),
            "secondaries": secondaries,
            "service_managed": service_managed,
            "status": status,
            "count": count,
        }
        return list(self._ask("POST", "/plant", body)["ids"])

    def plant_subnet(self, cidr: str, *, zone: str = "", tags: Mapping[str, str] | None = None) -> str:
        """Put a subnet of somebody else into the cloud and return its id."""
        body = {"kind": "subnet", "cidr": cidr, "zone": zone, "tags": dict(tags or {})}
        return str(self._ask("POST", "/plant", body)["ids"][0])

    def shutdown(self) -> None:
        """Ask the cloud to end."""
        self._ask("POST", "/shutdown")

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        given = None if body is None else json.dumps(body).encode()
        try:
            status, said = ask(self.path, method, path, given, timeout=self._timeout)
            answer = json.loads(said)
        except (OSError, http.client.HTTPException) as error:
            raise NodeError(
                f"the lab's cloud does not answer at {self.path}: {error}",
                hint="build the lab with `cocoon-net lab up`",
            ) from None
        if status != 200:
            raise SpecError(answer["problems"], hint=answer["hint"])
        return answer
