"""Fixtures for tests that boot real containers: images, a bench to boot them on, a check for leftovers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_dibctl.image import artifact
from tests.nspawn.bench import Bench
from tests.qemu.conftest import (
    _no_leftovers,
    _test_leaves_nothing,
    micro_elements,
    micro_files,
    micro_variant,
    whole_disk,
)

__all__ = [
    "_no_leftovers",
    "_test_leaves_nothing",
    "micro_elements",
    "micro_files",
    "micro_variant",
    "whole_disk",
]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Return a function that makes a bench with settings of the ``nspawn`` section."""
    with contextlib.ExitStack() as stack:

        def make(**nspawn: object) -> Bench:
            made = Bench(tmp_path / "run", **nspawn)
            stack.callback(made.stack.close)
            return made

        yield make


@pytest.fixture(scope="session")
def plain(micro_files: Path) -> artifact.Artifact:
    """The micro image; never write to it."""
    return artifact.inspect(micro_files / "micro.qcow2")
