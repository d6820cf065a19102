"""The request for an upload, and its result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from pytest_dibctl.clouds.regions import Region
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.upload import UploadEnvironment
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.image.artifact import Artifact

Opener = Callable[[Entry[UploadEnvironment]], Region]


class Watch(Protocol):
    """Shows the progress of an upload; several threads call it."""

    def say(self, environment: str, line: str) -> None:
        """Show one line about an environment."""
        ...

    def sent(self, environment: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` bytes are sent to an environment."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """An image and the environments to upload it to.

    ``built`` is the image's file, and ``cwd`` the directory where commands run. ``open_region`` logs in to an
    environment; the upload closes the region. Without ``obsolete`` older images stay current.
    """

    image: Entry[Image]
    environments: Sequence[Entry[UploadEnvironment]]
    built: Artifact
    cwd: Path
    open_region: Opener
    watch: Watch
    obsolete: bool = True


Outcome = Literal["uploaded", "unchanged", "external", "failed", "undone", "not begun", "left"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome for one environment.

    ``outcome`` is "uploaded", "unchanged", "external" or "failed", in a plan what it would be. After an
    interruption it is also "undone", "not begun", or "left" for an upload that was neither finished nor
    undone. ``obsoleted`` are the ids of the images that became obsolete, ``pending`` the projects that have
    not accepted the image yet. ``tested`` says when and where the image passed its tests, None if no run
    vouches for it. ``seconds`` is how long the environment took.
    """

    environment: str
    outcome: Outcome
    image_id: str | None = None
    obsoleted: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    conversion: str | None = None
    tested: str | None = None
    seconds: float = 0.0
    error: DibctlError | None = None
