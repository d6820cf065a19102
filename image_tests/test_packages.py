"""Packages can be installed: nginx is, and is then reached from outside.

Where the guest has no way to a package mirror the tests are skipped and say what is missing; set
PACKAGES_REQUIRED to ``yes`` in ``environment_variables`` where there must be a way.
"""

from __future__ import annotations

import dataclasses
import http.client
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_dibctl import Instance, Result

pytestmark = pytest.mark.usefixtures("instance")

PORT = 80

UPDATE_MAY_TAKE = 600
INSTALL_MAY_TAKE = 900
PORT_MAY_TAKE = 120
"""Seconds, for a guest without hardware acceleration."""

NO_WAY = re.compile(
    r"could ?n[o']t (resolve|connect)|cannot initiate the connection|unable to connect"
    r"|connection (timed out|refused|failed)"
    r"|temporary failure (in name resolution|resolving)|network is unreachable|no route to host"
    r"|could not resolve host|no more mirrors to try|failed to (connect|download metadata)|cannot download"
    r"|dns lookup error|temporary error \(try again later\)|network error",
    re.IGNORECASE,
)
"""What package managers say when it is the network that fails them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manager:
    """The commands of a package manager; ``start`` starts nginx where its package does not."""

    program: str
    update: str
    install: str
    start: str


SYSTEMD_START = "systemctl start nginx"

MANAGERS = (
    Manager(
        program="apt-get",
        # By default apt-get passes over indexes that it cannot fetch, and says so with exit code 0.
        update="apt-get -q -o APT::Update::Error-Mode=any -o Acquire::Retries=2 "
        "-o DPkg::Lock::Timeout=300 update",
        install="DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "
        "-o Acquire::Retries=2 --no-install-recommends install nginx",
        start=SYSTEMD_START,
    ),
    Manager(
        program="dnf",
        update="dnf -q makecache",
        install="dnf -y --setopt=install_weak_deps=0 install nginx",
        start=SYSTEMD_START,
    ),
    Manager(program="yum", update="yum -q makecache", install="yum -y install nginx", start=SYSTEMD_START),
    Manager(
        program="zypper",
        update="zypper -n refresh",
        install="zypper -n install --no-recommends nginx",
        start=SYSTEMD_START,
    ),
    Manager(program="apk", update="apk update", install="apk add nginx", start="rc-service nginx start"),
)


@pytest.fixture
def manager(tool: Callable[..., str]) -> Manager:
    program = tool(*[manager.program for manager in MANAGERS])
    return next(manager for manager in MANAGERS if program.rpartition("/")[2] == manager.program)


@pytest.fixture(scope="module")
def memory(instance: Instance) -> dict[str, Result]:
    """What was done in this instance; another instance gets another memory."""
    del instance
    return {}


@pytest.fixture
def update(manager: Manager, as_root: Callable[..., Result], memory: dict[str, Result]) -> Result:
    """Read the package index, once for all tests of this file: images come with an empty one."""
    if "update" not in memory:
        memory["update"] = as_root(manager.update, timeout=UPDATE_MAY_TAKE)
    return memory["update"]


@pytest.fixture
def within_reach(variable: Callable[..., str], instance: Instance) -> Callable[[Result], None]:
    """Skip the test when a result shows that the guest has no way to its mirror."""

    def check(result: Result) -> None:
        __tracebackhide__ = True
        said = result.output + result.errors
        required = variable("PACKAGES_REQUIRED").lower() in {"yes", "true", "1"}
        if result.returncode != 0 and not required and (why := NO_WAY.search(said)):
            line = next(line.strip() for line in said.splitlines() if why.group() in line)
            pytest.skip(f"{instance.name} has no way to its package mirror: {line}")

    return check


def failure(what: str, result: Result) -> str:
    return f"{what} exited with {result.returncode}; it said:\n{(result.output + result.errors)[-3000:]}"


def test_package_index_can_be_read(
    manager: Manager, update: Result, within_reach: Callable[[Result], None]
) -> None:
    """The package manager reads the index of every source it is configured with.

    If this fails, a source in the image is wrong: a mirror only the build machine knows, a missing key.
    """
    within_reach(update)
    assert update.returncode == 0, failure(manager.update, update)


def test_nginx_installs(
    manager: Manager,
    update: Result,
    as_root: Callable[..., Result],
    within_reach: Callable[[Result], None],
) -> None:
    """nginx and all it needs is fetched, unpacked and configured.

    If this fails, read what the package manager said: held packages, a full disk, a broken script.
    """
    within_reach(update)
    result = as_root(manager.install, timeout=INSTALL_MAY_TAKE)
    within_reach(result)
    assert result.returncode == 0, failure(manager.install, result)
    started = as_root(manager.start, timeout=PORT_MAY_TAKE)
    assert started.returncode == 0, failure(manager.start, started)


def test_nginx_answers_from_outside(
    instance: Instance,
    wait_for_port: Callable[[int, float], object],
    as_root: Callable[..., Result],
) -> None:
    """A web page is served on port 80, to the machine that runs the tests.

    If this fails, is the port open from here? A firewall in the image (firewalld, nftables) or a security
    group of the cloud may be in between.
    """
    if as_root("PATH=$PATH:/usr/sbin command -v nginx").returncode != 0:
        pytest.skip(f"nginx is not installed in {instance.name}; see the test before")
    wait_for_port(PORT, PORT_MAY_TAKE)
    endpoint = instance.endpoint(PORT)
    connection = http.client.HTTPConnection(endpoint.ip, endpoint.port, timeout=60)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        # Alpine's nginx has no page to show and says 404, which is an answer of nginx all the same.
        server = answer.getheader("Server", "")
    finally:
        connection.close()
    assert "nginx" in server, (
        f"port {PORT} answers {answer.status} as {server or 'an unnamed server'}, not as nginx"
    )
