"""The instance boots and lets us in. An image that lists no tests gets this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_dibctl import Instance, SshAccess


def test_login_works(instance: Instance, ssh_access: SshAccess) -> None:
    """The user that images.yaml names logs in with the instance's key and runs a command.

    If this fails, ssh answered before and does not any more: the console's last lines may tell why.
    """
    result = ssh_access.run("id -un", timeout=60)
    assert result.output.strip() == ssh_access.username, (
        f"{ssh_access.username} cannot work in {instance.name}: {result.output}{result.errors}"
    )
