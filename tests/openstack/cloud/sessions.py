"""One cloud for all test processes here: the first to need it starts it, the last to leave ends it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from pytest_dibctl.system import process
from tests.openstack.cloud import lanes, lifecycle
from tests.openstack.cloud.devcloud import DevCloud
from tests.openstack.cloud.layout import REPOSITORY, Layout

log = logging.getLogger(__name__)

START_TIMEOUT = 1800
"""Seconds for everything, the installation of the services' Python packages included."""


@contextlib.contextmanager
def using(layout: Layout, *, keep: bool) -> Iterator[DevCloud]:
    """Return a cloud, and a lane of it that nobody else has, for the time of the block.

    A cloud that was started here ends with the last session that uses it, unless ``keep``; one that ran
    before stays. Raises CommandError, with what was said, when it cannot be started.
    """
    with _lock(layout):
        _up(layout)
        mine = layout.users / str(os.getpid())
        mine.write_text(str(lifecycle.Process.of(os.getpid())))
    try:
        with lanes.claimed(layout) as lane:
            yield DevCloud(directory=layout.base, clouds_yaml=lanes.clouds_yaml(layout, lane), lane=lane)
    finally:
        mine.unlink(missing_ok=True)
        end_unused(layout, keep=keep)


def end_unused(layout: Layout, *, keep: bool) -> None:
    """End a cloud that a test process started and that none uses any more, unless ``keep``."""
    with _lock(layout):
        if _ours(layout).exists() and not keep and not _users(layout):
            lifecycle.down(layout)


def _lock(layout: Layout) -> FileLock:
    layout.base.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(layout.base.with_name(f"{layout.base.name}-sessions.lock"))


def _up(layout: Layout) -> None:
    if lifecycle.status(layout) == "up":
        return
    # In a process of its own: the cloud is nobody's child, and inherits nothing of a test session.
    argv = [sys.executable, "-m", "tests.openstack.cloud", "up", "--directory", str(layout.base)]
    process.run(argv, cwd=REPOSITORY, timeout=START_TIMEOUT, on_line=log.info)
    _ours(layout).touch()


def _ours(layout: Layout) -> Path:
    """Return the mark of a cloud that a test session started."""
    return layout.run / "started-by-tests"


def _users(layout: Layout) -> list[Path]:
    """Return the notes of test processes that still run."""
    return [
        note
        for note in layout.users.iterdir()
        if note.read_text() == str(lifecycle.Process.of(int(note.name)))
    ]
