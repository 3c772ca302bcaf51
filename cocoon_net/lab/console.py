"""A console of the lab's cloud: any action of its API, as an operator with the node's account would type it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from cocoon_net.clock import SystemClock
from cocoon_net.cloud.volcengine.client import Client
from cocoon_net.cloud.volcengine.credentials import CredentialSource
from cocoon_net.cloud.volcengine.metadata import Metadata
from cocoon_net.lab import namespace
from cocoon_net.lab.cloud.faults import parse_settings
from cocoon_net.lab.lab import Lab
from cocoon_net.lab.machine import become, environment


def call(lab: Lab, machine: str, action: str, params: Mapping[str, object]) -> dict[str, Any]:
    """Turn this thread into one of ``machine``, call ``action`` once, return its ``Result``. Raises CloudError."""
    namespace.require_root()
    become(lab, machine)
    environ = environment(lab, machine, os.environ)
    source = CredentialSource(environ, Metadata(environ["COCOON_NET_METADATA_URL"]), SystemClock())
    return Client(source, endpoint=environ["VOLCENGINE_ENDPOINT"]).call(action, params)


def parse_params(words: Sequence[str]) -> dict[str, object]:
    """Read ``KEY=VALUE``; a value that is JSON (a number, a list) is meant as such. Raises SpecError."""
    return {key: _value(text) for key, text in parse_settings(words).items()}


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
