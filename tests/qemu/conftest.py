"""Fixtures for tests that really build and really boot: the micro image, and a check for leftovers."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_dibctl.errors import DibctlError
from tests.support import leaks, micro, packages, plugins


@pytest.fixture(scope="session")
def micro_elements() -> Path:
    """The directory for ELEMENTS_PATH that has the micro element."""
    return micro.ELEMENTS


@pytest.fixture(scope="session")
def micro_variant(_no_leftovers: Path) -> Callable[[str], Path]:
    """Return a directory like ``micro_files``, with a variant of the image: "panic", "no-sshd", "mark"."""

    def get(name: str) -> Path:
        try:
            packages.require()
            return micro.cached(name)
        except DibctlError as error:
            pytest.fail(str(error), pytrace=False)

    return get


@pytest.fixture(scope="session")
def micro_files(micro_variant: Callable[[str], Path]) -> Path:
    """A directory with micro.qcow2, micro.vmlinuz and micro.initrd; never write there."""
    return micro_variant("plain")


@pytest.fixture(scope="session")
def whole_disk(micro_files: Path, tmp_path_factory: pytest.TempPathFactory) -> micro.WholeDisk:
    """The micro image as a disk with a boot loader and partitions; never write to it."""
    return micro.whole_disk(
        tmp_path_factory.mktemp("whole"),
        vmlinuz=micro_files / "micro.vmlinuz",
        initrd=micro_files / "micro.initrd",
        root=micro_files / "micro.qcow2",
    )


@pytest.fixture(scope="session", autouse=True)
def _no_leftovers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Fail when the session leaves a process, mount, loop device or temporary file behind.

    The session gets a temporary directory of its own, and a mark in its environment, so that what others
    do on this machine meanwhile is not taken for a leak.
    """
    tmp_path_factory.getbasetemp()  # stays where people look for it
    directory = Path(tempfile.mkdtemp(prefix="dt-")).resolve()
    session = uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(leaks.MARKER, session)
        patch.setenv("PYTEST_ADDOPTS", " ".join(plugins.without()))
        patch.setenv("TMPDIR", str(directory))
        patch.setenv("TMP_DIR", str(directory))  # diskimage-builder's name for it
        patch.setattr(tempfile, "tempdir", str(directory))
        yield directory
        found = leaks.settled(lambda: _left(session, directory))
        if not leaks.mounts(directory):
            shutil.rmtree(directory)
    _fail("the session", found)


@pytest.fixture(autouse=True)
def _test_leaves_nothing(_no_leftovers: Path) -> Iterator[None]:
    """Fail the test that leaves something behind which was not there before it."""
    session = os.environ[leaks.MARKER]
    before = _left(session, _no_leftovers)
    yield
    _fail("the test", leaks.settled(lambda: _left(session, _no_leftovers) - before))


def _left(session: str, directory: Path) -> set[str]:
    return {
        *(f"process {pid}: {line}" for pid, line in leaks.processes(session).items()),
        *(f"mount {point}" for point in leaks.mounts(directory)),
        *(f"loop device {device}" for device in leaks.loop_devices(directory)),
        *(f"file {path}" for path in leaks.files(directory)),
    }


def _fail(who: str, found: set[str]) -> None:
    if found:
        pytest.fail("\n".join([f"{who} left behind:", *sorted(found)]), pytrace=False)
