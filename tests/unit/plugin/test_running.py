"""Which fixtures may have changed an instance, so that a later test cannot have it as first booted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_dibctl.plugin.running import _may_touch_an_instance


@pytest.mark.parametrize(
    ("name", "touches"),
    [
        ("database", True),
        ("keys", True),  # modules that ours import are no fixtures of ours
        ("process", True),
        ("instance", False),
        ("flavor", False),
        ("nova", False),
        ("host", False),
    ],
)
def test_fixtures_of_others_may_touch_an_instance(name: str, touches: bool) -> None:
    fixturedef: Any = SimpleNamespace(
        argname=name,
        argnames=("ssh_access",),
        scope="session",
        func=test_fixtures_of_others_may_touch_an_instance,
    )
    assert _may_touch_an_instance(fixturedef) is touches


@pytest.mark.parametrize(("scope", "argnames"), [("function", ("ssh_access",)), ("session", ())])
def test_fixtures_of_one_test_and_those_that_ask_for_nothing_do_not(
    scope: str, argnames: tuple[str, ...]
) -> None:
    fixturedef: Any = SimpleNamespace(argname="database", argnames=argnames, scope=scope, func=None)
    assert not _may_touch_an_instance(fixturedef)
