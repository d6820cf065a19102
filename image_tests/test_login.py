"""The least that can be asked of an image: it boots and lets us in. Run when an image lists no tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_dibctl.ssh import SshAccess

pytestmark = pytest.mark.usefixtures("instance")


def test_login_works(ssh_access: SshAccess) -> None:
    """A command run over ssh gives its output and exit code.

    If this fails in the setup, the message there says what was missing: boot, ssh service, key or user.
    """
    result = ssh_access.run("echo hello; exit 7", timeout=60)
    assert (result.output.strip(), result.returncode) == ("hello", 7), result.errors
