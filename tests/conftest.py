"""What all tests share: no proxies, no real metadata service, root-only tests left out without root."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from cocoon_net.lab import patience

# What is started in the background of a shell inherits SIGINT ignored (signal(7)); programs under test are to hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    without = pytest.mark.skip(reason="needs root: network namespaces, links and rules")
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(without)


@pytest.fixture(autouse=True)
def sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("VOLCENGINE_", "VOLCSTACK_", "COCOON_NET_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("VOLCENGINE_ECS_METADATA_DISABLED", "true")
    monkeypatch.setenv("COCOON_NET_METADATA_URL", "http://127.0.0.1:9")


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    return patience.eventually
