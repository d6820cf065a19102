"""The targets of a run: images, each in one or several test environments."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pytest_dibctl.config.catalog import Catalog
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.run.environments import environments_of
from pytest_dibctl.run.options import RunOptions


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """An image in an environment; ``id`` names it in node ids and reports.

    There is one object for each pair in a process: pytest tells parameters apart by it.
    """

    image: Entry[Image]
    environment: Entry[TestEnvironment]
    id: str

    def __repr__(self) -> str:
        """Short: reports show targets as parameters of tests."""
        return f"{self.image.label}@{self.environment.label}"


def targets(catalog: Catalog, images: Sequence[Entry[Image]], run_options: RunOptions) -> tuple[Target, ...]:
    """Return each of ``images`` with each of its environments, in order; raises NotInConfigError.

    An id is the image's label alone unless an image has several environments in this run.
    """
    environments = {image.label: environments_of(catalog, image, run_options) for image in images}
    matrix = any(len(several) > 1 for several in environments.values())
    found: list[Target] = []
    for image in images:
        for environment in environments[image.label]:
            name = f"{image.label}-{environment.label}" if matrix else image.label
            name = unlike(name, {target.id for target in found})
            found.append(Target(image=image, environment=environment, id=name))
    return tuple(found)


def unlike(name: str, taken: set[str]) -> str:
    """Return ``name``, marked until it is none of ``taken``."""
    while name in taken:
        name += "'"
    return name
