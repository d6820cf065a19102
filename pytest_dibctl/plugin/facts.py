"""dibctl's fixtures: facts of the instance, the image and the environment, and clients of their APIs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from pytest_dibctl.clouds.protocols import Cloud, CloudImage, Flavor, Instance
from pytest_dibctl.config import merge
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.plugin import host
from pytest_dibctl.run import variables
from pytest_dibctl.run.target_run import TargetRun
from pytest_dibctl.system import process


@pytest.fixture(scope="session")
def flavor(instance: Instance) -> Flavor:
    """The instance's size: ``id``, ``name``, ``ram`` (MiB), ``vcpus``, ``disk`` (GiB), ``meta``."""
    return instance.flavor


@pytest.fixture(scope="session")
def flavor_meta(flavor: Flavor) -> dict[str, str]:
    """The flavor's extra specs."""
    return dict(flavor.meta)


@pytest.fixture(scope="session")
def network(instance: Instance) -> list[dict[str, Any]]:
    """The instance's interfaces, with MACs and fixed addresses, as plain data."""
    return [variables.describe(interface) for interface in instance.interfaces]


@pytest.fixture(scope="session")
def ips(instance: Instance) -> list[str]:
    """All fixed addresses of the instance."""
    return variables.addresses(instance)


@pytest.fixture(scope="session")
def ips_v4(instance: Instance) -> list[str]:
    """The fixed IPv4 addresses of the instance."""
    return variables.addresses(instance, 4)


@pytest.fixture(scope="session")
def ips_v6(instance: Instance) -> list[str]:
    """The fixed IPv6 addresses of the instance."""
    return variables.addresses(instance, 6)


@pytest.fixture(scope="session")
def main_ip(instance: Instance) -> str:
    """The address of the instance's main interface, as the guest sees it."""
    return instance.main_ip


@pytest.fixture(scope="session")
def environment_variables(dib_run: TargetRun) -> dict[str, str]:
    """``environment_variables`` of the image and its test environment, merged."""
    return dict(merge.test_variables(dib_run.image, dib_run.environment))


@pytest.fixture(scope="session")
def dib_variables(
    instance: Instance,
    ssh_access: SshAccess,
    environment_variables: Mapping[str, str],
) -> dict[str, str]:
    """The ``DIBCTL_*`` variables of shell tests."""
    return variables.for_tests(instance, ssh_access, environment_variables)


@pytest.fixture(scope="session")
def ssh(ssh_access: SshAccess) -> dict[str, Any]:
    """How to log in, as dibctl's dict.

    Its keys are ip, port, username, private_key_file, key_name, config, command_line and connector.
    """
    return {
        "ip": ssh_access.ip,
        "port": ssh_access.port,
        "username": ssh_access.username,
        "private_key_file": str(ssh_access.key.private_key_file),
        "key_name": ssh_access.key.name,
        "config": str(ssh_access.config_file),
        "command_line": process.command_line(ssh_access.command_line()),
        "connector": f"ssh://{ssh_access.username}@{ssh_access.ip}:{ssh_access.port}",
    }


@pytest.fixture(scope="session")
def port(dib_run: TargetRun, instance: Instance, ssh_access: SshAccess) -> dict[str, Any]:  # noqa: ARG001 -- it waits
    """The port that was waited for: ip, port, timeout, and delay, the seconds waited."""
    number = dib_run.image.settings.tests.wait_for_port or merge.login(dib_run.image)[1]
    endpoint = instance.endpoint(number)
    return {
        "ip": endpoint.ip,
        "port": endpoint.port,
        "timeout": dib_run.deadlines.port,
        "delay": dib_run.phases.get("ready", 0.0),
    }


@pytest.fixture(scope="session")
def image_config(image: Entry[Image]) -> dict[str, Any]:
    """The image's entry in images.yaml as plain data."""
    return image.settings.model_dump(mode="json", exclude_none=True)


@pytest.fixture(scope="session")
def image_info(cloud_image: CloudImage | None) -> dict[str, Any]:
    """The image as the cloud knows it: id, name, disk_format, sha512, properties, and what Glance adds."""
    if cloud_image is None:
        pytest.skip("--dib-use-existing-instance: the image of the instance is not known")
    return {
        **cloud_image.details,
        "id": cloud_image.id,
        "name": cloud_image.name,
        "disk_format": cloud_image.disk_format,
        "sha512": cloud_image.sha512,
        "properties": dict(cloud_image.properties),
    }


class CamelCase:
    """A testinfra host that also answers to the CamelCase names of testinfra's first releases."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    @property
    def SystemInfo(self) -> Any:  # noqa: N802 -- its name then
        """Today's ``system_info``, with its former ``hostname``."""
        info = self._backend.system_info
        if not hasattr(info, "hostname"):
            info.hostname = self._backend.check_output("hostname")
        return info

    def __getattr__(self, name: str) -> Any:
        """Return ``package`` for ``Package``, and anything else under its own name."""
        return getattr(self._backend, re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())


@pytest.fixture(scope="session")
def ssh_backend(ssh_access: SshAccess, request: pytest.FixtureRequest) -> CamelCase:
    """testinfra over ssh, as dibctl's tests call it: ``ssh_backend.SystemInfo.hostname`` works."""
    option = request.config.option
    return CamelCase(host.connect(ssh_access, sudo=option.sudo, sudo_user=option.sudo_user))


@pytest.fixture
def ssh_client(ssh_access: SshAccess) -> Iterator[Any]:
    """A connected paramiko ``SSHClient``, closed after the test."""
    with ssh_access.client() as client:
        yield client


def _client(name: str, service: str) -> Callable[..., Any]:
    def client(dib_run: TargetRun, cloud: Cloud) -> Any:
        sdk_client = cloud.client(service)
        if sdk_client is None:
            label = dib_run.environment.label
            pytest.skip(f"`{name}` needs an OpenStack environment; {label} is on this machine")
        return sdk_client

    noun = "connection" if service == "connection" else f"client of the {service} API"
    client.__doc__ = (
        f"openstacksdk's {noun}, logged in to the test environment; elsewhere the test is skipped."
    )
    fixture: Callable[..., Any] = pytest.fixture(scope="session", name=name)(
        client
    )  # which reads the docstring
    return fixture


nova = _client("nova", "compute")
glance = _client("glance", "image")
connection = _client("connection", "connection")
