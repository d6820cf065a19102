"""The second step of a target: its test image in the cloud, uploaded once per run."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_dibctl.clouds.protocols import Cloud, CloudImage, UploadRequest
from pytest_dibctl.config import merge
from pytest_dibctl.image import preprocessing
from pytest_dibctl.image.artifact import Artifact
from pytest_dibctl.run.keeping import keep
from pytest_dibctl.run.ledger import load as load_record
from pytest_dibctl.run.options import RunOptions
from pytest_dibctl.run.removal import Resource, State
from pytest_dibctl.run.serialization import plain, restored
from pytest_dibctl.run.target_run import TargetRun, confirmed, host_name


@contextlib.contextmanager
def uploaded(target_run: TargetRun, cloud: Cloud, built: Artifact) -> Iterator[CloudImage]:
    """Upload the file to the cloud as a test image, private to the run and once in it.

    The image is removed when the block ends in the process that owns it. Raises DibctlError.
    """
    cloud.check(built, _upload_request(target_run))
    step = upload_step(target_run.label, target_run.environment.label)
    image: CloudImage | None = None
    try:
        with target_run.run_state.in_use(step):
            made = target_run.once(step, lambda: _uploaded(target_run, cloud, built))
            image = CloudImage(**restored(CloudImage, made["image"]), artifact=built)
            yield image
    finally:
        if image is not None and target_run.owns_upload:
            with target_run.run_state.claim(step) as made_here:
                if made_here:
                    _release(target_run, cloud, image, Path(made_here["record"]))


def upload_step(image: str, environment: str) -> str:
    """Return the name of the upload of an image to an environment among the steps of a run."""
    return f"upload {image} to {environment}"


def unproven_file(image: str, environment: str) -> str:
    """Return under which name a run knows that the file it tests may not be made of the built one."""
    return f"unproven file of {image} in {environment}"


def _upload_request(target_run: TargetRun) -> UploadRequest:
    # Each attempt has its own name: an upload that a dead worker began is removed by its name.
    return UploadRequest(
        name=f"dibctl-{target_run.ledger.run_id}-{host_name(target_run.label)}-{uuid.uuid4().hex[:6]}",
        image=target_run.image,
        deadlines=target_run.deadlines,
    )


def _uploaded(target_run: TargetRun, cloud: Cloud, built: Artifact) -> dict[str, Any]:
    request = _upload_request(target_run)
    # The endpoint may be named by the image, and a later sweep knows the environment only.
    endpoint = target_run.image_endpoint
    record = target_run.record(cloud, "image", request.name, **({"endpoint": endpoint} if endpoint else {}))
    whole = False
    try:
        with target_run.phase("upload"), _preprocessed(target_run, built) as file:
            if file.unproven:
                target_run.run_state.put(unproven_file(target_run.label, target_run.environment.label), True)
            image = cloud.upload(file, request, progress=target_run.progress)
        record = confirmed(record)
        whole = True
    finally:
        if not whole:
            # upload removes its own image; the record is for an image that it could not remove or know of.
            with target_run.removal(record.resource, record):
                cloud.remove("image", request.name, record.details)
    return {
        "image": plain(image),
        "record": str(record.path),
        "seconds": {"upload": target_run.phases["upload"]},
    }


def _release(target_run: TargetRun, cloud: Cloud, image: CloudImage, path: Path) -> None:
    record = load_record(path)
    reason = keeps_image(target_run.options, failed=target_run.failed)
    if reason is not None:
        if record is not None:
            keep(cloud, record, reason, seconds=target_run.options.keep_seconds(reason))
        target_run.note(image_resource(image), State.KEPT, reason)
    else:
        with target_run.removal(image_resource(image), record):
            cloud.delete_image(image)


def image_resource(image: CloudImage) -> Resource:
    """Return the data of a test image for its record."""
    return Resource(kind="image", name=image.name, id=image.id)


def keeps_image(run_options: RunOptions, *, failed: bool) -> str | None:
    """Return why a test image is to be left, None if it is to be removed."""
    if run_options.upload_only and not failed:
        return "--dib-upload-only"
    return "--dib-keep-failed-image" if failed and run_options.keep_failed_image else None


def _preprocessed(target_run: TargetRun, built: Artifact) -> contextlib.AbstractContextManager[Artifact]:
    """Return the file that is uploaded, the output of ``preprocessing``, for as long as the block lasts."""
    environment = target_run.environment
    told = merge.glance(target_run.image, environment)
    return preprocessing.preprocessed(
        built,
        environment.settings.preprocessing,
        disk_format=told.disk_format,
        container_format=told.container_format,
        where=environment.at("preprocessing"),
        cwd=target_run.cwd,
        progress=target_run.progress,
    )
