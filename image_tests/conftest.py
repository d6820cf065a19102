"""Helpers of the generic tests. Without ``--dib-image`` nothing in this folder is collected."""

from __future__ import annotations

import dataclasses
import shlex
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from pytest_dibctl import Instance, Result, SshAccess

FIRST_PAUSE = 0.3
LAST_PAUSE = 3.0
"""Seconds between looks at a guest that is not settled yet: pauses grow from the first to the last."""

SSH_FAILED = 255
"""What ssh exits with when it did not reach the guest."""

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
        pause = FIRST_PAUSE
        while trouble := problem():
            if time.monotonic() >= deadline:
                pytest.fail(f"{trouble}\n(waited {timeout:g} s for this to go away)", pytrace=False)
            time.sleep(pause)
            pause = min(pause * 1.5, LAST_PAUSE)

    return wait


@pytest.fixture(scope="module")
def known_tools(instance: Instance) -> dict[tuple[str, ...], str]:
    """Programs that were found in this instance by the tests of one file."""
    del instance
    return {}


@pytest.fixture
def tool(host: Host, instance: Instance, known_tools: dict[tuple[str, ...], str]) -> Callable[..., str]:
    """Return the first of the named programs that the guest has; skip the test when it has none."""

    def first(*names: str) -> str:
        __tracebackhide__ = True
        if names not in known_tools:
            # A plain user's PATH often lacks sbin, where ip and sysctl live.
            look = "PATH=$PATH:/usr/sbin:/sbin; for name in {}; do command -v $name && break; done"
            paths = host.run("sh -c %s", look.format(" ".join(map(shlex.quote, names)))).stdout.split()
            if not paths:
                pytest.skip(f"{instance.name} has no {' or '.join(names)}")
            known_tools[names] = str(paths[0])
        return known_tools[names]

    return first


def root_script(command: str, mark: str) -> str:
    """Return a line for any login shell that writes ``mark`` to stderr and runs ``command``, both as root.

    It is one line if the command is: csh ends a quoted text at the end of its line.
    """
    # eval: a command that is no shell code fails behind the mark too.
    work = f"""sh -c 'echo "$1" >&2; eval "$2"' sh {mark} {shlex.quote(command)}"""
    script = f'if [ "$(id -u)" = 0 ]; then exec {work}; else exec sudo -n {work}; fi'
    return f"sh -c {shlex.quote(script)}"


def run_as_root(ssh_access: SshAccess, name: str, command: str, timeout: float) -> Result:
    """Run a shell command as root in the instance ``name``; skip the test where the user may not."""
    __tracebackhide__ = True
    # The question and the work are one remote command: each costs a guest without KVM 0.2 s. The mark is
    # written by root's shell, so without it sudo refused.
    mark = f"as-root-{uuid.uuid4().hex}"
    result = ssh_access.run(root_script(command, mark), timeout=timeout)
    before, is_root, after = result.errors.partition(f"{mark}\n")
    if not is_root and result.returncode == SSH_FAILED:
        pytest.fail(f"ssh to {name} failed: {before.strip()}", pytrace=False)
    if not is_root:
        pytest.skip(f"the login user of {name} may not use sudo without a password: {before.strip()}")
    return dataclasses.replace(result, errors=before + after)


@pytest.fixture
def as_root(ssh_access: SshAccess, instance: Instance) -> Callable[..., Result]:
    """Run a shell command as root: ``as_root(command, timeout=60)``, timeout in seconds.

    Skips the test where the login user may not become root without a password.
    """

    def run(command: str, *, timeout: float = 60) -> Result:
        __tracebackhide__ = True
        return run_as_root(ssh_access, instance.name, command, timeout)

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
