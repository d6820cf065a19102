"""Images are made obsolete by their ids, as ``dibctl mark-obsolete`` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pytest_dibctl.clouds.marks import COMPANION, KEPT, TEST, UNFINISHED
from pytest_dibctl.clouds.regions import ImageRecord, Region
from pytest_dibctl.config.models.upload import Obsoleting
from pytest_dibctl.errors import ApiError, DibctlError
from pytest_dibctl.publish import image_state


@dataclasses.dataclass(frozen=True, kw_only=True)
class Marked:
    """The outcome for one image: ``changed`` is False if it was obsolete already, or if the change failed."""

    image_id: str
    name: str = ""
    changed: bool = False
    error: DibctlError | None = None


def mark(region: Region, image_ids: Sequence[str], rule: Obsoleting, *, where: str) -> list[Marked]:
    """Make images obsolete and return the outcome for each, in their order.

    An error of one image stands in its ``error`` and does not stop the others. ``where`` is the setting of
    the obsolete name, for messages.
    """
    return [_mark(region, image_id, rule, where) for image_id in image_ids]


def _mark(region: Region, image_id: str, rule: Obsoleting, where: str) -> Marked:
    try:
        image = region.image(image_id)
        if image.owner != region.project_id:
            raise ApiError(
                f"image {image_id} ({image.name}) belongs to project {image.owner}, and is left alone",
                hint="log in to that project to make it obsolete",
            )
        if (kind := _no_production_image(image)) is not None:
            raise ApiError(f"image {image_id} ({image.name}) is {kind}, and is left alone")
        if image_state.is_obsolete(image, rule) and image_state.is_marked(image):
            return Marked(image_id=image_id, name=image.name)
        now = image_state.time_of(region)
        change = image_state.obsoletion(image, rule, now=now, successor=None, where=where)
        return Marked(image_id=image_id, name=region.change(image_id, change).name, changed=True)
    except DibctlError as error:
        return Marked(image_id=image_id, error=error)


def _no_production_image(image: ImageRecord) -> str | None:
    """Return the kind of an image that no command may make obsolete, None for a published image."""
    if image.is_snapshot:
        return "a snapshot of a user's server or volume"
    if image.tags & {TEST, KEPT}:
        return "an image of a test run"
    if UNFINISHED in image.tags:
        return "on its way in an upload"
    if COMPANION in image.tags:
        return "the kernel or initrd of another image"
    return None
