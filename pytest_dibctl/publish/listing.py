"""What a project has of images in a region, for people to look at."""

from __future__ import annotations

import dataclasses
import datetime as dt

from pytest_dibctl.clouds.regions import ImageRecord, Region
from pytest_dibctl.config.models.upload import Obsoleting
from pytest_dibctl.errors import ApiError, ConfigError
from pytest_dibctl.publish import image_state
from pytest_dibctl.publish.desired import SHA512, TESTED


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
    """An image. ``used`` is who uses it, empty for nobody, None where that cannot be told.

    ``state`` is "current", "obsolete", "unfinished" or, of what is not active, Glance's word for it;
    ``sha512`` is the digest of the built file where it is known, else of what Glance has.
    """

    image: ImageRecord
    state: str
    age: dt.timedelta
    sha512: str | None
    tested: str | None
    used: str | None


def listing(region: Region, rule: Obsoleting) -> list[Listed]:
    """Return the project's images, by name and then the newest first.

    Left out are snapshots, images of test runs, and what only goes along with another image, unless a
    publication left it unfinished.
    """
    now = region.now()
    images = [image for image in region.images() if _is_shown(image)]
    images = sorted(image_state.newest_first(images), key=lambda image: image.name)
    used = _used(region, images)
    return [
        Listed(
            image=image,
            state=_state(image, rule),
            age=max(dt.timedelta(), now - image.created),
            sha512=image.properties.get(SHA512) or _digest(image),
            tested=image.properties.get(TESTED),
            used=None if used is None else used.get(image.id, ""),
        )
        for image in images
    ]


def _is_shown(image: ImageRecord) -> bool:
    if image.is_snapshot or image_state.TEST in image.tags:
        return False
    return image_state.COMPANION not in image.tags or image_state.UNFINISHED in image.tags


def _state(image: ImageRecord, rule: Obsoleting) -> str:
    if image.status != "active":
        return image.status
    if image_state.UNFINISHED in image.tags:
        return "unfinished"
    if image_state.is_obsolete(image, rule):
        return "obsolete"
    return "hidden" if image.hidden else "current"


def _digest(image: ImageRecord) -> str | None:
    return image.hash_value if image.hash_algorithm == "sha512" else None


def _used(region: Region, images: list[ImageRecord]) -> dict[str, str] | None:
    """Return who uses what, None for whoever may not know it, and where there is no Nova."""
    try:
        return dict(region.uses([image.id for image in images])) if images else {}
    except (ApiError, ConfigError):
        return None
