"""The ``dib`` section of images.yaml: how disk-image-create builds the image."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pytest_dibctl.config.models.key import Key
from pytest_dibctl.config.models.section import Section
from pytest_dibctl.config.models.values import (
    UNIQUE_ITEMS,
    Duration,
    EmptyIfNone,
    Flag,
    NonEmpty,
    Unique,
    Variables,
    Version,
)


class BuildCache(Section):
    """How far a build may go on from the kept tree of an earlier one."""

    enabled: Annotated[
        Flag, Key("Keep file trees between phases of a build, and start later builds from them.")
    ] = True
    max_age: Annotated[
        Duration,
        Key(
            "The age from which a kept tree is not used.",
            unit="seconds",
            default="604800, which is 7 days",
            example="86400",
        ),
    ] = 7 * 86400.0
    unsigned_max_age: Annotated[
        Duration,
        Key(
            "The age from which a kept tree is not used where no signed index tells whether packages have "
            "changed.",
            unit="seconds",
            default="86400, which is a day",
            example="3600",
        ),
    ] = 86400.0
    uncacheable: Annotated[
        tuple[NonEmpty, ...],
        Field(json_schema_extra=UNIQUE_ITEMS),
        Unique,
        Key(
            "Elements whose scripts run in every build, such as one that clones a repository.",
            default="none",
            example="[my-application]",
        ),
    ] = ()


class Dib(Section):
    """How disk-image-create builds the image."""

    elements: Annotated[
        tuple[NonEmpty, ...],
        Field(min_length=1, json_schema_extra=UNIQUE_ITEMS),
        Unique,
        Key("diskimage-builder's elements, each once.", example="[debian-minimal, openssh-server]"),
    ]
    min_version: Annotated[
        Version | None,
        Key("The oldest diskimage-builder that may build the image.", default="any", example='"3.30.0"'),
    ] = None
    max_version: Annotated[
        Version | None,
        Key("The newest diskimage-builder that may build the image.", default="any", example='"3.99"'),
    ] = None
    environment_variables: Annotated[
        Variables,
        Key(
            "Variables for disk-image-create. Paths in `ELEMENTS_PATH` may be relative to the "
            "working directory, else to the file that names them.",
            default="none",
            example="{DIB_RELEASE: bookworm}",
        ),
    ] = Field(default_factory=dict)
    cli_options: Annotated[
        tuple[NonEmpty, ...],
        Key(
            "Further arguments of disk-image-create, one list item each.",
            default="none",
            example="[-a, amd64]",
        ),
    ] = ()
    keep_host_mirror: Annotated[
        Flag,
        Key(
            "Leave the apt mirrors of the building machine in the image. Otherwise the image gets"
            " the distribution's own."
        ),
    ] = False
    cache: Annotated[BuildCache, EmptyIfNone, Key("Which earlier builds a build may start from.")] = Field(
        default_factory=BuildCache
    )
