"""Images of a publication that was cut off, and the kernel and initrd that go with an image.

An image bears the tag ``marks.UNFINISHED`` until it is published, and so do its kernel and initrd. So one
search by the tag finds all images that a killed process left. Its claim, a property, names the process that
works on it. Another process takes the image over only if no living process may publish or remove it any more.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator

from pytest_dibctl.clouds.glance_content import BOOT_KEYS
from pytest_dibctl.clouds.marks import CLAIM_KEY, COMPANION, UNFINISHED
from pytest_dibctl.clouds.regions import Change, ImageRecord, Region
from pytest_dibctl.errors import ApiError, DibctlError, ImageNotFoundError
from pytest_dibctl.system import host

log = logging.getLogger(__name__)

STALE = dt.timedelta(hours=1)
"""Time after an upload's deadline at which its unfinished image counts as abandoned."""


def new_claim() -> str:
    """Return the claim of one upload or transfer of this process."""
    return f"{host.process_token(os.getpid())}/{secrets.token_hex(4)}"


def take_up(region: Region, image: ImageRecord, claim: str, *, timeout: float) -> bool:
    """Claim an image that another upload has left unfinished; False if its uploader may still be at work.

    ``timeout`` is the seconds that an upload may take. Of two that claim it at a time at most the last one
    has it. Raises ApiError and its like.
    """
    if not _is_abandoned(region, image, timeout):
        return False
    try:
        region.change(image.id, Change(properties={CLAIM_KEY: claim}))
        now = region.image(image.id)
        if UNFINISHED in now.tags:
            return now.properties.get(CLAIM_KEY) == claim
        if now.properties.get(CLAIM_KEY) == claim:  # it was published since it was listed
            region.change(image.id, Change(properties={CLAIM_KEY: None}))
    except ImageNotFoundError:
        pass
    return False


def is_claimed(region: Region, image_id: str, claim: str, *, or_published: bool = False) -> bool:
    """Whether an image is still that of ``claim``: False only if it is known to be another's.

    ``or_published`` says that this process may have published it, which takes its claim away.
    """
    try:
        present = region.image(image_id).properties.get(CLAIM_KEY)
    except DibctlError:
        return True
    return present == claim or (or_published and present is None)


def _is_abandoned(region: Region, image: ImageRecord, timeout: float) -> bool:
    uploader = image.properties.get(CLAIM_KEY, "").partition("/")[0]
    if host.is_over(uploader):
        return True
    try:
        return _is_still(image, _limit(region, timeout))
    except ApiError:  # the server tells no time
        return False


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

    A kernel or initrd that another image needs stays. So does one that cannot be deleted; the next call tries
    again.
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
        limit = _limit(region, timeout)
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


def _limit(region: Region, timeout: float) -> dt.datetime:
    """Return the time before which an abandoned image was changed last; raises ApiError.

    The ages are by the server's clock on both sides; where it tells no time, nothing is removed.
    """
    return region.now() - STALE - dt.timedelta(seconds=timeout)


def _is_still(image: ImageRecord, limit: dt.datetime) -> bool:
    """Whether an image is unfinished and abandoned, and was not published since it was listed."""
    return UNFINISHED in image.tags and image.hidden and image.updated < limit
