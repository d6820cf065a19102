"""How long the library waits, made shorter for tests that break things on purpose."""

from __future__ import annotations

import pytest

from pytest_dibctl.cleanup import sweep
from pytest_dibctl.clouds import file_body, protocols
from pytest_dibctl.clouds.openstack import api, image_upload, in_flight, pauses

MODULES = (api, image_upload, in_flight, pauses, sweep, protocols, file_body)


def shorten(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Set constants by their names, in every module that has, or has imported, one of that name."""
    for name, value in seconds.items():
        having = [module for module in MODULES if hasattr(module, name)]
        assert having, name
        for module in having:
            monkeypatch.setattr(module, name, value)
