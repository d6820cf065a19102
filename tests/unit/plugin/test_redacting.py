"""What is said of calls whose variables no traceback shows."""

from __future__ import annotations

import types
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_dibctl.errors import AuthorizationError
from pytest_dibctl.plugin.redacting import SECTION, Redacting


def fail() -> None:
    """Raise the global ``error``, in whatever module this is put into."""
    raise error  # type: ignore[name-defined]  # noqa: F821


def sections(error: Exception, *, full_trace: bool = False) -> list[str]:
    """Return the titles that a report gets for an error which a library of OpenStack raises."""
    call = types.FunctionType(fail.__code__, {"__name__": "openstack.proxy", "error": error})
    with pytest.raises(type(error)) as caught:
        call()
    item: Any = SimpleNamespace(
        config=SimpleNamespace(getoption=lambda _name, default: full_trace or default)
    )
    hook = Redacting().pytest_runtest_makereport(item, SimpleNamespace(excinfo=caught))  # type: ignore[arg-type]
    next(hook)
    report: Any = SimpleNamespace(failed=True, sections=[])
    with pytest.raises(StopIteration):
        hook.send(report)
    return [title for title, _ in report.sections]


def test_an_error_of_a_library_is_told_with_the_calls_it_came_through() -> None:
    assert sections(ValueError("x")) == [SECTION]


def test_an_error_that_explains_itself_is_told_without_them() -> None:
    error = AuthorizationError("Keystone refused the credentials")
    assert sections(error) == []
    assert sections(error, full_trace=True) == [SECTION]
