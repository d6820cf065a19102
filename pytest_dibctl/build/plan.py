"""The plan of a build and its reason: the recipe, the file's inputs, and the record of the last build."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pytest_dibctl.build import bootstrap, dib, fingerprint, light, steps
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.errors import BuildError
from pytest_dibctl.guards import build_steps
from pytest_dibctl.guards.build_steps import Step

_OUT: Final = "out"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A build of ``image`` to ``target``, ready to run in the working directory ``cwd``.

    ``recipe`` is disk-image-create's part, None where only external commands build. ``components`` are
    digests of all that the file is made from, with the ``salt`` of the digests of secrets; ``record`` says
    how the file that is there was built.
    """

    image: Entry[Image]
    target: Path
    cwd: Path
    recipe: dib.Recipe | None
    components: Mapping[str, str]
    salt: str
    record: fingerprint.Record | None

    @property
    def building(self) -> Path:
        """The build's private directory, which is there during the build only."""
        return self.target.with_name(f".{self.target.name}.building")

    @property
    def out(self) -> Path:
        """Where in the private directory the build leaves the image, under its own name, and other files."""
        return self.building / _OUT

    @property
    def log_file(self) -> Path:
        """The log of the build that made the file which is there."""
        return log_file(self.target)

    @property
    def unfinished_log(self) -> Path:
        """The log of this build until it has succeeded: a failed build leaves the file's own log alone."""
        return unfinished_log(self.target)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the commands get in addition to this process's environment."""
        temporary = str(self.building / build_steps.TMP)
        variables = dict(self.recipe.environment) if self.recipe is not None else {}
        added = bootstrap.environment(self.recipe) if self.recipe is not None else {}
        # The image's or the caller's are not used: the space check, the guard of mounts and loop devices and
        # the removal know this one directory. The recipe's warnings say so.
        # DIB_QUIET: with --logfile, disk-image-create would say nothing here.
        quicker = light.environment(variables) if self.recipe is not None else {}
        return {"DIB_QUIET": "0", **quicker, **variables, **added, "TMP_DIR": temporary, "TMPDIR": temporary}

    def steps(self) -> list[Step]:
        """Return the commands of the build, in their order."""
        file = self.out / self.target.name
        first = steps.dib_steps(self.recipe, file, scratch=self.building) if self.recipe is not None else []
        return [*first, *steps.external_steps(self.image, self.recipe, file)]

    def outdated(self) -> str | None:
        """Say why the file must be built; None when it need not be."""
        return fingerprint.outdated(self.target, self.record, self.components)

    def unwritable(self, error: OSError) -> BuildError:
        """Return the error that says that nothing can be written where the file is to be."""
        return BuildError(
            f"{self.image.at('filename')}: cannot write in {self.target.parent}: {error.strerror}",
            hint="make it writable, or build elsewhere with `dibctl build --output`",
        )


def plan_for(image: Entry[Image], target: Path, cwd: Path) -> Plan:
    """Return the plan of a build of ``image`` to ``target``.

    Raises ConfigError and BuildError for errors that are known before a command runs.
    """
    settings = image.settings
    recipe = checked_recipe(image, target, cwd)
    record = fingerprint.load(target)
    salt = record.salt if record is not None else fingerprint.new_salt()
    old = record.components if record is not None else {}
    components = fingerprint.components(
        recipe, settings.external_build, salt=salt, target=target.name, cwd=cwd, old=old
    )
    files = fingerprint.arguments(settings.external_build, target=target, cwd=cwd, old=old)
    return Plan(
        image=image,
        target=target,
        cwd=cwd,
        recipe=recipe,
        components={**components, **files},
        salt=salt,
        record=record,
    )


def checked_recipe(image: Entry[Image], target: Path, cwd: Path) -> dib.Recipe | None:
    """Return disk-image-create's part of a build, None where there is none.

    Raises ConfigError and BuildError for errors in the recipe or in external_build.
    """
    recipe = dib.recipe(image, image.settings.dib, cwd) if image.settings.dib is not None else None
    steps.external_steps(image, recipe, target)  # for its errors
    return recipe


def target_file(image: Entry[Image], output: Path | None, cwd: Path) -> Path:
    """Return where the image's file lies or will lie, absolute and without ``..``."""
    return Path(os.path.normpath(cwd.absolute() / (output or image.settings.filename)))


def log_file(target: Path) -> Path:
    """Return where the log of the build that made ``target`` lies, if there ever was one here."""
    return target.with_name(f"{target.name}.build.log")


def unfinished_log(target: Path) -> Path:
    """Return where the log of a build of ``target`` lies that runs, has failed or was interrupted."""
    return target.with_name(f"{target.name}.build.failed.log")


def is_built_here(settings: Image) -> bool:
    """Whether the settings say how the image is built; else its file comes from elsewhere."""
    return settings.dib is not None or bool(settings.external_build)
