"""Images that a run makes in Glance for its tests: private, and tagged as the run's."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from pytest_dibctl.clouds import marks
from pytest_dibctl.clouds.glance_content import (
    BOOT_KEYS,
    COMMAND_LINE,
    BootFile,
    boot_files,
    disk_format,
    make_boot_images,
    needs_kernel,
)
from pytest_dibctl.clouds.openstack import image_documents, image_upload, images
from pytest_dibctl.clouds.openstack.api import Api
from pytest_dibctl.clouds.openstack.in_flight import undoing
from pytest_dibctl.clouds.protocols import CloudImage, Progress, UploadRequest
from pytest_dibctl.clouds.regions import ImageSpec
from pytest_dibctl.config import merge
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.image.artifact import Artifact


def names(name: str) -> list[str]:
    """Return the names of the image and of its kernel and initrd."""
    return [name, *(_part_name(name, key.removesuffix("_id")) for key in BOOT_KEYS)]


def _part_name(name: str, kind: str) -> str:
    return f"{name}-{kind}"


def format_of(artifact: Artifact, request: UploadRequest, environment: Entry[TestEnvironment]) -> str:
    """Return the disk format that Glance is told; raises ConfigError if the file shows another one."""
    return disk_format(
        artifact,
        (environment, request.image),
        hint="leave disk_format out, or convert the file with preprocessing",
    )


def upload(
    api: Api,
    artifact: Artifact,
    request: UploadRequest,
    *,
    environment: Entry[TestEnvironment],
    run_id: str,
    progress: Progress,
) -> CloudImage:
    """Make an image of the file, with its kernel and initrd if it needs them to boot.

    When anything fails, the image is removed again; else the caller must ``delete`` it. Raises ApiError and
    its like, ConfigError, ArtifactError.
    """
    glance = merge.glance(request.image, environment)
    tags = tuple(dict.fromkeys((*glance.tags, *marks.all_tags(run_id))))
    create = functools.partial(
        image_upload.create_from_file, api, timeout=request.deadlines.upload, progress=progress
    )

    def make(file: BootFile) -> str:
        part_name = _part_name(request.name, file.kind)
        spec = file.spec(part_name, tags=tags, allow_unverified=glance.allow_unverified)
        return str(create(file.path, spec, sha512=file.sha512)["id"])

    properties = dict(glance.properties)
    if needs_kernel(artifact):
        properties.setdefault("os_command_line", COMMAND_LINE)
    with _removed_on_failure(api) as made:
        files = boot_files(artifact, glance.properties)
        properties |= make_boot_images(files, make, made=made, tell=progress)
        spec = ImageSpec(
            name=request.name,
            disk_format=format_of(artifact, request, environment),
            container_format=glance.container_format,
            min_disk=glance.min_disk,
            min_ram=glance.min_ram,
            tags=tags,
            properties=properties,
            allow_unverified=glance.allow_unverified,
        )
        progress(f"uploading {artifact.path.name} ({artifact.size / (1 << 20):.0f} MiB) as {request.name}")
        properties_at = request.image.at("glance.properties")
        image = create(artifact.path, spec, sha512=artifact.sha512, properties_at=properties_at)
        return image_documents.cloud_image(image, artifact, companions=tuple(made))


@contextlib.contextmanager
def _removed_on_failure(api: Api) -> Iterator[list[str]]:
    """Remove the images whose ids are put into the list, if the block fails."""
    made: list[str] = []
    try:
        yield made
    except BaseException as error:
        for image_id in reversed(made):
            with undoing(error, f"image {image_id} could not be removed"):
                images.delete(api, image_id)
        raise


def delete(api: Api, image: CloudImage, *, timeout: float) -> None:
    """Remove the image, then its kernel and initrd; ``timeout`` is seconds for each. Raises ApiError."""
    with contextlib.ExitStack() as stack:
        for companion in image.companions:
            stack.callback(images.delete, api, companion, timeout=timeout)
        stack.callback(images.delete, api, image.id, timeout=timeout)


def delete_named(api: Api, name: str, run_id: str, *, timeout: float) -> None:
    """Remove the images that a dead run made under that name; ``timeout`` is seconds for each image.

    An error of one image does not stop the others; the first is raised at the end.
    """
    images.remove_named(api, names(name), marks.tags(run_id), timeout=timeout)


def existing(api: Api, image_id: str) -> CloudImage:
    """Return an image of Glance that the caller does not own; raises ImageNotFoundError."""
    document: dict[str, Any] = images.get(api, image_id)
    return image_documents.cloud_image(document, None)
