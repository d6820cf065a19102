"""What an upload is asked to do, and what it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from pytest_dibctl.clouds.regions import Region
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models import Image, UploadEnvironment
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.image.artifact import Artifact

Opener = Callable[[Entry[UploadEnvironment]], Region]


class Watch(Protocol):
    """Whoever is told how far things are; called from several threads."""

    def say(self, environment: str, line: str) -> None:
        """Take one line about an environment."""
        ...

    def sent(self, environment: str, done: int, total: int) -> None:
        """Take how many of the bytes are sent."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be uploaded where. ``built`` is the image's file, ``cwd`` where commands run."""

    image: Entry[Image]
    environments: Sequence[Entry[UploadEnvironment]]
    built: Artifact
    cwd: Path
    open_region: Opener
    watch: Watch
    obsolete: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one environment.

    ``outcome`` is "uploaded", "unchanged", "external" or "failed", of a plan what it would be; after an
    interruption also "undone", "not begun", or "left" for what was cut off and not undone. ``obsoleted`` are
    the ids of images that made place, ``pending`` the projects that have yet to accept the image; ``tested``
    says when and where it passed its tests, None if no run vouches for it.
    """

    environment: str
    outcome: str
    image_id: str | None = None
    obsoleted: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    conversion: str | None = None
    tested: str | None = None
    seconds: float = 0.0
    error: DibctlError | None = None
