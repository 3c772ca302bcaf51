"""A Volcengine cloud on one machine: the OpenAPI and the metadata service over HTTP, with knobs to make it fail."""

from cocoon_net.lab.cloud.admin import Admin
from cocoon_net.lab.cloud.faults import Faults
from cocoon_net.lab.cloud.seed import Seed
from cocoon_net.lab.cloud.service import Cloud

__all__ = ["Admin", "Cloud", "Faults", "Seed"]
