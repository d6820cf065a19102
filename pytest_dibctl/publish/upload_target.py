"""One environment of an upload: its present images, the plan, and the upload itself."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator

from pytest_dibctl.clouds.file_body import FileBody, SharedFile
from pytest_dibctl.clouds.regions import Region
from pytest_dibctl.config import interpolate, templates
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.upload import UploadEnvironment
from pytest_dibctl.errors import CommandError, DibctlError, StoppedError
from pytest_dibctl.image import artifact as files
from pytest_dibctl.image.artifact import Artifact
from pytest_dibctl.publish.desired import UNPROVEN, Conversion, Wanted, unproven, wanted
from pytest_dibctl.publish.jobs import Jobs
from pytest_dibctl.publish.replace import Found, Work, look, replace
from pytest_dibctl.publish.upload_request import Outcome, Request, Result
from pytest_dibctl.system import process


class Target:
    """An environment on its way, and its region, which ``close`` closes.

    ``result`` is None until nothing more is to be done; an error of a step becomes the result. ``begun`` says
    that something may have been changed there. One thread at a time calls a target.
    """

    def __init__(self, request: Request, environment: Entry[UploadEnvironment], jobs: Jobs) -> None:
        self.label = environment.label
        self.result: Result | None = None
        self.begun = False
        self._request = request
        self._environment = environment
        self._jobs = jobs
        self._wanted: Wanted | None = None
        self._region: Region | None = None
        self._found: Found | None = None
        self._seconds = 0.0

    @property
    def conversion(self) -> Conversion | None:
        """How the environment's file is made of the built one, None if it gets the built one."""
        return self._wanted.conversion if self._wanted is not None else None

    @property
    def needs_file(self) -> bool:
        """Whether bytes are to be sent: not if the image was current already when it was looked up."""
        return self._found is None or self._found.same is None

    def close(self) -> None:
        """Close the region."""
        if self._region is not None:
            self._region.close()

    def survey(self) -> None:
        """Find the desired and the present images; nothing is changed."""
        with self._judged():
            templates.require_upload(self._environment)
            self._wanted = wanted(self._request.image, self._environment, self._request.built)
            if not self._environment.settings.external_upload:
                self._region = self._request.open_region(self._environment)
                self._found = look(self._region, self._wanted, obsolete=self._request.obsolete)

    def send(self, file: Artifact | None, stream: SharedFile | None) -> None:
        """Upload ``file``, of which ``stream`` gives the bytes; None of both where none is needed."""
        with self._judged():
            self._jobs.go_on()
            if file is not None and file.unproven:
                assert self._wanted is not None
                self._wanted = unproven(self._wanted, self._environment, file)
            self.begun = True
            if self._region is None:
                assert file is not None
                self._run_external(file)
                self.result = Result(environment=self.label, outcome="external")
            else:
                self.result = self._replace(self._region, file, stream)

    def fail(self, error: DibctlError) -> None:
        """Make an error the result."""
        outcome: Outcome = "failed"
        if isinstance(error, StoppedError):
            outcome = "left" if getattr(error, "__notes__", ()) else "undone" if self.begun else "not begun"
        self.result = Result(environment=self.label, outcome=outcome, error=error)

    def report(self) -> Result:
        """Return the result; without one the upload was interrupted, and was cut off if it had begun."""
        interrupted = Result(
            environment=self.label,
            outcome="left" if self.begun else "not begun",
            error=StoppedError("interrupted"),
        )
        return self._completed(self.result or interrupted)

    def plan(self) -> Result:
        """Return the plan of ``send``, or the error of ``survey``."""
        return self._completed(self.result or self._planned())

    def _planned(self) -> Result:
        described = self.conversion.described if self.conversion else None
        if self._found is None:
            return Result(environment=self.label, outcome="external", conversion=described)
        same, older = self._found.same, self._found.older if self._request.obsolete else ()
        return Result(
            environment=self.label,
            outcome="unchanged" if same else "uploaded",
            image_id=same.id if same else None,
            obsoleted=tuple(image.id for image in older),
            conversion=None if same else described,
        )

    def _completed(self, result: Result) -> Result:
        tested = self._wanted.tested if self._wanted is not None else None
        tested = None if tested == UNPROVEN else tested
        return dataclasses.replace(result, seconds=self._seconds, tested=tested)

    @contextlib.contextmanager
    def _judged(self) -> Iterator[None]:
        """Make an error of the block the result, and add the block's time to the target's."""
        started = time.monotonic()
        try:
            yield
        except DibctlError as error:
            self.fail(error)
        finally:
            self._seconds += time.monotonic() - started

    # -- an image of Glance ------------------------------------------------------------------------

    def _replace(self, region: Region, file: Artifact | None, stream: SharedFile | None) -> Result:
        assert self._wanted is not None
        image = self._wanted
        if file is not None and file.kernel is None:  # a converted file boots without the built one's kernel
            image = dataclasses.replace(image, companions=())
        replaced = replace(
            Work(
                region=region,
                wanted=image,
                content=lambda: self._feed(image, stream),
                obsolete=self._request.obsolete,
                tell=self._say,
                go_on=self._jobs.go_on,
            )
        )
        return Result(
            environment=self.label,
            outcome="uploaded" if replaced.uploaded else "unchanged",
            image_id=replaced.image.id,
            obsoleted=tuple(image.id for image in replaced.obsoleted),
            pending=replaced.pending,
        )

    def _feed(self, image: Wanted, stream: SharedFile | None) -> FileBody:
        """Return the bytes to send; the upload's deadline counts from now.

        Raises DibctlError without a stream: the image that ``survey`` found was removed since.
        """
        if stream is None:
            raise DibctlError(
                f"the image that {self.label} had is gone since this run looked", hint="upload again"
            )
        total = stream.size
        return FileBody(
            stream,
            deadline=time.monotonic() + image.timeout,
            go_on=self._jobs.go_on,
            sent=lambda done: self._request.watch.sent(self.label, done, total),
        )

    # -- external_upload ---------------------------------------------------------------------------

    def _run_external(self, file: Artifact) -> None:
        """Run the environment's own commands, which upload the file; raises CommandError."""
        assert self._wanted is not None
        spec = self._wanted.spec
        names = {
            "input_filename": str(self._request.built.path),
            "output_filename": str(file.path),
            "disk_format": spec.disk_format,
            "container_format": spec.container_format,
            "label": self._request.image.label,
            "name": spec.name,
        }
        places = [
            (self._environment.at(templates.upload_key(number)), command.cmdline)
            for number, command in enumerate(self._environment.settings.external_upload)
        ]
        # All are made ready before the first one runs.
        ready = [(where, interpolate.command(cmdline, names, where)) for where, cmdline in places]
        for where, argv in ready:
            self._jobs.go_on()
            # The command sends the file by itself, so both are read here before and after.
            built = self._request.built
            with files.unchanged(built.path, built.sha512), files.unchanged(file.path, file.sha512):
                self._run_command(argv, where, timeout=self._wanted.timeout)

    def _run_command(self, argv: list[str], where: str, *, timeout: float) -> None:
        self._say(f"running {process.command_line(argv)}")
        try:
            process.run(
                process.die_with_parent(argv),
                cwd=self._request.cwd,
                timeout=timeout,
                on_line=self._say,
                stopped=self._jobs.stopped,
            )
        except CommandError as error:
            if self._jobs.stopped.is_set():
                stopped = StoppedError(f"{where}: interrupted")
                stopped.add_note("what the command had uploaded by then is not known here")
                raise stopped from None
            raise CommandError(f"{where}: {error.message}", hint=error.hint) from None

    def _say(self, line: str) -> None:
        self._request.watch.say(self.label, line)
