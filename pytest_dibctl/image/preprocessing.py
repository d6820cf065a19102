"""The command between a built image and its upload: an environment's ``preprocessing`` section.

It makes another file of the image, under the name that the section gives it. One run at a time works with
such a file; others wait until it is done with it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_dibctl.config import interpolate
from pytest_dibctl.config.models.command import Preprocessing
from pytest_dibctl.errors import ArtifactError, CommandError, ConfigError, PreprocessingError, StoppedError
from pytest_dibctl.image import artifact as images
from pytest_dibctl.image import formats
from pytest_dibctl.image.artifact import Artifact, Identity
from pytest_dibctl.system import files, locks, process
from pytest_dibctl.system.waiting import Every

log = logging.getLogger(__name__)

POLL = 0.2
"""Seconds between two looks at the lock of an output file, and at ``stopped``."""
HEARTBEAT = 30.0
"""Seconds between two lines of progress while another run has the file."""
LAST_LINES = 20
"""Lines of a failed command's output that are shown."""
PACKED = ("compressed", "ova")
"""Container formats of Glance whose files are archives."""
MIB = 1 << 20


@contextlib.contextmanager
def preprocessed(
    artifact: Artifact,
    settings: Preprocessing | None,
    *,
    disk_format: str,
    container_format: str,
    where: str,
    cwd: Path,
    progress: Callable[[str], None],
    stopped: threading.Event | None = None,
) -> Iterator[Artifact]:
    """Yield the file to upload: the output of the section's command; without a section, ``artifact`` itself.

    ``disk_format`` and ``container_format`` are those of the upload to Glance; ``where`` is the place of the
    section, for messages. The command runs in ``cwd``, which its output is relative to. The file that it made
    is removed when the block ends, unless ``settings`` says otherwise. A file that a failed or interrupted
    command left is removed. ``stopped`` interrupts it from another thread.

    With ``use_existing``, a file that is there is taken and never removed. It is ``unproven`` unless a record
    beside it says that this command made it of ``artifact``; a file that was made of another artifact is made
    again.

    Raises PreprocessingError when the command fails, or makes no image or one of another format than Glance
    is told, ConfigError for names that cannot be
    filled in.
    """
    if settings is None:
        yield artifact
        return
    command = interpolate.preprocessing(
        settings,
        input_filename=str(artifact.path),
        disk_format=disk_format,
        container_format=container_format,
        where=where,
    )
    job = _Job(
        source=artifact,
        argv=command.argv,
        output=cwd / command.output_filename,
        disk_format=disk_format,
        packed=container_format in PACKED,
        where=where,
        cwd=cwd,
        progress=progress,
        stopped=stopped,
    )
    job.refuse_what_cannot_work()
    with job.locked():
        existing = job.take() if settings.use_existing and job.is_whole() else None
        result = existing or job.make()
        try:
            yield result
        finally:
            if settings.delete_processed_after_upload and existing is None:
                job.remove()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """One command, ready to run, and the file it makes."""

    source: Artifact
    argv: tuple[str, ...]
    output: Path
    disk_format: str
    packed: bool
    where: str
    cwd: Path
    progress: Callable[[str], None]
    stopped: threading.Event | None = None

    @property
    def _unfinished(self) -> Path:
        """A file that is there while the command runs, and stays when this process is killed meanwhile."""
        return self.output.with_name(f".{self.output.name}.unfinished")

    def refuse_what_cannot_work(self) -> None:
        program = self.argv[0]
        if "/" not in program and shutil.which(program, path=process.tool_path()) is None:
            raise PreprocessingError(f"{self.where}: {program}: not found", hint="install it")
        if os.path.realpath(self.output) == os.path.realpath(self.source.path):
            raise ConfigError(
                f"{self.where}: output_filename: {self.output} is the image itself",
                hint='the built image stays as it was tested; write "%(input_filename)s.SUFFIX"',
            )
        if not self.output.parent.is_dir():
            raise PreprocessingError(
                f"{self.where}: output_filename: there is no folder {self.output.parent}",
                hint="make it first",
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the output file, waiting for the run that works with the file now.

        Raises PreprocessingError when no lock can be made there, StoppedError when ``stopped`` is set.
        """
        lock = self.output.with_name(f".{self.output.name}.lock")
        heartbeat = Every(HEARTBEAT)

        def tell() -> None:
            self._refuse_when_stopped()
            if heartbeat.is_due():
                self.progress(f"waiting for another run, which works with {self.output.name}")

        self._refuse_when_stopped()
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locks.exclusive(lock, mode=0o644, poll=POLL, while_waiting=tell))
            except OSError as error:
                raise self._unwritable(error) from None
            yield

    def _refuse_when_stopped(self) -> None:
        if self.stopped is not None and self.stopped.is_set():
            raise StoppedError("interrupted")

    def is_whole(self) -> bool:
        """Return whether the output is there, and whole: no run was killed while making it."""
        if self._unfinished.exists():
            self.progress(f"{self.output.name} was left unfinished by an earlier run and is made again")
            return False
        return self.output.exists()

    def take(self) -> Artifact | None:
        """Return the output that is there, None if it was made by this tool, but not of this image."""
        artifact = self._inspected(hint=f"remove it, or set use_existing to false ({self.where})")
        name, source = self.output.name, self.source.path.name
        record = self._read_record()
        if record is None or record.get("sha512") != artifact.sha512:
            self.progress(
                f"{name} is there already, and used; nothing shows that it was made of {source}, so no test "
                "run vouches for it"
            )
            return dataclasses.replace(artifact, unproven=True)
        if record != self._record_of(artifact):
            self.progress(f"{name} was made of another image or by another command, and is made again")
            return None
        self.progress(f"{name} is there already, made of {source}, and used")
        return artifact

    @property
    def _record(self) -> Path:
        return self.output.with_name(f".{self.output.name}.made")

    def _record_of(self, made: Artifact) -> dict[str, object]:
        """Return the record of an output: its source, its command, and its own identity."""
        return {"source": self.source.sha512, "command": list(self.argv), "sha512": made.sha512}

    def _read_record(self) -> dict[str, object] | None:
        """Return the record beside the output, None if there is none that can be read."""
        try:
            record = json.loads(self._record.read_text())
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def make(self) -> Artifact:
        """Run the command and return its output file."""
        before = Identity.if_any(self.output)
        started = time.monotonic()
        self.progress(f"preprocessing: {process.command_line(self.argv)}")
        try:
            self._unfinished.touch()
            with images.unchanged(self.source.path, self.source.sha512):
                self._execute()
            artifact = self._inspected(hint="the command has to write an image to %(output_filename)s")
            files.write_atomically(self._record, json.dumps(self._record_of(artifact)))
        except BaseException as error:
            if Identity.if_any(self.output) != before:
                self.remove()
            # Last: an interruption of the removal leaves a file that is known to be unfinished.
            self._unfinished.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise self._unwritable(error) from None
            raise
        self._unfinished.unlink(missing_ok=True)
        took = f"{time.monotonic() - started:.1f} s"
        self.progress(
            f"{self.output.name}: {artifact.size / MIB:.0f} MiB of {artifact.disk_format} in {took}"
        )
        return artifact

    def remove(self) -> None:
        """Remove the output."""
        try:
            self.output.unlink(missing_ok=True)
            self._record.unlink(missing_ok=True)
        except OSError as error:
            self.progress(f"{self.output} could not be removed: {error.strerror}")

    def _execute(self) -> None:
        last_lines: collections.deque[str] = collections.deque(maxlen=LAST_LINES)

        def keep(line: str) -> None:
            log.debug("preprocessing: %s", line)
            last_lines.append(line)

        # A command that outlived us would write to a file that another run makes by then.
        argv = process.die_with_parent(self.argv)
        try:
            result = process.run(
                argv, cwd=self.cwd, check=False, on_line=keep, credentials=True, stopped=self.stopped
            )
        except CommandError as error:
            raise self._failure(error.message) from None
        if result.returncode != 0:
            ended = f"{process.command_line(self.argv)} {process.describe_exit(result.returncode)}"
            raise self._failure("\n  ".join([ended, *last_lines]))

    def _inspected(self, *, hint: str) -> Artifact:
        try:
            artifact = images.inspect(self.output, packed=self.packed)
            if not self.packed:
                declared_by = "Glance's disk_format"
                formats.refuse_other(self.output, artifact.disk_format, self.disk_format, where=declared_by)
        except ArtifactError as error:
            raise PreprocessingError(f"{self.where}: {error.message}", hint=hint) from None
        # A whole disk made of a bare filesystem boots by itself.
        same_kind = artifact.layout in {self.source.layout, "unknown"}
        booted_by = self.source if same_kind else artifact
        return dataclasses.replace(artifact, kernel=booted_by.kernel, initrd=booted_by.initrd)

    def _unwritable(self, error: OSError) -> PreprocessingError:
        return self._failure(f"{error.filename or self.output}: {error.strerror or error}")

    def _failure(self, reason: str) -> PreprocessingError:
        return PreprocessingError(f"{self.where}: {reason}")
