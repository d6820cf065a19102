"""Which image of a name is current, which are obsolete, and the change that makes one the other."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping

from pytest_dibctl.clouds.marks import COMPANION, TEST, UNFINISHED
from pytest_dibctl.clouds.regions import Change, ImageRecord, Region
from pytest_dibctl.config import interpolate
from pytest_dibctl.config.models.upload import FACTS, Obsoleting
from pytest_dibctl.config.obsolete_rules import LONGEST_NAME
from pytest_dibctl.errors import ApiError

AT, BY = FACTS
"""The properties that hold when an image became obsolete, and the id of its successor."""
NO_TIME = "unknown"
"""The value of ``AT`` if the server tells no time: then the time of the image's last change counts."""
SHA512 = "dibctl_sha512"
"""The property of each published image that holds the digest of the built file, which was tested."""


def is_obsolete(image: ImageRecord, rule: Obsoleting) -> bool:
    """Whether an image is marked as ``rule`` marks obsolete ones."""
    return all(image.properties.get(key) == value for key, value in rule.properties.items())


def is_marked(image: ImageRecord) -> bool:
    """Whether an image bears the mark of a replacement: ours, or dibctl's on an image of dibctl's.

    A rule of upload.yaml may be true of current images as well; the mark is not.
    """
    if AT in image.properties:
        return True
    return SHA512 not in image.properties and image.properties.get("obsolete") == "true"


def is_current(image: ImageRecord, rule: Obsoleting) -> bool:
    """Whether users find this image when they look for its name."""
    return (
        image.status == "active"
        and not image.hidden
        and not image.is_snapshot
        and not is_obsolete(image, rule)
        and not image.tags & {UNFINISHED, COMPANION, TEST}
    )


def obsolete_name(name: str, rule: Obsoleting, where: str) -> str:
    """Return the name of an image called ``name`` once it is obsolete; raises ConfigError."""
    return interpolate.text(rule.name, {"name": name}, where)[:LONGEST_NAME]


def companion_name(name: str, key: str) -> str:
    """Return the name of the kernel or initrd of an image called ``name``; ``key`` is of ``BOOT_KEYS``."""
    kind = f" ({key.removesuffix('_id')})"
    return name[: LONGEST_NAME - len(kind)] + kind


def has_obsolete_name(image: ImageRecord, rule: Obsoleting) -> bool:
    """Whether an image is called as ``rule`` calls obsolete ones.

    Properties alone prove nothing: Cinder copies an image's properties to images that users make of their
    volumes.
    """
    before, _, after = interpolate.text(rule.name, {"name": "\0"}, "").partition("\0")
    if len(image.name) == LONGEST_NAME:  # its end may have been cut off
        return image.name.startswith(before)
    return image.name.startswith(before) and image.name.endswith(after)


def obsoletion(
    image: ImageRecord, rule: Obsoleting, *, now: dt.datetime | None, successor: str | None, where: str
) -> Change:
    """Return the change that makes an image obsolete; ``now`` is the server's time, None if it tells none."""
    at = now.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if now is not None else NO_TIME
    return Change(
        name=obsolete_name(image.name, rule, where),
        hidden=True if rule.hidden else None,
        visibility=rule.visibility,
        properties={**rule.properties, AT: at, BY: successor},
    )


def restoration(image: ImageRecord, change: Change) -> Change:
    """Return the change that takes ``change`` back; ``image`` is as it was before."""
    before: Mapping[str, str | None] = {key: image.properties.get(key) for key in change.properties}
    return Change(
        name=image.name,
        hidden=image.hidden if change.hidden is not None else None,
        visibility=image.visibility if change.visibility is not None else None,
        properties=before,
    )


def obsolete_since(image: ImageRecord) -> dt.datetime:
    """Return when an image became obsolete; without a record of it, when it was changed last."""
    try:
        moment = dt.datetime.fromisoformat(image.properties[AT])
    except (KeyError, ValueError):
        return image.updated
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)


def time_of(region: Region) -> dt.datetime | None:
    """Return the server's time, None where it tells none."""
    try:
        return region.now()
    except ApiError:
        return None


def newest_first(images: Iterable[ImageRecord]) -> list[ImageRecord]:
    """Return images by age; ids decide between those of one second, so that the order is always the same."""
    return sorted(images, key=lambda image: (image.created, image.id), reverse=True)
