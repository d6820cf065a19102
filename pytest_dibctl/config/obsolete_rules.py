"""Whether the rule by which an environment knows obsolete images would be true of current ones too.

Properties prove nothing of an image that was published with them, and ``rotate`` deletes what is obsolete.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_dibctl.config import interpolate, merge
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.upload import FACTS, UploadEnvironment
from pytest_dibctl.errors import ConfigError

LONGEST_NAME = 255
"""Characters of a name that Glance allows."""


def check(image: Entry[Image], environment: Entry[UploadEnvironment]) -> None:
    """Raise the first of ``broken``."""
    for error in broken(image, environment):
        raise error


def broken(image: Entry[Image], environment: Entry[UploadEnvironment]) -> Iterator[ConfigError]:
    """Yield what would make a published image look obsolete, or leave an obsolete one its name."""
    glance, rule = merge.glance(image, environment), environment.settings.obsolete
    where = environment.at("obsolete.name")
    try:
        renamed = interpolate.text(rule.name, {"name": glance.name or "%"}, where)[:LONGEST_NAME]
    except ConfigError as error:
        yield error
        return
    if renamed == glance.name:
        yield ConfigError(
            f"{where}: an older {glance.name!r} of image {image.label} would keep its name",
            hint="write Obsolete %(name)s, or the like; Glance takes 255 characters of a name",
        )
    properties = glance.properties
    if all(properties.get(key) == value for key, value in rule.properties.items()):
        yield ConfigError(
            f"{environment.at('obsolete.properties')}: image {image.label} is published with these "
            "properties, so it would be obsolete from the beginning",
            hint="let obsolete images have a property that no current image has",
        )
    for key in sorted(properties.keys() & set(FACTS)):
        yield ConfigError(
            f"{image.at('glance.properties')}: {key} says that image {image.label} is obsolete",
            hint="leave it out: it is set when a newer image takes its place",
        )
