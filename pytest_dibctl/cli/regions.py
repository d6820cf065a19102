"""What the commands for images in production share: environments of upload.yaml, their regions."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_dibctl.cli.command import Arguments
from pytest_dibctl.errors import ConfigError, NotInConfigError

if TYPE_CHECKING:
    from pytest_dibctl.clouds.regions import Region
    from pytest_dibctl.config.catalog import Catalog
    from pytest_dibctl.config.entry import Entry
    from pytest_dibctl.config.models import Image, UploadEnvironment


def environments_of(catalog: Catalog, arguments: Arguments) -> tuple[Entry[UploadEnvironment], ...]:
    if arguments.all:
        return catalog.select_uploads(["all", *arguments.environments])
    if not arguments.environments:
        raise NotInConfigError(
            "no upload environment is named", hint="name some, or --all; `dibctl validate` lists them"
        )
    return catalog.select_uploads(arguments.environments)


def opened(
    environment: Entry[UploadEnvironment], *, endpoint: str | None = None, fixed_cloud: bool = False
) -> Region:
    from pytest_dibctl.publish import connect

    return connect.open_region(environment, environ=os.environ, endpoint=endpoint, fixed_cloud=fixed_cloud)


@contextlib.contextmanager
def opened_region(
    environment: Entry[UploadEnvironment], *, endpoint: str | None = None, fixed_cloud: bool = False
) -> Iterator[Region]:
    with contextlib.closing(opened(environment, endpoint=endpoint, fixed_cloud=fixed_cloud)) as region:
        yield region


def published_name(image: Entry[Image], environment: Entry[UploadEnvironment]) -> str:
    from pytest_dibctl.config import merge

    name = merge.glance(image, environment).name
    if name is None:
        raise ConfigError(f"{image.at('glance.name')}: is missing, so there is nothing to look for")
    return name
