"""The actions of the OpenAPI that the simulated cloud knows: an explicit table, service and name to function."""

from __future__ import annotations

from cocoon_net.lab.cloud.actions import addresses, ecs, groups, interfaces, subnets, tags, vpcs
from cocoon_net.lab.cloud.actions.action import Action

ACTIONS: dict[str, dict[str, Action]] = {
    "vpc": {
        **vpcs.ACTIONS,
        **subnets.ACTIONS,
        **groups.ACTIONS,
        **interfaces.ACTIONS,
        **addresses.ACTIONS,
        **tags.ACTIONS,
    },
    "ecs": ecs.ACTIONS,
    "sts": ecs.STS_ACTIONS,
}

VERSIONS: dict[str, str] = {"vpc": "2020-04-01", "ecs": "2020-04-01", "sts": "2018-01-01"}

__all__ = ["ACTIONS", "VERSIONS", "Action"]
