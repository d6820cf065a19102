"""Images of a publication that was cut off, and the kernel and initrd that go with an image.

An image bears the tag ``marks.UNFINISHED`` until it is published, and its kernel and initrd bear it as long,
so that one search by the tag finds all that a killed process left.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
from collections.abc import Callable, Collection, Iterable, Iterator

from pytest_dibctl.clouds.glance_content import BOOT_KEYS
from pytest_dibctl.clouds.marks import COMPANION, UNFINISHED
from pytest_dibctl.clouds.regions import Change, ImageRecord, Region
from pytest_dibctl.errors import DibctlError, ImageNotFoundError

log = logging.getLogger(__name__)

STALE = dt.timedelta(hours=1)
"""Time after an upload's deadline at which its unfinished image counts as abandoned."""


def part_ids(image: ImageRecord) -> list[str]:
    """Return the ids of the images that one boots by, of this project or another."""
    return [image.properties[key] for key in BOOT_KEYS if image.properties.get(key)]


def companions(region: Region, image: ImageRecord) -> list[ImageRecord]:
    """Return the kernel and initrd that came with an image and are its owner's; raises ApiError."""
    parts = []
    for part_id in part_ids(image):
        with contextlib.suppress(ImageNotFoundError):
            parts.append(region.image(part_id))
    return [part for part in parts if COMPANION in part.tags and part.owner == image.owner]


def settle(region: Region, image: ImageRecord) -> None:
    """Take the tag ``UNFINISHED`` off the companions of a published image.

    A failure is logged, and the next upload tries again. Until then they are safe: a companion that an image
    needs is never removed.
    """
    try:
        for part in companions(region, image):
            if UNFINISHED in part.tags:
                region.change(part.id, Change(tags=part.tags - {UNFINISHED}))
    except DibctlError as error:
        log.warning("the kernel of image %s is still marked as unfinished: %s", image.id, error)


def remove_companions(region: Region, part_ids: Iterable[str], *, owner: str) -> Iterator[ImageRecord]:
    """Delete the companions that went with a deleted image of ``owner``, and yield them.

    One that another image needs stays, and so does, for the next time, one that cannot be deleted.
    """
    for part_id in part_ids:
        with contextlib.suppress(DibctlError):
            part = region.image(part_id)
            ours = COMPANION in part.tags and part.owner == owner
            if ours and region.needed_by(part_id) is None:
                region.delete(part_id)
                yield part


def take_back(region: Region, image_id: str) -> None:
    """Delete an image that was made a moment ago, protected by now or not; raises ApiError and its like."""
    with contextlib.suppress(ImageNotFoundError):
        region.change(image_id, Change(protected=False))
        region.delete(image_id)


def sweep(
    region: Region,
    names: Collection[str],
    *,
    owner: str | None = None,
    timeout: float,
    tell: Callable[[str], None],
) -> None:
    """Remove the unfinished images of these names that are abandoned by the server's clock.

    ``timeout`` is the seconds that an upload may take; ``owner`` names another project than the own one. An
    image that another one needs stays. Failures are logged, not raised: the next sweep finds the rest.
    """
    try:
        unfinished = [image for image in region.images(tag=UNFINISHED, owner=owner) if image.name in names]
        if not unfinished:
            return
        # The ages are by the server's clock on both sides; where it tells no time, nothing is removed.
        limit = region.now() - STALE - dt.timedelta(seconds=timeout)
    except DibctlError as error:
        log.warning("what earlier runs left unfinished is not looked for: %s", error)
        return
    stale = [image for image in unfinished if _is_still(image, limit)]
    gone: set[str] = set()
    # Images that name others go first: then no image needs the others.
    for image in sorted(stale, key=lambda image: not part_ids(image)):
        try:
            if image.id in gone or not _is_still(region.image(image.id), limit):
                continue
            if region.needed_by(image.id) is not None:
                continue
            region.delete(image.id)
        except ImageNotFoundError:
            continue
        except DibctlError as error:
            log.warning("image %s, which an earlier run left unfinished, is still there: %s", image.id, error)
            continue
        tell(f"removed {image.id}, which an earlier run had left unfinished")
        for part in remove_companions(region, part_ids(image), owner=image.owner):
            gone.add(part.id)
            tell(f"removed {part.id}, which went with it")


def _is_still(image: ImageRecord, limit: dt.datetime) -> bool:
    """Whether an image is unfinished and abandoned, and was not published since it was listed."""
    return UNFINISHED in image.tags and image.hidden and image.updated < limit
