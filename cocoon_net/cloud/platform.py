"""What a cloud must be able to do for us, which one this machine is in, and how to reach it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address
from typing import Protocol

from cocoon_net.clock import Clock, SystemClock
from cocoon_net.cloud.garbage import LookedAfter, Stray
from cocoon_net.engine.model import Inventory
from cocoon_net.errors import CloudError, SpecError
from cocoon_net.records import Instance
from cocoon_net.site import Site
from cocoon_net.spec import Spec
from cocoon_net.stop import Stop


class Strays(Protocol):
    """Looks for what carries a node's mark and that nobody looks after. All raise CloudError and its kin."""

    def interfaces(self) -> Iterator[Stray]:
        """List those that are attached to nothing."""
        ...

    def subnets(self) -> Iterator[Stray]:
        """List those without any interface; they are only reported."""
        ...

    def collect(self, stray: Stray) -> str:
        """Read an interface anew and delete it if it is garbage still; return why it stays, or nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Witness:
    """What the instance metadata says, a second source beside the API."""

    instance_id: str
    attached: Mapping[str, frozenset[IPv4Address]]
    """MAC -> secondary addresses, of every interface that this instance has."""
    clock: datetime | None
    """Its time, where it tells."""


class Platform(Protocol):
    """One cloud, as seen from one of its instances."""

    @property
    def name(self) -> str:
        """The word that ``--platform`` takes."""
        ...

    def describe(self, spec: Spec) -> Instance:
        """Return the facts of the instance that we run on. Raises CloudError, Refused."""
        ...

    def witness(self) -> Witness:
        """Ask the instance metadata, not the API. Raises CloudError and its kin."""
        ...

    def inventories(self) -> Mapping[str, Inventory]:
        """Return the inventories ``subnet``, ``enis``, ``ingress``, ``attach`` and ``addresses``; makes no call."""
        ...

    def strays(self, node: str, vpc_id: str, known: LookedAfter) -> Strays:
        """Return what looks for things of ``node`` that nobody looks after; an empty VPC means this instance's."""
        ...

    def calls(self) -> dict[tuple[str, str], int]:
        """Return how many API calls were made since this was last asked, by action and code; no code is success."""
        ...


def detect(site: Site) -> str:
    """Return the name of the platform whose metadata service answers. Raises CloudError if none does."""
    from cocoon_net.cloud.volcengine.metadata import Metadata

    try:
        Metadata(site.metadata_url).instance_id()
    except CloudError as error:
        raise CloudError(
            f"cannot tell which cloud this is: {error.message}",
            hint="give --platform volcengine if it is one of its instances; "
            "COCOON_NET_METADATA_URL names another metadata service",
        ) from None
    return "volcengine"


def connect(
    name: str, site: Site, environ: Mapping[str, str], *, clock: Clock | None = None, stop: Stop | None = None
) -> Platform:
    """Return the platform called ``name``; nobody is asked anything before it is used. Raises SpecError.

    Once ``stop`` was asked, no call waits for its turn.
    """
    match name:
        case "volcengine":
            from cocoon_net.cloud.volcengine.platform import Volcengine

            return Volcengine.connect(site, environ, clock=clock or SystemClock(), stop=stop)
        case _:
            raise SpecError(f"--platform: {name!r} has no cloud side in this version; known is: volcengine")
