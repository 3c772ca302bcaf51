"""The real SDK against a cloud on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.lab.cloud import Cloud, Seed


class Sdk:
    """Calls one cloud through ``UniversalApi``, as the product does; without the SDK's own retries."""

    def __init__(self, endpoint: str, access_key: str, secret_key: str, **options: object) -> None:
        import volcenginesdkcore as core

        configuration = core.Configuration()
        configuration.ak, configuration.sk = access_key, secret_key
        configuration.region = "cn-hongkong"
        configuration.scheme, configuration.host = "http", endpoint.removeprefix("http://")
        configuration.auto_retry = False
        configuration.read_timeout = 5.0
        for name, value in options.items():
            setattr(configuration, name, value)
        self._core = core
        self._api = core.UniversalApi(core.ApiClient(configuration))

    def __call__(
        self,
        action: str,
        service: str = "vpc",
        *,
        method: str = "GET",
        content_type: str = "text/plain",
        **parameters: object,
    ) -> dict[str, Any]:
        info = self._core.UniversalInfo(
            method=method,
            service=service,
            version="2018-01-01" if service == "sts" else "2020-04-01",
            action=action,
            content_type=content_type,
        )
        return dict(self._api.do_call(info, parameters))

    def refusal(self, action: str, service: str = "vpc", **parameters: object) -> tuple[int, str]:
        """Return HTTP status and code of a call that must be refused."""
        from volcenginesdkcore.rest import ApiException

        with pytest.raises(ApiException) as caught:
            self(action, service, **parameters)
        if caught.value.status == 200:
            return 200, str(caught.value.reason)
        return caught.value.status, json.loads(caught.value.body)["ResponseMetadata"]["Error"]["Code"]


class Bench:
    """A cloud, the SDK, and the few ids that every test needs."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.admin = cloud.admin
        self.call = Sdk(cloud.endpoint, cloud.access_key, cloud.secret_key)
        self.vpc = self.call("DescribeVpcs")["Vpcs"][0]["VpcId"]
        self.group = next(
            row["SecurityGroupId"]
            for row in self.call("DescribeSecurityGroups")["SecurityGroups"]
            if row["SecurityGroupName"] == "lab-nodes"
        )
        self.node1 = cloud.instance_id("node1")

    def subnet(self, cidr: str = "172.20.100.0/24", **more: object) -> str:
        return self.call("CreateSubnet", VpcId=self.vpc, CidrBlock=cidr, ZoneId="cn-hongkong-a", **more)["SubnetId"]

    def interface(self, subnet: str, **more: object) -> str:
        created = self.call("CreateNetworkInterface", SubnetId=subnet, SecurityGroupIds=[self.group], **more)
        return created["NetworkInterfaceId"]

    def attached(self, subnet: str) -> str:
        key = self.interface(subnet)
        self.call("AttachNetworkInterface", NetworkInterfaceId=key, InstanceId=self.node1)
        return key

    def show(self, interface: str) -> dict[str, Any]:
        return self.call("DescribeNetworkInterfaceAttributes", NetworkInterfaceId=interface)

    def status(self, interface: str) -> str:
        return self.show(interface)["Status"]

    def fault(self, **settings: str) -> None:
        self.admin.set_faults(settings)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VOLCENGINE_ECS_METADATA_DISABLED", "true")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Start clouds with options of ``Cloud.start``; all end with the test."""
    clouds: list[Cloud] = []

    def begin(**options: Any) -> Bench:
        directory = options.pop("directory", tmp_path / f"cloud{len(clouds)}")
        clouds.append(Cloud.start(directory, **options))
        return Bench(clouds[-1])

    yield begin
    for cloud in clouds:
        cloud.close()


@pytest.fixture
def bench(start: Callable[..., Bench]) -> Bench:
    return start(seed=Seed(nodes=2), default_instance="node1")


@pytest.fixture
def sdk() -> type[Sdk]:
    return Sdk
