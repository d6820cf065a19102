"""The packages of an image that was published from here, so that a test run can name later changes.

``dibctl upload`` writes them beside the image's file. A published image tells them too, but a test run has no
login to the clouds that it is not for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pytest_dibctl.image import manifest
from pytest_dibctl.image.manifest import Difference
from pytest_dibctl.system import files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Changes:
    """The packages in which a built image differs from an image that was published on a day."""

    environment: str
    day: str
    differences: tuple[Difference, ...]


def remember(image: Path, environments: Iterable[str]) -> None:
    """Write down that an image's file was published; raises OSError, and ArtifactError for a bad manifest.

    Nothing is written of an image without a manifest of packages.
    """
    packages = manifest.read(image)
    if packages is None:
        return
    entry = {"day": dt.datetime.now(dt.UTC).date().isoformat(), "packages": dict(packages)}
    known = _read(image) | dict.fromkeys(environments, entry)
    files.write_atomically(_file(image), json.dumps(known) + "\n", mode=0o644)


def changes(image: Path) -> Iterator[Changes]:
    """Yield the changes of an image's file against the images published from here; raises ArtifactError."""
    after = manifest.read(image)
    if after is None:
        return
    for environment, entry in _read(image).items():
        with contextlib.suppress(KeyError, TypeError, AttributeError):  # written by something else
            before = {str(name): str(version) for name, version in entry["packages"].items()}
            yield Changes(
                environment=environment,
                day=str(entry["day"]),
                differences=tuple(manifest.differences(before, after)),
            )


def _file(image: Path) -> Path:
    return image.with_name(f".{image.name}.published.json")


def _read(image: Path) -> dict[str, Any]:
    try:
        known = json.loads(_file(image).read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
