"""Projects whose runs have the other plugins; ``tox -e interop`` installs these."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest

from tests.plugin.conftest import Project, project

__all__ = ["project", "run", "warm"]

PLUGINS = (
    *("pytest-html", "allure-pytest", "pytest-cov", "pytest-sugar", "pytest-rerunfailures"),
    *("pytest-randomly", "pytest-asyncio", "pytest-bdd"),
)


@pytest.fixture(scope="session")
def warm() -> None:
    """Each run has an interpreter of its own, whose plugins are loaded as for a user."""


@pytest.fixture(scope="session", autouse=True)
def _all_plugins() -> None:
    installed = {dist.metadata["Name"].lower() for dist in importlib.metadata.distributions()}
    missing = [name for name in PLUGINS if name not in installed]
    if missing:
        pytest.fail(f"run this with tox -e interop; missing: {', '.join(missing)}", pytrace=False)


@pytest.fixture
def run(project: Project) -> Any:
    """Run pytest with every plugin on; returns the outcomes by kind, and all lines."""
    project.pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")

    def run_(*arguments: str, images: str | None = "all") -> pytest.RunResult:
        selection = (f"--dib-image={images}",) if images else ()
        return project.pytester.runpytest_subprocess("--color=no", *selection, *arguments)

    return run_
