"""Images in Glance: found, waited for, tagged and deleted."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pytest_dibctl.clouds import marks
from pytest_dibctl.clouds.openstack import shapes
from pytest_dibctl.clouds.openstack.api import Api
from pytest_dibctl.clouds.openstack.image_documents import OWN
from pytest_dibctl.clouds.openstack.lists import pages
from pytest_dibctl.clouds.openstack.refusals import raise_for_status
from pytest_dibctl.errors import ApiError, DibctlError, ImageNotFoundError

log = logging.getLogger(__name__)

_SEE_LOG = "Glance's log says why: a full store, or a format other than the declared one"
NO_PROPERTIES = OWN | {
    *("limit", "marker", "sort", "sort_key", "sort_dir", "tag", "member_status", "changes-since"),
    *("deleted", "deleted_at", "is_public", "properties"),
}
"""Names that mean something else in a query of Glance than a property."""
GOING_ON = frozenset({"queued", "saving", "importing", "uploading"})


def await_active(
    api: Api,
    image_id: str,
    name: str,
    *,
    timeout: float,
    importing: bool = False,
    go_on: Callable[[], None] = lambda: None,
) -> dict[str, Any] | None:
    """Return the image once it is active, None after ``timeout`` seconds; ApiError if it never will be.

    After an import that failed, the image only goes back to where it was: ``importing`` looks at its tasks.
    ``go_on`` is called before each look, and may raise.
    """

    def look() -> dict[str, Any] | None:
        go_on()
        image = get(api, image_id)
        status = image.get("status")
        if status == "active":
            return image
        if status not in GOING_ON:
            raise ApiError(
                f"image {name} ({image_id}) became {status} in Glance instead of active",
                hint=_SEE_LOG,
            )
        if importing and (failure := _failed_task(api, image_id)) is not None:
            raise ApiError(f"image {name} ({image_id}) could not be imported: {failure}", hint=_SEE_LOG)
        return None

    return api.wait(look, timeout=timeout)


def _failed_task(api: Api, image_id: str) -> str | None:
    """Return Glance's message about a failed import of the image; older versions give none."""
    with contextlib.suppress(ApiError, ImageNotFoundError):
        answer = api.safely(
            "image",
            f"list the tasks of image {image_id}",
            lambda: shapes.read(raise_for_status(api.image.get(f"/images/{image_id}/tasks")), shapes.Tasks),
        )
        for task in answer.get("tasks", ()):
            if task.get("status") == "failure":
                return str(task.get("message") or "Glance's log says why")
    return None


def get(api: Api, image_id: str) -> dict[str, Any]:
    """Return an image as Glance describes it; raises ImageNotFoundError."""

    def ask() -> dict[str, Any]:
        image = shapes.read(raise_for_status(api.image.get(f"/images/{image_id}")), shapes.Image)
        if image["id"] != image_id:
            raise shapes.ShapeError(f"image {image['id']} instead of {image_id}")
        return dict(image)

    return api.safely("image", f"find image {image_id}", ask)


def delete(api: Api, image_id: str, *, timeout: float = 60) -> None:
    """Delete an image and wait until it is gone; nothing happens when it is gone already."""
    deadline = time.monotonic() + timeout

    def ask() -> None:
        response = api.image.delete(f"/images/{image_id}")
        raise_for_status(response)

    with contextlib.suppress(ImageNotFoundError):
        api.safely("image", f"delete image {image_id}", ask, timeout=timeout)
        gone = api.wait(lambda: _is_gone(api, image_id), timeout=max(1.0, deadline - time.monotonic()))
        if not gone:
            raise ApiError(f"image {image_id} is still there {timeout:g} s after it was deleted")


def _is_gone(api: Api, image_id: str) -> bool | None:
    try:
        return True if get(api, image_id).get("status") == "deleted" else None
    except ImageNotFoundError:
        return True


def listed(
    api: Api,
    *,
    owner: str,
    name: str | None = None,
    tag: str | None = None,
    properties: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the images of the project ``owner``, hidden ones too, as Glance describes them.

    Glance filters them by name, tag and properties; all are compared here too. Raises ApiError.
    """
    filters = dict(properties or {})
    query = {key: value for key, value in filters.items() if _is_plain(key)} | {"owner": owner}
    if tag is not None:
        query["tag"] = tag
    if name is not None:
        # Glance takes text before a colon for an operator, and text after "eq:" as it is.
        query["name"] = f"eq:{name}" if ":" in name else name
    for hidden in ("false", "true"):
        for image in pages(api, "image", "/images", {**query, "os_hidden": hidden}, "images"):
            is_named = name in {None, image.get("name")}
            is_tagged = tag is None or tag in image.get("tags", ())
            is_like = all(image.get(key) == value for key, value in filters.items())
            if image.get("owner") == owner and is_named and is_tagged and is_like:
                yield dict(image)


def _is_plain(key: str) -> bool:
    """Whether Glance takes a key in a query for a property's name, and for nothing else."""
    return key not in NO_PROPERTIES and not key.endswith(("_min", "_max"))


def named(api: Api, names: Sequence[str], tags: Sequence[str]) -> list[dict[str, Any]]:
    """Return the project's own images of these names that bear all of the tags, hidden ones too."""
    owner = api.project_id
    images: dict[str, dict[str, Any]] = {}
    for name in names:
        for image in listed(api, owner=owner, name=name):
            if set(tags) <= set(image.get("tags", ())):
                images[image["id"]] = image
    return list(images.values())


def every(api: Api) -> Iterator[dict[str, Any]]:
    """Yield all images of the project's own that are made for tests, hidden ones too."""
    yield from listed(api, owner=api.project_id, tag=marks.TEST)


def snapshots(api: Api) -> Iterator[dict[str, Any]]:
    """Yield all images of the project's own that were made of servers, users' too."""
    for image in listed(api, owner=api.project_id, properties={"image_type": "snapshot"}):
        if marks.TEST not in image.get("tags", ()):  # these are in ``every``
            yield image


def find(api: Api, image_id: str) -> dict[str, Any] | None:
    """Return an image, None if there is none of that id."""
    try:
        return get(api, image_id)
    except ImageNotFoundError:
        return None


def tag(api: Api, image_id: str, name: str) -> None:
    """Give an image a tag more; it may have it already."""
    api.safely(
        "image",
        f"mark image {image_id}",
        lambda: raise_for_status(api.image.put(f"/images/{image_id}/tags/{name}")),
    )


def untag(api: Api, image_id: str, name: str) -> None:
    """Take a tag away; it may be gone already."""

    def ask() -> None:
        raise_for_status(api.image.delete(f"/images/{image_id}/tags/{name}"))

    with contextlib.suppress(ImageNotFoundError):
        api.safely("image", f"mark image {image_id}", ask)


def remove_named(api: Api, names: Sequence[str], tags: Sequence[str], *, timeout: float) -> None:
    """Delete every image that ``named`` finds; an error of one does not stop the others."""
    first: DibctlError | None = None
    for image in named(api, names, tags):
        try:
            delete(api, image["id"], timeout=timeout)
        except DibctlError as error:
            first = first or error
    if first is not None:
        raise first
