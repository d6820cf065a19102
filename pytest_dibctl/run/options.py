"""The options of a run, wherever they were given: pytest's command line, or dibctl's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

BuildPolicy = Literal["auto", "always", "never"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of a run; one value for all of its targets.

    ``environments`` are patterns: each image is tested in each of them. ``ladder`` are patterns too, in their
    order: each test runs once, in the first of them that has what it needs. Only one of the two is given.
    ``build_jobs`` is how many builds of the run may go on at once; ``logs`` is a directory that consoles and
    build logs are copied to.
    """

    build: BuildPolicy = "auto"
    input: Path | None = None
    environments: tuple[str, ...] = ()
    ladder: tuple[str, ...] = ()
    keep_failed_image: bool = False
    keep_failed_instance: bool = False
    shell: bool = False
    existing_image: str | None = None
    existing_instance: str | None = None
    upload_only: bool = False
    private_key_file: Path | None = None
    build_jobs: int = 1
    logs: Path | None = None
    keep_on_kill: bool = False
    warm: bool = False
    """Whether local guests resume the ready state of an earlier guest instead of booting."""
    keep_days: float = 7.0
    """Days until other machines count a resource that was kept after a failure as left; 0: never."""

    @property
    def has_file(self) -> bool:
        """Whether the image's file is tested, and not an image or instance that exists already."""
        return self.existing_image is None and self.existing_instance is None

    def keep_seconds(self, reason: str) -> float | None:
        """Return the seconds for which a resource is kept for ``reason``, None without an end.

        A resource that was kept by hand, or uploaded for use, has none.
        """
        return self.keep_days * 86400 if self.keep_days and reason.startswith("--dib-keep-failed") else None

    @property
    def may_keep_instance(self) -> bool:
        """Whether an instance may have to outlive this process."""
        return self.keep_failed_instance or self.shell or self.keep_on_kill
