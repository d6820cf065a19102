"""Names are resolved, by the servers that the cloud gives out.

An image that carries the resolver of the machine it was built on works there and nowhere else.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from pytest_dibctl import Instance

pytestmark = pytest.mark.usefixtures("instance")

ANSWER_MAY_TAKE = 60
"""Seconds; the first question of a slow guest may time out."""

# The file with the servers that are really asked comes first: behind a local stub resolv.conf names only
# the stub. resolved's own file exists even while nothing uses it, so it counts only behind its stub.
SERVERS = """
files=/etc/resolv.conf
if grep -q '^nameserver 127\\.0\\.0\\.5[34]' /etc/resolv.conf; then files=/run/systemd/resolve/resolv.conf; fi
sed -n 's/^nameserver[[:space:]]*//p' $files
"""

PACKAGE_SOURCES = "/etc/apt/sources.list /etc/apt/sources.list.d /etc/yum.repos.d /etc/apk/repositories"


def servers(host: Host) -> list[str]:
    found: list[str] = host.run(SERVERS).stdout.split()
    return found


@pytest.fixture
def name_to_ask(host: Host, variable: Callable[..., str]) -> str:
    """Return DNS_NAME, or the host of the guest's own package source: a name it has to know anyway."""
    if name := variable("DNS_NAME"):
        return str(name)
    found = host.run(
        f"grep -rhoE '^[^#]*https?://[a-zA-Z0-9.-]+' {PACKAGE_SOURCES} 2>/dev/null"
    ).stdout.split()
    names = [word.partition("://")[2] for word in found if "://" in word]
    named = [name for name in names if any(letter.isalpha() for letter in name)]
    if not named:
        pytest.skip(
            "no name to ask for: set DNS_NAME in environment_variables of the image or the environment"
        )
    return str(named[0])


def test_resolver_is_configured(host: Host, settle: Callable[..., None]) -> None:
    """At least one name server is configured.

    If this fails, DHCP delivered none, or nothing writes it down: systemd-networkd needs systemd-resolved,
    ifupdown needs a DHCP client that writes /etc/resolv.conf.
    """

    def problem() -> str:
        return "" if servers(host) else f"no name server; {host.run('ls -l /etc/resolv.conf 2>&1').stdout}"

    settle(problem, ANSWER_MAY_TAKE)


def test_resolver_is_the_clouds(instance: Instance, host: Host, settle: Callable[..., None]) -> None:
    """The guest asks a server that the cloud's network names.

    If this fails, /etc/resolv.conf is left over from the build, or the answer of DHCP is not used.
    """
    wanted = {server for nic in instance.interfaces for server in nic.dns}
    if not wanted:
        pytest.skip(f"the cloud names no name server for the networks of {instance.name}")

    def problem() -> str:
        found = servers(host)
        return (
            ""
            if wanted & set(found)
            else f"the cloud gives {sorted(wanted)}, the guest asks {found or 'nobody'}"
        )

    settle(problem, ANSWER_MAY_TAKE)


def test_name_is_resolved(
    host: Host,
    name_to_ask: str,
    tool: Callable[..., str],
    settle: Callable[..., None],
) -> None:
    """A name is turned into an address.

    If this fails, the server does not answer (firewall, wrong address) or does not know this name: set
    DNS_NAME in ``environment_variables`` to a name that this network knows.
    """
    lookup = tool("getent", "nslookup")
    command = f"{lookup} hosts" if lookup.endswith("getent") else lookup

    def problem() -> str:
        result = host.run(f"{command} {shlex.quote(name_to_ask)} 2>&1")
        if result.rc == 0 and result.stdout.strip():
            return ""
        said = result.stdout.strip() or "no answer"
        return f"{name_to_ask} is not resolved by {servers(host) or 'nobody'}: {said}"

    settle(problem, ANSWER_MAY_TAKE)
