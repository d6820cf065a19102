"""The files of an image, opened for the tests of them, and whether one of these tests failed.

No process of the run boots an image whose content failed its tests.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

from pytest_dibctl.errors import DibctlError, ExitCode
from pytest_dibctl.image import preflight, tree
from pytest_dibctl.image.artifact import Artifact
from pytest_dibctl.image.tree import ImageTree
from pytest_dibctl.run.run_state import RunState
from pytest_dibctl.run.target_run import TargetRun, disk_errors
from pytest_dibctl.system.text import file_name


@contextlib.contextmanager
def file_tree(target_run: TargetRun, built: Artifact) -> Iterator[ImageTree]:
    """Open the content of the image's file read-only, without a guest.

    Raises PreflightError where this machine lacks something, ArtifactError for an image without a root
    filesystem.
    """
    preflight.for_trees(target_run.image)
    name = f"{file_name(target_run.label)}-{uuid.uuid4().hex[:6]}"
    directory = target_run.ledger.directory / f"tree-{name}"
    record = target_run.record_local("tree", name, directory=str(directory))
    opening = contextlib.ExitStack()
    try:
        with target_run.phase("tree"), disk_errors():
            opened_tree = opening.enter_context(tree.opened(built, directory))
        for note in opened_tree.notes:
            target_run.progress(note)
        yield opened_tree
    finally:
        with target_run.removal(record.resource, record):
            opening.close()


def mark_content_failed(run_state: RunState, image: str, test: str) -> None:
    """Note, for all processes of the run, that ``test`` found fault with the image's content."""
    if run_state.get(_failure(image)) is None:
        run_state.put(_failure(image), test)


def refuse_failed_content(target_run: TargetRun) -> None:
    """Raise DibctlError for an image that is not to be booted, because its content failed a test."""
    test = target_run.run_state.get(_failure(target_run.label))
    if test is not None:
        became = "booted in vain" if target_run.guest.booted_early else "not booted"
        error = DibctlError(
            f"{target_run.label} was {became}: the image's files failed {test}",
            hint="image entries are checked first; `-k` or a path selects tests without them",
            exit_code=ExitCode.TESTS_FAILED,
        )
        error.follows = str(test)
        raise error


def _failure(image: str) -> str:
    return f"content failed {image}"
