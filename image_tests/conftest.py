"""Helpers of the generic tests. Without ``--dib-image`` nothing in this folder is collected."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from pytest_dibctl import Instance, Result, SshAccess

PAUSE = 3.0
"""Seconds between two looks at a guest that is not settled yet."""


HERE = Path(__file__).parent


def an_image_is_named(config: pytest.Config) -> bool:
    return bool(config.getoption("dib_image", default=None))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these tests alone unless an image is named: they must never meet the operator's own machine."""
    del collection_path
    return None if an_image_is_named(config) else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop them as well when a file of this folder is named outright, which pytest never ignores."""
    if an_image_is_named(config):
        return
    ours = [item for item in items if HERE in item.path.parents]
    if ours:
        items[:] = [item for item in items if HERE not in item.path.parents]
        config.hook.pytest_deselected(items=ours)


@pytest.fixture
def settle() -> Callable[..., None]:
    """Wait until a guest has settled: ``settle(problem, timeout)``.

    ``problem`` returns what is wrong, or an empty string. The test fails with the last problem when it is
    still there after ``timeout`` seconds.
    """

    def wait(problem: Callable[[], str], timeout: float) -> None:
        __tracebackhide__ = True
        deadline = time.monotonic() + timeout
        while said := problem():
            if time.monotonic() >= deadline:
                pytest.fail(f"{said}\n(waited {timeout:g} s for this to go away)", pytrace=False)
            time.sleep(PAUSE)

    return wait


@pytest.fixture
def tool(host: Host, instance: Instance) -> Callable[..., str]:
    """Return the first of the named programs that the guest has; skip the test when it has none."""

    def first(*names: str) -> str:
        __tracebackhide__ = True
        # A plain user's PATH often lacks sbin, where ip and sysctl live.
        look = "PATH=$PATH:/usr/sbin:/sbin; for name in {}; do command -v $name && break; done"
        found = host.run(look.format(" ".join(map(shlex.quote, names)))).stdout.split()
        if not found:
            pytest.skip(f"{instance.name} has no {' or '.join(names)}")
        return str(found[0])

    return first


@pytest.fixture
def as_root(ssh_access: SshAccess, instance: Instance) -> Callable[..., Result]:
    """Run a shell command as root: ``as_root(command, timeout=60)``, timeout in seconds.

    Skips the test where the login user may not become root without a password.
    """

    def run(command: str, *, timeout: float = 60) -> Result:
        __tracebackhide__ = True
        shell = f"sh -c {shlex.quote(command)}"
        if ssh_access.run("id -u", timeout=60).output.strip() != "0":
            if ssh_access.run("sudo -n true", timeout=60).returncode != 0:
                pytest.skip(f"the login user of {instance.name} may not use sudo without a password")
            shell = f"sudo -n {shell}"
        return ssh_access.run(shell, timeout=timeout)

    return run


@pytest.fixture
def systemd(host: Host, instance: Instance) -> None:
    """Skip the test in guests that are not run by systemd."""
    if not host.file("/run/systemd/system").is_directory:
        pytest.skip(f"{instance.name} is not run by systemd")


@pytest.fixture
def variable(environment_variables: Mapping[str, str]) -> Callable[..., str]:
    """Look up one of the configuration's ``environment_variables``: ``variable(name, default)``."""

    def look_up(name: str, default: str = "") -> str:
        return environment_variables.get(name, default)

    return look_up
