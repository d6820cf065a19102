"""The login user can do an administrator's work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_dibctl import Instance, SshAccess


def test_login_user_may_become_root(ssh_access: SshAccess, instance: Instance) -> None:
    """The login user is root, or uses sudo without a password, as in any cloud image.

    If this fails, cloud-init's ``default_user`` has no ``sudo`` rule, or sudo is not installed.
    """
    del instance
    if ssh_access.username == "root":
        pytest.skip("the login user is root")
    result = ssh_access.run("sudo -n id -u", timeout=60)
    assert result.output.strip() == "0", f"sudo says: {result.output}{result.errors}"
