"""The packages of a built image beside those of the one that is current in a region."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pytest_dibctl.clouds.regions import ImageRecord, Region
from pytest_dibctl.config.models.upload import Obsoleting
from pytest_dibctl.errors import ArtifactError, ImageNotFoundError
from pytest_dibctl.image import manifest
from pytest_dibctl.image.manifest import Difference
from pytest_dibctl.publish import image_state
from pytest_dibctl.publish.desired import PACKAGES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What differs from the published image to the built one."""

    published: ImageRecord
    differences: tuple[Difference, ...]


def compare(region: Region, name: str, built: Path, rule: Obsoleting) -> Comparison:
    """Return what differs.

    Raises ImageNotFoundError where nothing is current, ArtifactError where a list of packages is missing.
    """
    after = manifest.read(built)
    if after is None:
        raise ArtifactError(
            f"{manifest.folder(built)}: there is no manifest of packages",
            hint="diskimage-builder writes one for images with its element dpkg, as Debian's and Ubuntu's",
        )
    current = [image for image in region.images(name=name) if image_state.is_current(image, rule)]
    if not current:
        raise ImageNotFoundError(f"{region.name}: no image {name!r} is current there")
    published = image_state.newest_first(current)[0]
    if PACKAGES not in published.properties:
        raise ArtifactError(
            f"{region.name}: image {published.id} does not say what packages it has",
            hint="`dibctl upload` writes it down for images with a manifest",
        )
    before = manifest.unpacked(published.properties[PACKAGES])
    return Comparison(published=published, differences=tuple(manifest.differences(before, after)))
