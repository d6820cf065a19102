"""An image file as Glance needs it: its format, and the kernel and initrd that it boots by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pytest_dibctl.clouds.protocols import Progress
from pytest_dibctl.clouds.regions import ImageSpec
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.config.models.upload import UploadEnvironment
from pytest_dibctl.errors import ConfigError
from pytest_dibctl.image.artifact import Artifact, digest_of

IMAGE_FORMATS = frozenset({"qcow2", "raw", "vmdk", "vdi", "vhdx"})
"""Formats that an image file shows by itself, so that a wrong name for it can be detected."""
COMMAND_LINE = "root=/dev/vda rw console=ttyS0"
"""How a filesystem image with a kernel of its own finds its root, unless a property names a command line."""

BOOT_KEYS = ("kernel_id", "ramdisk_id")
"""The properties that lead to the images which one boots by."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BootFile:
    """A kernel or an initrd: ``key`` is the property that leads to it, ``disk_format`` aki or ari."""

    key: str
    path: Path
    disk_format: str
    sha512: str

    @property
    def kind(self) -> str:
        """Its kind, in Glance's words: "kernel" or "ramdisk"."""
        return self.key.removesuffix("_id")

    def spec(self, name: str, **details: Any) -> ImageSpec:
        """Return its image's settings in Glance; ``details`` are further fields of an ImageSpec."""
        return ImageSpec(
            name=name, disk_format=self.disk_format, container_format=self.disk_format, **details
        )


def needs_kernel(built: Artifact) -> bool:
    """Whether an image has no boot loader, and a kernel beside it."""
    return built.layout == "filesystem" and built.kernel is not None


def boot_files(built: Artifact, properties: Mapping[str, str]) -> tuple[BootFile, ...]:
    """Return the files that an image needs to boot, without those that ``properties`` name others for."""
    if not needs_kernel(built):
        return ()
    files = zip(BOOT_KEYS, ("aki", "ari"), (built.kernel, built.initrd), strict=True)
    return tuple(
        BootFile(key=key, path=path, disk_format=kind, sha512=digest_of(path))
        for key, kind, path in files
        if path is not None and key not in properties
    )


def make_boot_images(
    files: Iterable[BootFile], make: Callable[[BootFile], str], *, made: list[str], tell: Progress
) -> dict[str, str]:
    """Make an image of each file, and return the properties that lead to them.

    ``make`` sends a file to Glance and returns its image's id. ``made`` gets each id at once: if anything
    fails, then or later, the caller removes these images. ``tell`` gets a line for each file.
    """
    properties = {}
    for file in files:
        tell(f"uploading {file.path.name}")
        image_id = make(file)
        made.append(image_id)
        properties[file.key] = image_id
    return properties


def disk_format(
    built: Artifact,
    entries: Iterable[Entry[Image] | Entry[TestEnvironment] | Entry[UploadEnvironment]],
    *,
    hint: str,
) -> str:
    """Return the format Glance is told: that of the first of ``entries`` that says one, else the file's own.

    Raises ConfigError where the file shows another one: Glance would refuse it, or Nova fail to boot it. In
    its ``hint`` ``%s`` stands for the format that was configured.
    """
    for entry in entries:
        configured = entry.settings.glance.disk_format
        if configured is None:
            continue
        if configured != built.disk_format and {configured, built.disk_format} <= IMAGE_FORMATS:
            raise ConfigError(
                f"{entry.at('glance.disk_format')}: is {configured}, but {built.path} is {built.disk_format}",
                hint=hint.replace("%s", configured),
            )
        return configured
    return built.disk_format
