"""What is in an image: its files, opened for the tests that look at them, and whether they found fault.

An image whose content failed its tests is not booted, by whatever process of the run.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

from pytest_dibctl.build import preflight
from pytest_dibctl.errors import DibctlError, ExitCode
from pytest_dibctl.image import tree
from pytest_dibctl.image.artifact import Artifact
from pytest_dibctl.image.tree import ImageTree
from pytest_dibctl.run import lifecycle
from pytest_dibctl.run.lifecycle import Journey
from pytest_dibctl.run.run_state import Shared


@contextlib.contextmanager
def file_tree(journey: Journey, built: Artifact) -> Iterator[ImageTree]:
    """Open the content of the image's file read-only, without a guest.

    Raises PreflightError where this machine lacks something, ArtifactError for an image without a root
    filesystem.
    """
    preflight.for_trees(journey.image)
    name = f"{lifecycle.file_name(journey.label)}-{uuid.uuid4().hex[:6]}"
    directory = journey.ledger.directory / f"tree-{name}"
    journey.guard()
    record = journey.ledger.record(
        "tree",
        name,
        directory=str(directory),
        image=journey.label,
        environment=journey.environment.label,
    )
    opening = contextlib.ExitStack()
    try:
        with journey.phase("tree"), lifecycle.disk_errors():
            opened_tree = opening.enter_context(tree.opened(built, directory))
        for note in opened_tree.notes:
            journey.progress(note)
        yield opened_tree
    finally:
        with journey.removal(f"file tree {name}", record):
            opening.close()


def spoil(shared: Shared, image: str, test: str) -> None:
    """Note, for all processes of the run, that ``test`` found fault with the image's content."""
    if shared.heard(_spoiled(image)) is None:
        shared.say(_spoiled(image), test)


def refuse_spoiled(journey: Journey) -> None:
    """Raise DibctlError for an image that is not to be booted, because its content failed a test."""
    test = journey.shared.heard(_spoiled(journey.label))
    if test is not None:
        raise DibctlError(
            f"{journey.label} was not booted: what is in the image failed {test}",
            hint="image entries are checked first; `-k` or a path selects tests without them",
            exit_code=ExitCode.TESTS_FAILED,
        )


def _spoiled(image: str) -> str:
    return f"spoiled {image}"
