"""From an entry of images.yaml to the image file it describes, built only when something has changed."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from pytest_dibctl.build import elevation, execution, failure, layers, outputs, preflight
from pytest_dibctl.build.execution import POLL, Progress
from pytest_dibctl.build.log import HEARTBEAT, Watcher
from pytest_dibctl.build.plan import (
    Plan,
    checked_recipe,
    is_built_here,
    log_file,
    plan_for,
    target_file,
    unfinished_log,
)
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.errors import ArtifactError, DibctlError
from pytest_dibctl.image import artifact
from pytest_dibctl.image.artifact import Artifact, Identity
from pytest_dibctl.system import locks
from pytest_dibctl.system.waiting import Every

__all__ = [
    "BuildOutcome",
    "Forecast",
    "build",
    "check_machine",
    "check_recipe",
    "forecast",
    "log_file",
    "target_file",
    "unfinished_log",
]

Policy = Literal["auto", "always", "never"]
Turn = Callable[[], contextlib.AbstractContextManager[object]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildOutcome:
    """The outcome of ``build``.

    ``seconds`` is the time of this call. ``phases`` are the seconds of each phase and ``scripts`` those of
    the costliest scripts, both of a build in this call. ``log_file`` exists when there ever was a build here.
    ``started_after`` is the phase after which that build started with a kept tree, None for from nothing;
    ``start`` says why there.
    """

    artifact: Artifact
    built: bool
    reason: str
    seconds: float
    phases: Mapping[str, float] = dataclasses.field(default_factory=dict)
    scripts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    log_file: Path | None = None
    started_after: str | None = None
    start: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast:
    """The plan of ``build``: its file, and a few words."""

    path: Path
    text: str


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

    Raises ArtifactError for a missing or damaged file, ConfigError and PreflightError for errors that are
    known before a build, BuildError for a failed build.
    """
    started = time.monotonic()
    cwd = Path.cwd() if cwd is None else cwd
    target = target_file(image, output, cwd)
    if policy == "never" or not is_built_here(image.settings):
        reason = "used as it is" if is_built_here(image.settings) else "built elsewhere"
        return BuildOutcome(
            artifact=_existing(target, image), built=False, reason=reason, seconds=time.monotonic() - started
        )
    plan = plan_for(image, target, cwd)
    why = "asked to" if policy == "always" else plan.outdated()
    if why is None:
        return _unchanged(plan, "unchanged since it was built", started)
    preflight.for_build(image, plan.recipe, target)
    if elevation.is_needed(plan.recipe):
        with turn():
            return _as_root(plan, why, policy, progress)
    with _locked(plan, progress):
        if policy == "auto":
            # Another run may have built it while this one waited; its record was not there before.
            plan = plan_for(image, target, cwd)
            why = plan.outdated()
            if why is None:
                return _unchanged(plan, "another run has just built it", started)
        with turn():
            progress(f"building {target.name}: {why}")
            for warning in _warnings(plan):
                progress(f"warning: {warning}")
            return _run(plan, why, progress, started, clean=policy == "always")


def _as_root(plan: Plan, why: str, policy: Policy, progress: Progress) -> BuildOutcome:
    name = plan.target.name
    progress(f"building {name} as root, through sudo: {why}")
    if others := elevation.exposed(plan.target.parent):
        progress(
            f"warning: {others}, and could so run commands as root during the build; remove the permission "
            "with chmod, or build elsewhere with `dibctl build --output`"
        )

    def pass_on(line: str) -> None:
        if not line.startswith(f"building {name}: "):
            progress(line)

    made = elevation.build(plan.image, policy=policy, target=plan.target, cwd=plan.cwd, progress=pass_on)
    log = plan.log_file if plan.log_file.exists() else None
    return BuildOutcome(artifact=artifact.inspect(plan.target), log_file=log, **made)


def _warnings(plan: Plan) -> tuple[str, ...]:
    return (*plan.recipe.warnings, *preflight.guesses(plan.recipe)) if plan.recipe is not None else ()


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
    if policy == "never" or not is_built_here(image.settings):
        if not target.exists():
            return Forecast(path=target, text="does not exist")
        return Forecast(path=target, text=f"used as it is, sha512 {artifact.inspect(target).sha512[:12]}")
    plan = plan_for(image, target, cwd)
    reason = "asked to" if policy == "always" else plan.outdated()
    if reason is not None:
        return Forecast(path=target, text=f"to be built: {reason}")
    return Forecast(path=target, text=_with_digest(target, "unchanged"))


def _with_digest(target: Path, text: str) -> str:
    with contextlib.suppress(OSError):
        sha512 = artifact.known_digest(target, Identity.of(target))
        return f"{text}, sha512 {sha512[:12]}" if sha512 else text
    return text


def check_recipe(image: Entry[Image], cwd: Path) -> tuple[str, ...]:
    """Check what ``image`` says of its build, as ``build`` does before it starts, without building.

    Returns warnings about unexpected effects of a build. Raises ConfigError or BuildError; an image that is
    built elsewhere is not checked.
    """
    recipe = checked_recipe(image, target_file(image, None, cwd), cwd)
    return recipe.warnings if recipe is not None else ()


def check_machine(image: Entry[Image], cwd: Path) -> tuple[str, ...]:
    """Return a warning where this machine lacks programs that a build of ``image`` calls.

    A configuration is no less valid for that. An image that ``check_recipe`` refuses, or that is built
    elsewhere, gets no warning.
    """
    if not is_built_here(image.settings):
        return ()
    try:
        recipe = checked_recipe(image, target_file(image, None, cwd), cwd)
    except DibctlError:
        return ()
    lacking = preflight.lacking(image, recipe)
    return (lacking,) if lacking else ()


def _existing(target: Path, image: Entry[Image]) -> Artifact:
    if not target.exists():
        raise ArtifactError(
            f"{image.at('filename')}: {target}: no such image file",
            hint=f"`dibctl build {image.label}` builds it"
            if is_built_here(image.settings)
            else "the image has neither dib nor external_build: put the file there, or say how it is built",
        )
    return artifact.inspect(target)


def _unchanged(plan: Plan, reason: str, started: float) -> BuildOutcome:
    return BuildOutcome(
        artifact=artifact.inspect(plan.target),
        built=False,
        reason=reason,
        seconds=time.monotonic() - started,
        log_file=plan.log_file if plan.log_file.exists() else None,
    )


@contextlib.contextmanager
def _locked(plan: Plan, progress: Progress) -> Iterator[None]:
    """Hold the lock of the output file, waiting for the run that builds the file now."""
    lock = plan.target.with_name(f".{plan.target.name}.lock")
    heartbeat = Every(HEARTBEAT)

    def tell() -> None:
        if heartbeat.is_due():
            progress(f"waiting for {execution.owner(plan.building)}, which builds {plan.target.name}")

    with contextlib.ExitStack() as stack:
        try:
            plan.target.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locks.exclusive(lock, mode=0o644, poll=POLL, while_waiting=tell))
        except OSError as error:
            raise plan.unwritable(error) from None
        yield


def _run(plan: Plan, reason: str, progress: Progress, started: float, *, clean: bool) -> BuildOutcome:
    # Twice at most: a kept tree that proves unusable is out of the cache then.
    while (outcome := _attempt(plan, reason, progress, started, clean=clean)) is None:
        progress("the kept tree cannot be used and is removed; the build starts from nothing")
        clean = True
    return outcome


def _attempt(
    plan: Plan, reason: str, progress: Progress, started: float, *, clean: bool
) -> BuildOutcome | None:
    """Build once; return None when the kept tree that the build started with was unusable."""
    with (
        execution.building_directory(plan, progress) as lock,
        layers.session(plan, clean=clean, progress=progress) as session,
    ):
        expected = plan.record.phases if plan.record is not None else {}
        watcher = Watcher(progress, told=session.told, expected=expected)
        before = Identity.if_any(plan.target)
        code = execution.run(session.plan, watcher, lock=lock)
        if code != 0 and session.unusable:
            return None
        if code != 0:
            raise failure.failed(plan, code, watcher, time.monotonic() - started)
        made = outputs.made_by(plan, before=before)
        seconds = time.monotonic() - started
        outputs.install(plan, made, seconds=seconds, phases=watcher.phases)
        execution.keep_log(plan)
    return BuildOutcome(
        artifact=artifact.inspect(plan.target),
        built=True,
        reason=reason,
        seconds=time.monotonic() - started,
        phases=watcher.phases,
        scripts=watcher.expensive(),
        log_file=plan.log_file,
        started_after=session.start.boundary,
        start=session.start.text,
    )
