"""The files that a build made: checked, moved into place, recorded."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Mapping
from pathlib import Path

from pytest_dibctl.build import fingerprint, inputs
from pytest_dibctl.build.plan import Plan
from pytest_dibctl.errors import ArtifactError, BuildError
from pytest_dibctl.image import artifact
from pytest_dibctl.image.artifact import Identity


def made_by(plan: Plan, *, before: Identity | None) -> Path:
    """Return the file that the build made, checked to be whole; ``before`` was at its place until then.

    Raises BuildError when there is none, or it is no image.
    """
    output = plan.out / plan.target.name
    if not output.exists() and plan.recipe is None and Identity.if_any(plan.target) not in (None, before):
        # An external command that does not use the name it is offered writes to the place itself.
        output = plan.target
    if not output.exists():
        others = ", ".join(sorted(path.name for path in output.parent.iterdir())) or "nothing"
        raise BuildError(
            f"{plan.image.at()}: the build succeeded but made no {output.name}; it made: {others}\nlog: "
            f"{plan.unfinished_log}",
            hint="an external_build command has to write the file %(output_filename)s"
            if plan.image.settings.external_build
            else None,
        )
    try:
        artifact.verify(output)
    except ArtifactError as error:
        raise BuildError(
            f"{plan.image.at()}: the build made a file that is not an image: {error.message}\nlog: "
            f"{plan.unfinished_log}"
        ) from None
    return output


def install(plan: Plan, made: Path, *, seconds: float, phases: Mapping[str, float]) -> None:
    """Move the outputs into place, the image itself last, then record the build.

    ``seconds`` is the time of the build, ``phases`` are those of its phases. Raises BuildError where nothing
    can be written.
    """
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
        raise plan.unwritable(error) from None


def _made_besides(plan: Plan) -> dict[str, str]:
    """Return the files that commands and elements name and that only the build has made, marked as such.

    A file that existed keeps its digest from before the build, so an edit in the meantime is noticed.
    """
    files = fingerprint.arguments(
        plan.image.settings.external_build, target=plan.target, cwd=plan.cwd, old=plan.components
    )
    if plan.recipe is not None:
        variables = fingerprint.relevant_environment(plan.recipe.environment)
        files |= inputs.digests(
            plan.recipe.elements, variables, plan.cwd, salt=plan.salt, old=plan.components
        )
    return {name: inputs.MADE for name in files if name not in plan.components}


def _replace(source: Path, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    source.replace(target)


def _companions(target: Path) -> dict[str, Identity]:
    files = {suffix: artifact.companion(target, suffix) for suffix in artifact.COMPANIONS}
    identities = {suffix: Identity.if_any(file) for suffix, file in files.items()}
    return {suffix: identity for suffix, identity in identities.items() if identity is not None}


def _remove_stale_companions(plan: Plan, moved: set[str]) -> None:
    """Remove kernel and initrd of the last build if this one made none: they would be booted with it."""
    for suffix in plan.record.companions if plan.record is not None else ():
        file = artifact.companion(plan.target, suffix)
        if file.name not in moved:
            file.unlink(missing_ok=True)
