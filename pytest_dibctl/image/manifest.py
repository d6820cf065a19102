"""The packages in an image, as diskimage-builder's ``dpkg`` element writes them down beside it.

A published image carries them in a property, compressed. So a current image can be compared with a new build
without a download.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pytest_dibctl.errors import ArtifactError
from pytest_dibctl.image import artifact

DIRECTORY = "dib-manifests"
PREFIX = "dib-manifest-dpkg-"
LONGEST = 60_000
"""Characters of a property; a database of Glance's holds 65,535 bytes."""
MOST = 1 << 22
"""Bytes that a property may unpack to."""

PRESENT = {
    "i": "",
    "W": "",
    "t": "",
    "U": " (unpacked, not configured)",
    "F": " (half configured)",
    "H": " (half installed)",
}
"""The words after the version, by dpkg's state: the second letter of the status, after the desired action.

A package that is held, or chosen for removal, is still installed. Packages of the other states have no
programs: they are not installed, or only their configuration is left.
"""
DAMAGED = " (to be reinstalled)"
"""The words for a package whose status has R as its third letter."""

Packages = Mapping[str, str]
"""Versions by name; of an architecture that is not the image's main one, the name has it behind a colon."""


Change = Literal["added", "removed", "changed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """A package of which one side has another version, or none (None)."""

    package: str
    before: str | None
    after: str | None

    @property
    def kind(self) -> Change:
        """The kind of the change."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"


def folder(image: Path) -> Path:
    """Return where the manifests of an image file lie."""
    base = artifact.stem(image)
    return base.with_name(f"{base.name}.d") / DIRECTORY


def read(image: Path) -> Packages | None:
    """Return the packages of an image file, None if no manifest lies beside it; raises ArtifactError."""
    files = sorted(folder(image).glob(f"{PREFIX}*"))
    if not files:
        return None
    try:
        listed = json.loads(files[0].read_text())["packages"]
        present = {str(package["package"]): _version(package) for package in listed}
        return {name: version for name, version in present.items() if version is not None}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{files[0]}: is no manifest of packages: {error}") from None


def _version(package: Mapping[str, str]) -> str | None:
    """Return a package's version, with its state if that is not as it should be; None if gone."""
    status = package["status"].ljust(3)
    if status[1] not in PRESENT:
        return None
    return f"{package['version']}{PRESENT[status[1]]}{DAMAGED if status[2] == 'R' else ''}"


def packed(packages: Packages) -> str | None:
    """Return packages as the text of a property, None if there are too many for one."""
    plain = json.dumps(dict(sorted(packages.items())), separators=(",", ":")).encode()
    text = base64.b64encode(zlib.compress(plain, 9)).decode()
    return text if len(text) <= LONGEST else None


def unpacked(text: str) -> Packages:
    """Return the packages of a property; raises ArtifactError for a property that holds none."""
    try:
        plain = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), MOST)
        versions = json.loads(plain)
        return {str(name): str(version) for name, version in versions.items()}
    except (binascii.Error, zlib.error, ValueError, AttributeError):
        raise ArtifactError("the published image's list of packages is damaged") from None


def differences(before: Packages, after: Packages) -> Iterator[Difference]:
    """Yield the differences, by name."""
    for package in sorted({*before, *after}):
        old, new = before.get(package), after.get(package)
        if old != new:
            yield Difference(package=package, before=old, after=new)
