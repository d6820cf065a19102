"""testinfra's ``host``, pointed at the instance under test."""

from __future__ import annotations

from typing import Any

import pytest
import testinfra

from pytest_dibctl.ssh import SshAccess


def connect(access: SshAccess) -> Any:
    """Return a testinfra host that shares the run's one multiplexed connection."""
    # controlpersist=0 keeps testinfra from adding ControlMaster options of its own: ours are in the file.
    return testinfra.get_host(f"ssh://{access.name}", ssh_config=str(access.config_file), controlpersist=0)


@pytest.fixture(scope="session")
def host(ssh_access: SshAccess) -> Any:
    """testinfra's ``Host`` over ssh to the instance under test."""
    return connect(ssh_access)
