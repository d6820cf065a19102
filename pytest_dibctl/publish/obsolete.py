"""Images are made obsolete by their ids, as ``dibctl mark-obsolete`` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pytest_dibctl.clouds.regions import Region
from pytest_dibctl.config.models.upload import Obsoleting
from pytest_dibctl.errors import ApiError, DibctlError
from pytest_dibctl.publish import image_state


@dataclasses.dataclass(frozen=True, kw_only=True)
class Marked:
    """What became of one image: ``changed`` is False for one that was obsolete already, or failed."""

    image_id: str
    name: str = ""
    changed: bool = False
    error: DibctlError | None = None


def mark(region: Region, image_ids: Sequence[str], rule: Obsoleting, *, where: str) -> list[Marked]:
    """Make images obsolete and return what became of each, in their order.

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
        if image_state.is_obsolete(image, rule):
            return Marked(image_id=image_id, name=image.name)
        change = image_state.obsoletion(image, rule, now=region.now(), successor=None, where=where)
        return Marked(image_id=image_id, name=region.change(image_id, change).name, changed=True)
    except DibctlError as error:
        return Marked(image_id=image_id, error=error)
