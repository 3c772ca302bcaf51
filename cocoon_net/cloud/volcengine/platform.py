"""Volcengine as a platform: one client, one metadata service, five inventories."""

from __future__ import annotations

from collections.abc import Mapping

from cocoon_net.clock import Clock
from cocoon_net.cloud.budget import Budget
from cocoon_net.cloud.garbage import LookedAfter
from cocoon_net.cloud.platform import Witness
from cocoon_net.cloud.volcengine.addresses import Addresses
from cocoon_net.cloud.volcengine.attachments import Attachments
from cocoon_net.cloud.volcengine.client import Client
from cocoon_net.cloud.volcengine.credentials import Credentials, CredentialSource
from cocoon_net.cloud.volcengine.ingress import Ingress
from cocoon_net.cloud.volcengine.instance import describe
from cocoon_net.cloud.volcengine.interfaces import Interfaces
from cocoon_net.cloud.volcengine.metadata import Metadata
from cocoon_net.cloud.volcengine.strays import Strays
from cocoon_net.cloud.volcengine.subnet import Subnets
from cocoon_net.engine.model import Inventory
from cocoon_net.records import Instance
from cocoon_net.site import Site
from cocoon_net.spec import Spec
from cocoon_net.stop import Stop


class Volcengine:
    """The Platform of an instance of Volcengine or BytePlus."""

    name = "volcengine"

    def __init__(self, client: Client, metadata: Metadata, clock: Clock) -> None:
        self._client = client
        self._metadata = metadata
        self._clock = clock

    @classmethod
    def connect(
        cls,
        site: Site,
        environ: Mapping[str, str],
        *,
        clock: Clock,
        credentials: Credentials | None = None,
        stop: Stop | None = None,
    ) -> Volcengine:
        """Put the parts together; nobody is asked anything before the first use."""
        metadata = Metadata(site.metadata_url)
        source = CredentialSource(environ, metadata, clock, explicit=credentials)
        budget = Budget.from_environment(environ, clock, stop)
        return cls(Client(source, budget=budget, endpoint=site.endpoint), metadata, clock)

    def describe(self, spec: Spec) -> Instance:
        """Return the facts of this instance. Raises CloudError, Refused."""
        return describe(self._client, self._metadata.identity(), spec)

    def witness(self) -> Witness:
        """Return what the instance metadata says. Raises CloudError."""
        identifier = self._metadata.instance_id()
        attached = self._metadata.attached()
        return Witness(identifier, attached, self._metadata.clock)

    def inventories(self) -> Mapping[str, Inventory]:
        """Return the five inventories; they share the client."""
        return {
            "subnet": Subnets(self._client),
            "enis": Interfaces(self._client),
            "ingress": Ingress(self._client),
            "attach": Attachments(self._client),
            "addresses": Addresses(self._client),
        }

    def strays(self, node: str, vpc_id: str, known: LookedAfter) -> Strays:
        """Return what looks for things of ``node`` that nobody looks after; an empty VPC means this instance's."""
        return Strays(self._client, self._clock, node, vpc_id or self._metadata.identity().vpc_id, known)

    def calls(self) -> dict[tuple[str, str], int]:
        """Return how many API calls were made since this was last asked, by action and code; no code is success."""
        return self._client.calls()
