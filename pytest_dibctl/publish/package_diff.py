"""The packages of a built image compared with those of the current image in a region."""

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
    """The published image, and the packages in which the built one differs from it."""

    published: ImageRecord
    differences: tuple[Difference, ...]


def compare(region: Region, name: str, built: Path, rule: Obsoleting) -> Comparison:
    """Compare the packages of the file ``built`` with those of the current image called ``name``.

    ``rule`` says which images are obsolete. Raises ImageNotFoundError without a current image, ArtifactError
    where either list of packages is missing.
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
