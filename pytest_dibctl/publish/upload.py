"""One image to many environments at once: conversions shared, the file read once, each region for itself."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

from pytest_dibctl.clouds.regions import Region
from pytest_dibctl.config import interpolate
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models import Image, UploadEnvironment
from pytest_dibctl.errors import CommandError, DibctlError, ExitCode, StoppedError
from pytest_dibctl.image import artifact as files
from pytest_dibctl.image import preprocessing
from pytest_dibctl.image.artifact import Artifact
from pytest_dibctl.publish.desired import Conversion, Wanted, wanted
from pytest_dibctl.publish.jobs import Job, finish, start, wait
from pytest_dibctl.publish.replace import Found, Replaced, Work, look, replace
from pytest_dibctl.publish.stream import Feed, Stream
from pytest_dibctl.publish.upload_request import Request, Result
from pytest_dibctl.system import process, signals


class UploadInterrupted(KeyboardInterrupt):
    """An upload was interrupted; ``results`` say what had become of each environment by then."""

    def __init__(self, reason: str, results: Sequence[Result]) -> None:
        super().__init__(reason)
        self.results = results


WORDS = signals.Words(
    doing="undoing what does not show yet, and finishing what does, in",
    after="`dibctl upload` again finishes or removes what is left there, and `dibctl list` shows it",
)


def exit_code(results: Sequence[Result]) -> int:
    """Return the code of the first environment that failed, 0 if none did."""
    return next((int(result.error.exit_code) for result in results if result.error), int(ExitCode.OK))


def plan(request: Request) -> list[Result]:
    """Return what an upload would do, having looked at every region and changed nothing."""
    with _Upload(request) as upload:
        return upload.plan()


def upload(request: Request) -> list[Result]:
    """Upload an image, and return what came of each environment, in their order.

    What goes wrong in one does not concern the others. An interruption stops all of them: where the new image
    does not show yet it is removed, where it does the older ones still make place. It is raised again, as
    UploadInterrupted, once that is done, or somebody insists and it is given up.
    """
    with _Upload(request) as running, signals.undertaking(WORDS, running.busy):
        try:
            return running.run()
        except KeyboardInterrupt as stop:
            raise UploadInterrupted(str(stop), running.so_far()) from None


@dataclasses.dataclass(kw_only=True)
class _Target:
    """An environment on its way; ``result`` is there once nothing more is to be done.

    ``begun`` says that something may have been changed there.
    """

    environment: Entry[UploadEnvironment]
    wanted: Wanted | None = None
    region: Region | None = None
    found: Found | None = None
    result: Result | None = None
    begun: bool = False
    seconds: float = 0.0

    @property
    def label(self) -> str:
        return self.environment.label

    @property
    def external(self) -> bool:
        return bool(self.environment.settings.external_upload)

    @property
    def conversion(self) -> Conversion | None:
        return self.wanted.conversion if self.wanted is not None else None

    @contextlib.contextmanager
    def judged(self) -> Iterator[None]:
        """Make an error of the block this target's result, and charge it the time."""
        started = time.monotonic()
        try:
            yield
        except DibctlError as error:
            self.failed(error)
        finally:
            self.seconds += time.monotonic() - started

    def failed(self, error: DibctlError) -> None:
        outcome = "failed"
        if isinstance(error, StoppedError):
            outcome = "left" if getattr(error, "__notes__", ()) else "undone" if self.begun else "not begun"
        self.result = Result(environment=self.label, outcome=outcome, error=error)


class _Upload:
    """The state of one upload; leaving the block closes the regions."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._targets = [_Target(environment=environment) for environment in request.environments]
        self._stopped = threading.Event()
        self._jobs: list[Job] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if not all(job.ended for job in self._jobs):
            return  # given up: a login is not closed under whoever still uses it
        for target in self._targets:
            if target.region is not None:
                target.region.close()

    def plan(self) -> list[Result]:
        self._survey()
        return [self._judged(target, target.result or self._planned(target)) for target in self._targets]

    def run(self) -> list[Result]:
        self._survey()
        waiting = [target for target in self._targets if target.result is None]
        self._all([functools.partial(self._group, group) for group in _groups(waiting)])
        return [self._judged(target, target.result) for target in self._targets if target.result is not None]

    def busy(self) -> list[str]:
        """Return the environments in which something may have been changed and is not at its end."""
        return [target.label for target in self._targets if target.begun and target.result is None]

    def so_far(self) -> list[Result]:
        """Return what came of each environment, when no more will come of any."""
        return [
            self._judged(
                target,
                target.result
                or Result(
                    environment=target.label,
                    outcome="left" if target.begun else "not begun",
                    error=StoppedError("interrupted"),
                ),
            )
            for target in self._targets
        ]

    @staticmethod
    def _judged(target: _Target, result: Result) -> Result:
        tested = target.wanted.tested if target.wanted is not None else None
        return dataclasses.replace(result, seconds=target.seconds, tested=tested)

    # -- looking -------------------------------------------------------------------------------

    def _survey(self) -> None:
        # Nothing is changed by looking: nobody has to wait for the end of that.
        self._all([functools.partial(self._look, target) for target in self._targets], undo=False)

    def _look(self, target: _Target) -> None:
        with target.judged():
            target.wanted = wanted(self._request.image, target.environment, self._request.built)
            if not target.external:
                target.region = self._request.open_region(target.environment)
                target.found = look(target.region, target.wanted)

    def _planned(self, target: _Target) -> Result:
        assert target.wanted is not None
        described = target.conversion.described if target.conversion else None
        if target.found is None:
            return Result(environment=target.label, outcome="external", conversion=described)
        same, older = target.found.same, target.found.older if self._request.obsolete else ()
        return Result(
            environment=target.label,
            outcome="unchanged" if same else "uploaded",
            image_id=same.id if same else None,
            obsoleted=tuple(image.id for image in older),
            conversion=None if same else described,
        )

    # -- doing ---------------------------------------------------------------------------------

    def _group(self, group: Sequence[_Target]) -> None:
        """Upload to the environments that get the same file, made now if it must be."""
        there = [target for target in group if target.found is not None and target.found.same is not None]
        # They need no file, and no conversion.
        self._together([functools.partial(self._send, target, None, None) for target in there])
        needing = [target for target in group if target not in there]
        if not needing:
            return
        try:
            with (
                self._file(needing) as file,
                contextlib.closing(Stream(file.path, sha512=file.sha512)) as stream,
            ):
                self._together([functools.partial(self._send, target, file, stream) for target in needing])
        except DibctlError as error:
            # A command that makes the file fails when it is stopped.
            error = StoppedError("interrupted") if self._stopped.is_set() else error
            for target in needing:
                if target.result is None:
                    target.failed(error)

    @contextlib.contextmanager
    def _file(self, group: Sequence[_Target]) -> Iterator[Artifact]:
        conversion, built = group[0].conversion, self._request.built
        if conversion is None:
            yield built
            return
        with preprocessing.preprocessed(
            built,
            conversion.settings,
            disk_format=conversion.disk_format,
            container_format=conversion.container_format,
            where=conversion.where,
            cwd=self._request.cwd,
            progress=lambda line: self._request.watch.say(", ".join(one.label for one in group), line),
            stopped=self._stopped,
        ) as made:
            yield made

    def _send(self, target: _Target, file: Artifact | None, stream: Stream | None) -> None:
        with target.judged():
            self._go_on()
            target.begun = True
            if target.external:
                assert file is not None
                self._external(target, file.path)
                return
            assert target.region is not None
            assert target.wanted is not None
            what = target.wanted
            if file is not None and file.kernel is None:  # what was made of it boots by itself
                what = dataclasses.replace(what, companions=())
            replaced = replace(self._work(target, target.region, what, stream))
            target.result = _result(target.label, replaced)

    def _work(self, target: _Target, region: Region, what: Wanted, stream: Stream | None) -> Work:
        watch = self._request.watch

        def content() -> Feed:
            # Without a stream the image was there a moment ago, and somebody has removed it since.
            nonlocal stream
            if stream is None:
                raise DibctlError(
                    f"the image that {target.label} had is gone since this run looked", hint="upload again"
                )
            total = stream.size
            return Feed(
                stream,
                deadline=time.monotonic() + what.timeout,
                go_on=self._go_on,
                sent=lambda done: watch.sent(target.label, done, total),
            )

        return Work(
            region=region,
            wanted=what,
            content=content,
            obsolete=self._request.obsolete,
            tell=lambda line: watch.say(target.label, line),
            go_on=self._go_on,
        )

    def _external(self, target: _Target, file: Path) -> None:
        """Have the environment's own commands upload the file."""
        assert target.wanted is not None
        spec = target.wanted.spec
        names = {
            "input_filename": str(self._request.built.path),
            "output_filename": str(file),
            "disk_format": spec.disk_format,
            "container_format": spec.container_format,
            "label": self._request.image.label,
            "name": spec.name,
        }
        for number, command in enumerate(target.environment.settings.external_upload):
            self._go_on()
            where = target.environment.at(f"external_upload[{number}].cmdline")
            argv = interpolate.command(command.cmdline, names, where)
            self._request.watch.say(target.label, f"running {process.command_line(argv)}")
            try:
                process.run(
                    process.die_with_parent(argv),
                    cwd=self._request.cwd,
                    timeout=target.wanted.timeout,
                    on_line=lambda line: self._request.watch.say(target.label, line),
                    stopped=self._stopped,
                )
            except CommandError as error:
                if self._stopped.is_set():
                    stopped = StoppedError(f"{where}: interrupted")
                    stopped.add_note("what the command had uploaded by then is not known here")
                    raise stopped from None
                raise CommandError(f"{where}: {error.message}", hint=error.hint) from None
        target.result = Result(environment=target.label, outcome="external")

    # -- threads -------------------------------------------------------------------------------

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise StoppedError("interrupted")

    def _all(self, calls: Sequence[Callable[[], None]], *, undo: bool = True) -> None:
        """Make calls side by side; an interruption stops them, and is raised once they have put things back.

        Without ``undo`` there is nothing to be put back, and it is raised at once.
        """
        jobs = [Job(call) for call in calls]
        self._jobs += jobs
        try:
            # An interruption of a thread's start could leave it neither begun nor ended.
            with signals.held():
                start(jobs)
            finish(jobs)
        except BaseException:
            self._stopped.set()
            if undo:
                with signals.held():
                    wait(jobs)
            raise

    def _together(self, calls: Sequence[Callable[[], None]]) -> None:
        """Make calls side by side, in a thread that no interruption reaches."""
        jobs = [Job(call) for call in calls]
        self._jobs += jobs
        start(jobs)
        finish(jobs)


def _groups(targets: Sequence[_Target]) -> list[list[_Target]]:
    """Return the targets by the file that they get."""
    groups: dict[str, list[_Target]] = {}
    for target in targets:
        key = target.conversion.key if target.conversion is not None else ""
        groups.setdefault(key, []).append(target)
    return list(groups.values())


def _result(label: str, replaced: Replaced) -> Result:
    return Result(
        environment=label,
        outcome="uploaded" if replaced.uploaded else "unchanged",
        image_id=replaced.image.id,
        obsoleted=tuple(image.id for image in replaced.obsoleted),
        pending=replaced.pending,
    )


def file_of(image: Entry[Image], given: Path | None, cwd: Path) -> Artifact:
    """Return the file to upload: ``given``, else the image's; raises ArtifactError. Nothing is built."""
    return files.inspect(cwd / (given if given is not None else image.settings.filename))
