"""Common parts of the commands for published images: upload environments and their regions."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_dibctl.errors import ConfigError

if TYPE_CHECKING:
    from pytest_dibctl.clouds.regions import Region
    from pytest_dibctl.config.entry import Entry
    from pytest_dibctl.config.models.images import Image
    from pytest_dibctl.config.models.upload import UploadEnvironment


def open_region(
    environment: Entry[UploadEnvironment], *, endpoint: str | None = None, fixed_cloud: bool = False
) -> Region:
    """Return an environment's region, with credentials of this process's environment; the caller closes it.

    Arguments and errors are those of ``connect.open_region``.
    """
    from pytest_dibctl.publish import connect

    return connect.open_region(environment, environ=os.environ, endpoint=endpoint, fixed_cloud=fixed_cloud)


@contextlib.contextmanager
def opened(
    environment: Entry[UploadEnvironment], *, endpoint: str | None = None, fixed_cloud: bool = False
) -> Iterator[Region]:
    """Open an environment's region for a block."""
    region = open_region(environment, endpoint=endpoint, fixed_cloud=fixed_cloud)
    with contextlib.closing(region):
        yield region


def published_name(image: Entry[Image], environment: Entry[UploadEnvironment]) -> str:
    """Return the name that an image has in an environment's Glance; raises ConfigError if it has none."""
    from pytest_dibctl.config import merge

    name = merge.glance(image, environment).name
    if name is None:
        raise ConfigError(f"{image.at('glance.name')}: is missing, so there is nothing to look for")
    return name
