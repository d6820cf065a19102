"""An image sent to Glance: one read of the file, verified, never left half done."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_dibctl.clouds.file_body import opened
from pytest_dibctl.clouds.openstack import images
from pytest_dibctl.clouds.openstack.api import SAFE_CALL_TIMEOUT, Api
from pytest_dibctl.clouds.openstack.image_documents import document
from pytest_dibctl.clouds.openstack.in_flight import undoing
from pytest_dibctl.clouds.openstack.pauses import pause_before_again, pauses_between
from pytest_dibctl.clouds.openstack.refusals import CONFLICT, raise_for_status
from pytest_dibctl.clouds.protocols import Progress
from pytest_dibctl.clouds.regions import DIGESTS, Content, ImageSpec, LateError
from pytest_dibctl.config.merge import ImportSettings
from pytest_dibctl.errors import ApiError
from pytest_dibctl.system import signals

log = logging.getLogger(__name__)

SENDINGS = 3
"""How often a body is sent when the connection breaks, or its token expires, meanwhile.

While Glance refuses it with a transient error, it is sent again for ``SAFE_CALL_TIMEOUT`` seconds.
"""
SETTLING = 30.0
"""Seconds in which Glance notices that a connection broke, and accepts the body again."""


def create_from_file(
    api: Api,
    path: Path,
    spec: ImageSpec,
    *,
    sha512: str,
    timeout: float,
    progress: Progress,
    properties_at: str = "",
) -> dict[str, Any]:
    """Make an image of the file at ``path``, whose SHA-512 is known, as ``create`` does.

    Raises ArtifactError for a file that cannot be read or changes meanwhile.
    """
    deadline = time.monotonic() + timeout
    with opened(path, sha512=sha512, deadline=deadline, progress=progress) as body:
        return create(api, body, spec, timeout=timeout, properties_at=properties_at)


def create(
    api: Api, content: Content, spec: ImageSpec, *, timeout: float, properties_at: str = ""
) -> dict[str, Any]:
    """Make an image and return it, active and verified, as Glance describes it.

    ``timeout`` is seconds for all of it; ``properties_at`` is the setting that holds the properties. When
    anything fails, an interruption included, the image is removed again. The caller owns the returned image.

    Raises ApiError and its like, ConfigError for properties that Glance keeps for itself, ArtifactError for
    a file that changed meanwhile.
    """
    deadline = time.monotonic() + timeout
    # We choose the id: even if the answer is lost there is one image at most, and it can be found.
    image_id = str(uuid.uuid4())
    described = {"id": image_id, **document(spec, properties_at)}
    try:
        with api.in_flight.creating(image_id):
            _register(api, described)
        return _fill(api, image_id, content, spec, deadline=deadline, timeout=timeout)
    except BaseException as error:
        here = threading.current_thread() is threading.main_thread()  # no other thread is interrupted
        hold = signals.held() if here else contextlib.nullcontext()
        with hold, undoing(error, f"image {image_id} may have been left in Glance"):
            api.in_flight.settled(image_id, lambda: images.delete(api, image_id))
        raise


def _register(api: Api, document: Mapping[str, Any]) -> None:
    """Make the image's record, once, even if Glance's answer gets lost."""
    try:
        api.safely(
            "image",
            f"make image {document['name']}",
            lambda: raise_for_status(api.image.post("/images", json=document)),
        )
    except ApiError as error:
        if error.status != CONFLICT or images.get(api, document["id"])["status"] != "queued":
            raise


def _fill(
    api: Api, image_id: str, content: Content, spec: ImageSpec, *, deadline: float, timeout: float
) -> dict[str, Any]:
    late = ApiError(
        f"image {spec.name} ({image_id}) was not uploaded within {timeout:g} s",
        hint="raise glance.upload_timeout",
    )
    api.renew_token(max(0.0, deadline - time.monotonic()))
    try:
        if not spec.importing.is_fetched:
            _send(api, image_id, content, spec.importing, deadline=deadline)
        if spec.importing.method is not None:
            _import(api, image_id, spec.importing)
    except LateError:
        raise late from None
    importing = spec.importing.method is not None
    left = max(1.0, deadline - time.monotonic())
    image = images.await_active(
        api, image_id, spec.name, timeout=left, importing=importing, go_on=content.go_on
    )
    if image is None:
        raise late
    _verify(image, content, arrived=not spec.importing.is_fetched, allow_unverified=spec.allow_unverified)
    return image


def _send(api: Api, image_id: str, content: Content, importing: ImportSettings, *, deadline: float) -> None:
    """Send the body, again from its start when the connection breaks and Glance has nothing of it."""
    doing = f"upload image {image_id}"
    staged = importing.method is not None
    done = "uploading" if staged else "active"
    headers = {"Content-Type": "application/octet-stream", "Accept": ""}
    # Not only a length of the body: Glance's stores make room by it, and S3 chooses multipart.
    headers["X-OpenStack-Image-Size"] = str(len(content))
    if not staged and importing.stores:
        headers["X-Image-Meta-Store"] = importing.stores[0]

    def put() -> None:
        # raise_exc is off in the SDK; without a body to read, the answer is its status.
        url = f"/images/{image_id}/{'stage' if staged else 'file'}"
        raise_for_status(api.image.put(url, data=content, headers=headers))

    pauses = pauses_between()
    patience: float | None = None
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise LateError
        try:
            api.once("image", doing, put, timeout=left)
        except ApiError as error:
            now = time.monotonic()
            if error.transient and now >= deadline:
                raise LateError from error
            refused = error.status is not None or error.undone
            patience = (patience or now + SAFE_CALL_TIMEOUT) if refused else None
            # Where Glance looks at the second body before it has looked at the broken first, it refuses
            # the second: the image is being filled.
            overtaken = error.status == CONFLICT and content.sendings > 1
            patient = content.sendings < SENDINGS or (patience is not None and now < patience)
            again = patient and (error.transient or overtaken)
            status = _settled(api, image_id, deadline=deadline) if again else None
            if status == done:  # only the answer got lost; whether all of it arrived is verified
                return
            if status != "queued":
                raise
            pause_before_again(error, pauses, deadline)
            log.info("%s; sending it again", error.message)
            api.forget_token()
        else:
            return


def _import(api: Api, image_id: str, importing: ImportSettings) -> None:
    """Tell Glance to import the staged bytes, or to fetch them itself."""
    how = {"name": importing.method}
    if importing.uri is not None:
        how["uri"] = importing.uri
    if importing.image_id is not None:
        how |= {
            "glance_region": importing.region,
            "glance_image_id": importing.image_id,
            "glance_service_interface": "public",
        }
    document: dict[str, Any] = {"method": how}
    if importing.all_stores:
        document["all_stores"] = True
    elif importing.stores:
        document["stores"] = list(importing.stores)
    # Glance refuses a second import, while the first goes on, as a conflict.
    api.repeat(
        "image",
        f"import image {image_id} by {importing.method}",
        lambda: raise_for_status(api.image.post(f"/images/{image_id}/import", json=document)),
    )


def _settled(api: Api, image_id: str, *, deadline: float) -> str | None:
    """Return the image's status once Glance has noticed that nothing more comes, None if it never does.

    While it is staged an image is "uploading" from the first byte on, and has a size after the last.
    """

    def look() -> str | None:
        image = images.get(api, image_id)
        status = str(image.get("status"))
        going_on = status == "saving" or (status == "uploading" and image.get("size") is None)
        return None if going_on else status

    left = max(0.0, deadline - time.monotonic())
    return api.wait(look, timeout=min(SETTLING, left))


def _verify(image: Mapping[str, Any], content: Content, *, arrived: bool, allow_unverified: bool) -> None:
    """Raise ApiError unless Glance says that it has exactly the bytes of ``content``.

    With ``allow_unverified`` it need not say so, and must not say otherwise. ``arrived`` says that we
    sent them; else Glance fetched them from elsewhere.
    """
    missing = []
    for attribute, expected in _expected(image, content):
        actual = image.get(attribute)
        if expected is None or actual is None:
            missing.append({"size": "size"}.get(attribute, "digest"))
        elif actual != expected:
            fault = "arrived damaged" if arrived else "is not the one that Glance was to fetch"
            if arrived:
                content.refuse_changed()
            raise ApiError(
                f"image {image['name']} ({image['id']}) {fault}: its {attribute} in Glance is {actual}, and "
                f"should be {expected}; it is removed again"
            )
    if not missing:
        return
    message = (
        f"image {image['name']} ({image['id']}): no usable {' and no usable '.join(missing)} is told of it"
    )
    if not allow_unverified:
        raise ApiError(
            f"{message}, so it cannot be verified; it is removed again",
            hint="allow_unverified: true in the glance section, or `dibctl transfer --allow-unverified`, "
            "lets it pass",
        )
    log.warning("%s, so it is not verified", message)


def _expected(image: Mapping[str, Any], content: Content) -> Iterator[tuple[str, int | str | None]]:
    """Yield attributes of the image and their expected values; the MD5 checksum only where no hash is."""
    yield "size", len(content)
    algorithm = str(image.get("os_hash_algo") or "")
    if algorithm in DIGESTS and image.get("os_hash_value"):
        yield "os_hash_value", content.digest(algorithm)
    else:
        yield "checksum", content.digest("md5")
