"""Helpers of the generic tests that look into an image, without a guest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import pytest

from .findings import refusal

if TYPE_CHECKING:
    from pytest_dibctl import ImageTree, Result


@pytest.fixture
def refuse(variable: Callable[..., str]) -> Callable[..., None]:
    """Fail with a list: ``refuse(what, found, allowed)``.

    ``found`` are names in the image, with a note after a colon if there is one; ``allowed`` names the one of
    the ``environment_variables`` that holds patterns, between blanks, of names that are there on purpose.
    """

    def check(what: str, found: Iterable[str], allowed: str) -> None:
        __tracebackhide__ = True
        if said := refusal(what, found, allowed, variable(allowed).split()):
            pytest.fail(said, pytrace=False)

    return check


@pytest.fixture
def has_program(image_tree: ImageTree) -> Callable[[str], bool]:
    """Tell whether the image has a program: ``has_program(name)``."""

    def look(name: str) -> bool:
        return any(
            image_tree.path(f"{folder}/{name}").is_file()
            for folder in ("/usr/bin", "/usr/sbin", "/bin", "/sbin")
        )

    return look


@pytest.fixture
def run_inside(image_tree: ImageTree) -> Callable[..., Result]:
    """Run a shell command of the image in its files: ``run_inside(command, timeout=120)``, in seconds."""
    from pytest_dibctl import run_command

    def run(command: str, *, timeout: float = 120) -> Result:
        __tracebackhide__ = True
        argv = image_tree.command(["/bin/sh", "-c", command])
        return run_command(argv, check=False, join_stderr=True, timeout=timeout)

    return run
