"""From an entry of images.yaml to the image file it describes, built only when something has changed."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import fcntl
import logging
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from filelock import FileLock, Timeout

from pytest_dibctl.build import causes, dib, fingerprint, preflight
from pytest_dibctl.build.log import HEARTBEAT, Watcher
from pytest_dibctl.config import interpolate
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.errors import ArtifactError, BuildError, CommandError
from pytest_dibctl.guards import build_steps
from pytest_dibctl.guards.build_steps import Step
from pytest_dibctl.image import artifact
from pytest_dibctl.image.artifact import Artifact, Identity
from pytest_dibctl.system import process

log = logging.getLogger(__name__)

Policy = Literal["auto", "always", "never"]
Progress = Callable[[str], None]
Turn = Callable[[], contextlib.AbstractContextManager[object]]

POLL: Final = 0.2
"""Seconds between two looks at a running build's log, or at somebody else's lock."""

STOP_GRACE: Final = build_steps.GRACE + 10.0
"""Seconds that the guard has to end a build and to clean up after it."""

BUILD_STEP: Final = "prepare"
COMPRESS_STEP: Final = "compress"
EXTERNAL_STEP: Final = "external_build"

_NOT_STARTED: Final = (126, 127)
"""What a shell exits with when it cannot start a program."""

_SUFFIXES: Final = {"squashfs": "squash"}
"""Of the files that disk-image-create makes, where they differ from the type's name."""

_OUT: Final = "out"
_OWNER: Final = "owner"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildOutcome:
    """What ``build`` came to.

    ``seconds`` is what it took now, ``phases`` the seconds of each phase and ``scripts`` those of the
    costliest scripts, both of a build made now; ``log_file`` exists when there ever was a build here.
    """

    artifact: Artifact
    built: bool
    reason: str
    seconds: float
    phases: Mapping[str, float] = dataclasses.field(default_factory=dict)
    scripts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    log_file: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast:
    """What ``build`` would do: the file it is about, and a few words."""

    path: Path
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plan:
    """A build of ``image`` to ``target``, ready to run; ``building`` is its private directory."""

    image: Entry[Image]
    target: Path
    cwd: Path
    recipe: dib.Recipe | None
    components: Mapping[str, str]
    salt: str
    record: fingerprint.Record | None

    @property
    def building(self) -> Path:
        return self.target.with_name(f".{self.target.name}.building")

    @property
    def log_file(self) -> Path:
        return log_file(self.target)

    def outdated(self) -> str | None:
        return fingerprint.outdated(self.target, self.record, self.components)


def build(
    image: Entry[Image],
    *,
    policy: Policy = "auto",
    output: Path | None = None,
    cwd: Path | None = None,
    progress: Progress,
    turn: Turn = contextlib.nullcontext,
) -> BuildOutcome:
    """Return the image's file, built now if it must be.

    ``output`` replaces the configured filename; both are relative to ``cwd``. With ``never``, and for an
    image that says nothing of how it is built, the file must exist. ``turn`` is entered for a build only,
    and may wait until the machine can bear one more.

    Raises ArtifactError for a file that is missing or damaged, ConfigError and PreflightError for what
    can be told before a build, BuildError for a build that failed.
    """
    started = time.monotonic()
    cwd = Path.cwd() if cwd is None else cwd
    target = target_file(image, output, cwd)
    if policy == "never" or not _is_built_here(image.settings):
        reason = "used as it is" if _is_built_here(image.settings) else "built elsewhere"
        return BuildOutcome(
            artifact=_existing(target, image), built=False, reason=reason, seconds=time.monotonic() - started
        )
    plan = _plan(image, target, cwd)
    why = "asked to (--dib-build=always)" if policy == "always" else plan.outdated()
    if why is None:
        return _unchanged(plan, "unchanged since it was built", started)
    preflight.for_build(image, plan.recipe, target)
    with _locked(plan, progress):
        if policy == "auto":
            # Another run may have built it while this one waited; its record was not there before.
            plan = _plan(image, target, cwd)
            why = plan.outdated()
            if why is None:
                return _unchanged(plan, "another run has just built it", started)
        with turn():
            progress(f"building {target.name}: {why}")
            return _run(plan, why, progress, started)


def forecast(
    image: Entry[Image],
    *,
    policy: Policy = "auto",
    output: Path | None = None,
    cwd: Path | None = None,
) -> Forecast:
    """Say what ``build`` would do, without doing it.

    An image that is not built here is read, if it was never read before, to tell its digest.

    Raises what ``build`` raises before it starts.
    """
    cwd = Path.cwd() if cwd is None else cwd
    target = target_file(image, output, cwd)
    if policy == "never" or not _is_built_here(image.settings):
        if not target.exists():
            return Forecast(path=target, text="does not exist")
        return Forecast(path=target, text=f"used as it is, sha512 {artifact.inspect(target).sha512[:12]}")
    plan = _plan(image, target, cwd)
    reason = "asked to" if policy == "always" else plan.outdated()
    if reason is not None:
        return Forecast(path=target, text=f"to be built: {reason}")
    return Forecast(path=target, text=_with_digest(target, "unchanged"))


def _with_digest(target: Path, text: str) -> str:
    with contextlib.suppress(OSError):
        sha512 = artifact.known_digest(target, Identity.of(target))
        return f"{text}, sha512 {sha512[:12]}" if sha512 else text
    return text


def check_recipe(image: Entry[Image], cwd: Path) -> None:
    """Check what ``image`` says of its build, as ``build`` does before it starts, without building.

    Raises ConfigError or BuildError; nothing is said of an image that is built elsewhere.
    """
    recipe = _recipe(image, cwd)
    _external_steps(image, recipe, target_file(image, None, cwd))


def target_file(image: Entry[Image], output: Path | None, cwd: Path) -> Path:
    """Return where the image's file lies or will lie, absolute and without ``..``."""
    return Path(os.path.normpath(cwd.absolute() / (output or image.settings.filename)))


def log_file(target: Path) -> Path:
    """Return where the log of the last build of ``target`` lies, if there ever was one here."""
    return target.with_name(f"{target.name}.build.log")


def _is_built_here(settings: Image) -> bool:
    return settings.dib is not None or bool(settings.external_build)


def _existing(target: Path, image: Entry[Image]) -> Artifact:
    if not target.exists():
        raise ArtifactError(
            f"{image.at('filename')}: {target}: no such image file",
            hint=f"`dibctl build {image.label}` builds it"
            if _is_built_here(image.settings)
            else "the image has neither dib nor external_build: put the file there, or say how it is built",
        )
    return artifact.inspect(target)


def _plan(image: Entry[Image], target: Path, cwd: Path) -> _Plan:
    settings = image.settings
    recipe = _recipe(image, cwd)
    # For its errors: what is wrong with the commands is told before anything runs.
    _external_steps(image, recipe, target)
    record = fingerprint.load(target)
    salt = record.salt if record is not None else fingerprint.new_salt()
    components = fingerprint.components(recipe, settings.external_build, salt=salt, target=target.name)
    old = record.components if record is not None else {}
    files = fingerprint.arguments(settings.external_build, target=target, cwd=cwd, old=old)
    return _Plan(
        image=image,
        target=target,
        cwd=cwd,
        recipe=recipe,
        components={**components, **files},
        salt=salt,
        record=record,
    )


def _recipe(image: Entry[Image], cwd: Path) -> dib.Recipe | None:
    return dib.recipe(image, image.settings.dib, cwd) if image.settings.dib is not None else None


def _unchanged(plan: _Plan, reason: str, started: float) -> BuildOutcome:
    return BuildOutcome(
        artifact=artifact.inspect(plan.target),
        built=False,
        reason=reason,
        seconds=time.monotonic() - started,
        log_file=plan.log_file if plan.log_file.exists() else None,
    )


# -- one build at a time per file ------------------------------------------------------------------


@contextlib.contextmanager
def _locked(plan: _Plan, progress: Progress) -> Iterator[None]:
    """Hold the lock of the output file, waiting for whoever builds it now."""
    lock = FileLock(plan.target.with_name(f".{plan.target.name}.lock"), poll_interval=POLL)
    try:
        plan.target.parent.mkdir(parents=True, exist_ok=True)
        waited = 0.0
        while not lock.is_locked:
            try:
                lock.acquire(timeout=HEARTBEAT if waited else 0)
            except Timeout:
                progress(f"waiting for {_owner(plan.building)}, which builds {plan.target.name}")
                waited += HEARTBEAT
    except OSError as error:
        raise _unwritable(plan, error) from None
    try:
        yield
    finally:
        lock.release()


def _owner(building: Path) -> str:
    try:
        return (building / _OWNER).read_text()
    except OSError:
        return "another run"


def _unwritable(plan: _Plan, error: OSError) -> BuildError:
    return BuildError(
        f"{plan.image.at('filename')}: cannot write in {plan.target.parent}: {error.strerror}",
        hint="make it writable, or build elsewhere with --output",
    )


@contextlib.contextmanager
def _building_directory(plan: _Plan, progress: Progress) -> Iterator[int]:
    """Make the private directory of a build and remove it in the end; yield a descriptor that locks it.

    The lock passes to the build's guard, who may still be cleaning up after a run that died: whoever
    comes next waits for that.
    """
    building = plan.building
    try:
        _wait_for_guard(building, progress)
        build_steps.remove(building)
        for name in (build_steps.TMP, _OUT):
            (building / name).mkdir(parents=True)
        (building / _OWNER).write_text(f"process {os.getpid()} on {socket.gethostname()}")
        descriptor = os.open(building, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _unwritable(plan, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
        build_steps.remove(building)


def _wait_for_guard(building: Path, progress: Progress) -> None:
    try:
        descriptor = os.open(building, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        waited = 0.0
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waited:
                    progress("an earlier build was interrupted and is being cleaned up")
                waited += POLL
                time.sleep(POLL)
            else:
                return
    finally:
        os.close(descriptor)


# -- the build itself ------------------------------------------------------------------------------


def _run(plan: _Plan, reason: str, progress: Progress, started: float) -> BuildOutcome:
    watcher = Watcher(progress)
    with _building_directory(plan, progress) as lock:
        before = _identity(plan.target)
        steps = _steps(plan)
        with _fresh_log(plan) as sink:
            code = _guarded(plan, steps, sink=sink, lock=lock, watcher=watcher)
        if code != 0:
            raise _failed(plan, code, watcher, time.monotonic() - started)
        made = _made(plan, before)
        seconds = time.monotonic() - started
        _install(plan, made, seconds=seconds, phases=watcher.phases)
    return BuildOutcome(
        artifact=artifact.inspect(plan.target),
        built=True,
        reason=reason,
        seconds=time.monotonic() - started,
        phases=watcher.phases,
        scripts=watcher.expensive(),
        log_file=plan.log_file,
    )


def _steps(plan: _Plan) -> list[Step]:
    out = plan.building / _OUT
    steps = _dib_steps(plan, plan.recipe, out) if plan.recipe is not None else []
    return [*steps, *_external_steps(plan.image, plan.recipe, out / plan.target.name)]


def _external_steps(image: Entry[Image], recipe: dib.Recipe | None, file: Path) -> list[Step]:
    """Return the commands of external_build, which make or change ``file``; raises ConfigError."""
    types = recipe.options.types if recipe is not None else ("qcow2",)
    names = {
        "filename": str(file),
        "input_filename": str(file),
        "output_filename": str(file),
        "label": image.label,
        "container_format": image.settings.glance.container_format or "bare",
        "disk_format": image.settings.glance.disk_format or types[0],
    }
    return [
        Step(
            name=f"{EXTERNAL_STEP} {number + 1}",
            argv=tuple(interpolate.command(command.cmdline, names, image.at(_command_key(number)))),
        )
        for number, command in enumerate(image.settings.external_build)
    ]


def _command_key(number: int) -> str:
    return f"external_build[{number}].cmdline"


def _dib_steps(plan: _Plan, recipe: dib.Recipe, out: Path) -> list[Step]:
    """Return the commands that make ``out / target.name``.

    disk-image-create compresses with one thread. Its -u and a conversion by eight coroutines gave the
    same bytes to within 0.1 % in 17 s instead of 30 (1.8 GB on two cores, QEMU 7.2), zlib as before so
    that any QEMU and Glance can read them. ``--qemu-img-options compression_type=zstd`` in cli_options
    makes that 4 s, where QEMU is 5.1 or newer. Checksum files are of what disk-image-create wrote, so
    with them it has to do all by itself.
    """
    options = recipe.options
    stem = out / artifact.stem(plan.target).name
    suffix = plan.target.suffix.removeprefix(".")
    kind = suffix if suffix in options.types else options.types[0]
    compress = options.compress and kind == "qcow2" and not options.checksum
    argv = [dib.TOOL, *recipe.argv_options, *(["-u"] if compress else []), "-o", str(stem), *recipe.named]
    steps = [Step(name=BUILD_STEP, argv=tuple(argv), isolate=True)]
    made, wanted = f"{stem}.{_SUFFIXES.get(kind, kind)}", str(out / plan.target.name)
    if compress:
        plain = str(plan.building / f"uncompressed.{kind}")
        extra = ["-o", options.qemu_img_options] if options.qemu_img_options else []
        convert = ["qemu-img", "convert", "-c", "-m", "8", "-W", "-f", kind, "-O", kind, *extra]
        steps.append(Step(name=COMPRESS_STEP, argv=("mv", "--", made, plain)))
        steps.append(Step(name=COMPRESS_STEP, argv=(*convert, plain, wanted)))
        steps.append(Step(name=COMPRESS_STEP, argv=("rm", "--", plain)))
    elif made != wanted:
        steps.append(Step(name="rename", argv=("mv", "--", made, wanted)))
    return steps


@contextlib.contextmanager
def _fresh_log(plan: _Plan) -> Iterator[int]:
    """Put a new, empty log in the place of the last one and yield a descriptor that appends to it."""
    try:
        descriptor, name = tempfile.mkstemp(dir=plan.building)
        Path(name).chmod(0o644)
        Path(name).replace(plan.log_file)
    except OSError as error:
        raise _unwritable(plan, error) from None
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_APPEND)
        notes = plan.recipe.notes if plan.recipe is not None else ()
        with contextlib.suppress(OSError):
            os.write(descriptor, "".join(f"dibctl: {note}\n" for note in notes).encode())
        yield descriptor
    finally:
        os.close(descriptor)


def _guarded(plan: _Plan, steps: Sequence[Step], *, sink: int, lock: int, watcher: Watcher) -> int:
    """Run the steps, following their log; return the exit code, 128 + n after signal n."""
    argv = build_steps.command(steps, building=plan.building, grace=build_steps.GRACE)
    with plan.log_file.open(errors="replace") as reading:
        reading.seek(0, os.SEEK_END)
        try:
            with process.spawn(
                argv,
                # Unmarked: nobody may end it but its guard, which knows how.
                env={**_environment(plan), process.RUN: ""},
                cwd=plan.cwd,
                # The guard ends the build when this pipe closes, which it does however this process ends.
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                grace=STOP_GRACE,
            ) as guard:
                _follow(guard, reading.readline, watcher)
        except CommandError as error:
            raise BuildError(error.message, hint=error.hint) from None
        code = guard.returncode
    return code if code >= 0 else 128 - code


def _follow(guard: subprocess.Popen[str], readline: Callable[[], str], watcher: Watcher) -> None:
    partial = ""
    ended = False
    while True:
        while line := readline():
            partial += line
            if partial.endswith("\n"):
                watcher.feed(partial)
                partial = ""
        if ended:
            break
        watcher.tick()
        with contextlib.suppress(subprocess.TimeoutExpired):
            guard.wait(POLL)
            # What was written last is still to be read.
            ended = True
    watcher.feed(partial)
    watcher.finish()


def _environment(plan: _Plan) -> dict[str, str]:
    temporary = str(plan.building / build_steps.TMP)
    given = dict(plan.recipe.environment) if plan.recipe is not None else {}
    # DIB_QUIET: with --logfile, disk-image-create would say nothing here.
    return {"DIB_QUIET": "0", **given, "TMP_DIR": temporary, "TMPDIR": temporary}


def _failed(plan: _Plan, code: int, watcher: Watcher, seconds: float) -> BuildError:
    failure = watcher.failure()
    hint = causes.hint(failure.text, directory=plan.target.parent, recipe=plan.recipe)
    if code in _NOT_STARTED and (missing := _not_started(plan, failure.where)):
        said, what_next = missing
        return BuildError(f"{said}\nlog: {plan.log_file}", hint=hint or what_next, exit_code=code)
    ended = process.describe_exit(128 - code if code > 128 else code)  # noqa: PLR2004 -- a signal's number
    where = f" in {failure.where}" if failure.where else ""
    lines = list(failure.lines)
    if causes.cut_off(failure.text, plan.target.parent):
        lines.append(f"{causes.NO_SPACE}; the log is cut off, too")
    said = "".join(f"\n  {line}" for line in lines)
    return BuildError(
        f"{plan.image.at()}: the build {ended}{where} after {seconds:.0f} s{said}\nlog: {plan.log_file}",
        hint=hint,
        exit_code=code,
    )


def _not_started(plan: _Plan, where: str) -> tuple[str, str] | None:
    """Say that the program of the step ``where`` cannot be started, and what to do; None when it can."""
    for number, step in enumerate(_external_steps(plan.image, plan.recipe, plan.target)):
        if step.name != where:
            continue
        program, place = step.argv[0], plan.image.at(_command_key(number))
        if "/" not in program:
            if shutil.which(program, path=_environment(plan).get("PATH", process.tool_path())):
                return None
            return f"{place}: {program}: not found", "install it, or write where it lies"
        file = plan.cwd / program
        if not file.exists():
            return f"{place}: {program}: not found", f"commands run in {plan.cwd.absolute()}"
        if file.is_dir() or not os.access(file, os.X_OK):
            return f"{place}: {program}: is not executable", f"chmod +x {shlex.quote(str(file))}"
    return None


def _made(plan: _Plan, before: Identity | None) -> Path:
    """Return the file that the build made, checked to be whole."""
    made = plan.building / _OUT / plan.target.name
    if not made.exists() and plan.recipe is None and _identity(plan.target) not in (None, before):
        # An external command that does not use the name it is offered writes to the place itself.
        made = plan.target
    if not made.exists():
        found = ", ".join(sorted(path.name for path in made.parent.iterdir())) or "nothing"
        raise BuildError(
            f"{plan.image.at()}: the build ended well but made no {made.name}; it made: {found}\n"
            f"log: {plan.log_file}",
            hint="an external_build command has to write the file %(output_filename)s"
            if plan.image.settings.external_build
            else None,
        )
    try:
        artifact.verify(made)
    except ArtifactError as error:
        raise BuildError(
            f"{plan.image.at()}: the build made a file that is no image: {error.message}"
        ) from None
    return made


def _install(plan: _Plan, made: Path, *, seconds: float, phases: Mapping[str, float]) -> None:
    """Move what was built into place, the image itself last, then note how it was built."""
    try:
        sha512 = artifact.compute_digest(made)
        moved = [] if made == plan.target else sorted(path for path in made.parent.iterdir() if path != made)
        for path in moved:
            _replace(path, plan.target.with_name(path.name))
        _remove_stale_companions(plan, {path.name for path in moved})
        if made != plan.target:
            _replace(made, plan.target)
        companions = _companions(plan.target)
        record = fingerprint.Record(
            salt=plan.salt,
            components={**_made_besides(plan), **plan.components},
            file=Identity.of(plan.target),
            sha512=sha512,
            companions=companions,
            companion_sha512={
                suffix: artifact.compute_digest(artifact.companion(plan.target, suffix))
                for suffix in companions
            },
            seconds=seconds,
            phases=phases,
            finished=dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        fingerprint.save(plan.target, record)
    except OSError as error:
        raise _unwritable(plan, error) from None


def _made_besides(plan: _Plan) -> dict[str, str]:
    """Return the files that commands name and that only the build has made, marked as such.

    One that was there keeps the digest it had before the build: an edit in the meantime is noticed.
    """
    files = fingerprint.arguments(
        plan.image.settings.external_build, target=plan.target, cwd=plan.cwd, old=plan.components
    )
    return {name: fingerprint.MADE for name in files if name not in plan.components}


def _replace(source: Path, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    source.replace(target)


def _companions(target: Path) -> dict[str, Identity]:
    found = {suffix: _identity(artifact.companion(target, suffix)) for suffix in artifact.COMPANIONS}
    return {suffix: identity for suffix, identity in found.items() if identity is not None}


def _remove_stale_companions(plan: _Plan, moved: set[str]) -> None:
    """Remove kernel and initrd of the last build if this one made none: they would be booted with it."""
    for suffix in plan.record.companions if plan.record is not None else ():
        file = artifact.companion(plan.target, suffix)
        if file.name not in moved:
            file.unlink(missing_ok=True)


def _identity(path: Path) -> Identity | None:
    try:
        return Identity.of(path)
    except OSError:
        return None
