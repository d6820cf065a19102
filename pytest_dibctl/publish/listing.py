"""The images of a project in a region, as ``dibctl list`` shows them."""

from __future__ import annotations

import dataclasses
import datetime as dt

from pytest_dibctl.clouds.marks import COMPANION, TEST, UNFINISHED
from pytest_dibctl.clouds.regions import UNKNOWN, ImageRecord, Region
from pytest_dibctl.config.models.upload import Obsoleting
from pytest_dibctl.errors import ApiError, ConfigError
from pytest_dibctl.publish import image_state
from pytest_dibctl.publish.desired import SHA512, TESTED


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
    """An image.

    ``state`` is "current", "obsolete", "hidden", "unfinished" or, for an image that is not active, its status
    in Glance. ``sha512`` is the digest of the built file where it is known, else of the bytes in Glance.
    ``used`` names a user, is empty for an unused image, and None where the users cannot be seen. ``now`` is
    the server's time.
    """

    image: ImageRecord
    state: str
    now: dt.datetime
    sha512: str | None
    tested: str | None
    used: str | None


def listing(region: Region, rule: Obsoleting) -> list[Listed]:
    """Return the project's images by name, and the newest of a name first; raises ApiError.

    It leaves out snapshots, images of test runs, and the kernels and initrds of other images, unless an
    upload left them unfinished.
    """
    images = [image for image in region.images() if _is_shown(image)]
    images = sorted(image_state.newest_first(images), key=lambda image: image.name)
    used = _used(region, images)
    now = image_state.time_of(region) or max((image.updated for image in images), default=UNKNOWN)
    return [
        Listed(
            image=image,
            state=_state(image, rule),
            now=now,
            sha512=image.properties.get(SHA512) or _digest(image),
            tested=image.properties.get(TESTED),
            used=None if used is None else used.get(image.id, ""),
        )
        for image in images
    ]


def _is_shown(image: ImageRecord) -> bool:
    if image.is_snapshot or TEST in image.tags:
        return False
    return COMPANION not in image.tags or UNFINISHED in image.tags


def _state(image: ImageRecord, rule: Obsoleting) -> str:
    if image.status != "active":
        return image.status
    if UNFINISHED in image.tags:
        return "unfinished"
    if image_state.is_obsolete(image, rule):
        return "obsolete"
    return "hidden" if image.hidden else "current"


def _digest(image: ImageRecord) -> str | None:
    return image.hash_value if image.hash_algorithm == "sha512" else None


def _used(region: Region, images: list[ImageRecord]) -> dict[str, str] | None:
    """Return the users of images by id, None where the login may not see them, or without a Nova."""
    try:
        return dict(region.uses([image.id for image in images])) if images else {}
    except (ApiError, ConfigError):
        return None
