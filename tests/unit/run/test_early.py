"""A boot in the background: its instance, or its error, is for the thread that asks."""

from __future__ import annotations

import threading
from typing import cast

import pytest

from pytest_dibctl.clouds.protocols import Instance
from pytest_dibctl.errors import InstanceError
from pytest_dibctl.run.early import EarlyBoot
from tests.support.memory import MemoryInstance


def test_the_instance_is_waited_for() -> None:
    instance, may_go_on = MemoryInstance(id="1", name="one"), threading.Event()

    def boot() -> Instance:
        may_go_on.wait()
        return instance

    early = EarlyBoot(boot)
    may_go_on.set()
    assert early.result() is early.settled() is cast("Instance", instance)
    assert "early boot" not in {thread.name for thread in threading.enumerate() if thread.is_alive()} or (
        early.seconds > 0
    )


def test_an_error_is_raised_in_the_thread_that_asks() -> None:
    def boot() -> Instance:
        raise InstanceError("no valid host")

    early = EarlyBoot(boot)
    assert early.settled() is None
    with pytest.raises(InstanceError, match="no valid host"):
        early.result()
