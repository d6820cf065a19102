"""One image to many environments at once.

Environments that need the same file share its conversion, and one read of it. Each region has a
thread, so none waits for another.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from pytest_dibctl.clouds.file_body import SharedFile
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.errors import DibctlError, StoppedError
from pytest_dibctl.image import artifact as files
from pytest_dibctl.image import preprocessing, published
from pytest_dibctl.image.artifact import Artifact
from pytest_dibctl.publish.jobs import Jobs
from pytest_dibctl.publish.upload_request import Request, Result
from pytest_dibctl.publish.upload_target import Target
from pytest_dibctl.system import signals

log = logging.getLogger(__name__)


class UploadInterrupted(KeyboardInterrupt):
    """An upload was interrupted; ``results`` are the outcomes for the environments by then."""

    def __init__(self, reason: str, results: Sequence[Result]) -> None:
        super().__init__(reason)
        self.results = results


WORDS = signals.Words(
    doing="undoing what does not show yet, and finishing what does, in",
    after="`dibctl upload` again finishes or removes what is left there, and `dibctl list` shows it",
)


def file_of(image: Entry[Image], given: Path | None, cwd: Path) -> Artifact:
    """Return the file to upload: ``given``, else the image's; raises ArtifactError. Nothing is built."""
    return files.inspect(cwd / (given if given is not None else image.settings.filename))


def plan(request: Request) -> list[Result]:
    """Look at every region, change nothing, and return the plan of an upload."""
    with _Upload(request) as upload:
        return upload.plan()


def upload(request: Request) -> list[Result]:
    """Upload an image, and return the outcome for each environment, in their order.

    An error in one environment is its result, and does not concern the others. An interruption stops all of
    them: a new image that is not visible yet is removed; a visible one still makes the older images obsolete.
    Then UploadInterrupted is raised, or at once after the signals that abandon the upload.
    """
    with _Upload(request) as running, signals.undertaking(WORDS, running.unfinished):
        try:
            results = running.run()
        except KeyboardInterrupt as stop:
            raise UploadInterrupted(str(stop), running.report()) from None
    _remember(request, results)
    return results


def _remember(request: Request, results: Sequence[Result]) -> None:
    """Record beside the file that it was published, for reports of later test runs."""
    environments = [result.environment for result in results if result.outcome in {"uploaded", "unchanged"}]
    try:
        published.remember(request.built.path, environments)
    except (OSError, DibctlError):
        log.warning("%s: the record of the upload could not be written", request.built.path, exc_info=True)


class _Upload:
    """The targets of one upload and their threads; leaving the block closes the regions."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._jobs = Jobs()
        self._targets = [Target(request, environment, self._jobs) for environment in request.environments]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if not self._jobs.ended:
            return  # the upload was abandoned: a thread may still use its region
        for target in self._targets:
            target.close()

    def plan(self) -> list[Result]:
        self._survey()
        return [target.plan() for target in self._targets]

    def run(self) -> list[Result]:
        self._survey()
        unfinished = [target for target in self._targets if target.result is None]
        self._jobs.run([functools.partial(self._upload, group) for group in _groups(unfinished)])
        return self.report()

    def unfinished(self) -> list[str]:
        """Return the environments in which something may have been changed and is not at its end."""
        return [target.label for target in self._targets if target.begun and target.result is None]

    def report(self) -> list[Result]:
        """Return the outcome for each environment, now that all work has ended."""
        return [target.report() for target in self._targets]

    def _survey(self) -> None:
        # Looking changes nothing, so an interruption does not wait for its end.
        self._jobs.run([target.survey for target in self._targets], undo=False)

    def _upload(self, group: Sequence[Target]) -> None:
        """Upload to environments that need the same file, which is made now if it must be converted."""
        current = [target for target in group if not target.needs_file]
        self._jobs.run_within([functools.partial(target.send, None, None) for target in current])
        needing = [target for target in group if target.needs_file]
        if not needing:
            return
        try:
            with (
                self._file(needing) as file,
                contextlib.closing(SharedFile(file.path, sha512=file.sha512)) as stream,
            ):
                self._jobs.run_within([functools.partial(target.send, file, stream) for target in needing])
        except DibctlError as error:
            # A command that makes the file fails when it is stopped.
            error = StoppedError("interrupted") if self._jobs.stopped.is_set() else error
            for target in needing:
                if target.result is None:
                    target.fail(error)

    @contextlib.contextmanager
    def _file(self, group: Sequence[Target]) -> Iterator[Artifact]:
        """Yield the file for a group: the built one, or a converted one, which is removed at the end."""
        conversion, built = group[0].conversion, self._request.built
        if conversion is None:
            yield built
            return
        labels = ", ".join(target.label for target in group)
        with preprocessing.preprocessed(
            built,
            conversion.settings,
            disk_format=conversion.disk_format,
            container_format=conversion.container_format,
            where=conversion.where,
            cwd=self._request.cwd,
            progress=lambda line: self._request.watch.say(labels, line),
            stopped=self._jobs.stopped,
        ) as converted:
            yield converted


def _groups(targets: Sequence[Target]) -> list[list[Target]]:
    """Return the targets by the file that they need."""
    groups: dict[str, list[Target]] = {}
    for target in targets:
        key = target.conversion.key if target.conversion is not None else ""
        groups.setdefault(key, []).append(target)
    return list(groups.values())
