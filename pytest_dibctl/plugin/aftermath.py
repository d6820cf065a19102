"""The look at a guest after the last test of its target; what it finds may fail that test's teardown."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pytest_dibctl.plugin.modules import target_of
from pytest_dibctl.plugin.session import DibSession
from pytest_dibctl.run import aftermath
from pytest_dibctl.system import signals


class Aftermath:
    """Hooks that notice a target's last test."""

    def __init__(self, session: DibSession) -> None:
        self._session = session

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """Look at the guest while it is still there, and raise only after fixtures are torn down."""
        target = target_of(item)
        is_last = nextitem is None or target_of(nextitem) != target
        error = None
        if target is not None and is_last and not signals.interrupted():
            error = aftermath.look(self._session.target_run(target))
        result = yield
        if error is not None:
            raise error
        return result
