"""Glance: images, their content and their members, in each region by itself."""

from __future__ import annotations

import html
import http
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from tests.support.fake_openstack import documents
from tests.support.fake_openstack.messages import ADMIN, Answer, Document, Refusal, Request, answer
from tests.support.fake_openstack.paging import page
from tests.support.fake_openstack.routing import Service
from tests.support.fake_openstack.state import State
from tests.support.fake_openstack.transfer import receive

IMAGES = r"/image-([^/]+)/v2/images"
IMAGE = rf"{IMAGES}/([^/]+)"
PAGING = frozenset({"limit", "marker", "sort_key", "sort_dir"})


def _refused(status: int, message: str) -> Answer:
    """Return a refusal, which is HTML; errors of the server come from a proxy before Glance, and say less."""
    title = f"{status} {http.HTTPStatus(status).phrase}"
    head, heading = f"<head>\n  <title>{title}</title>\n </head>\n ", f"  <h1>{title}</h1>\n"
    if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        head = heading = ""
    body = f"<body>\n{heading}  {html.escape(message, quote=False)}<br /><br />\n\n\n </body>\n"
    headers = {"Content-Type": "text/html; charset=UTF-8"}
    return Answer(status=status, content=f"<html>\n {head}{body}</html>".encode(), headers=headers)


SERVICE = Service(_refused, request_id="x-openstack-request-id")


def _sees(cloud: State, request: Request, image: Mapping[str, Any]) -> bool:
    return (
        request.user == ADMIN
        or image["visibility"] in {"public", "community"}
        or image["owner"] == request.project
        or request.project in cloud.members.get(image["id"], {})
    )


def _seen(cloud: State, request: Request, region: str, identity: str) -> Document:
    """Return an image that the user may see."""
    image = cloud.region(region).get(identity)
    if image is None or not _sees(cloud, request, image):
        raise Refusal(404, f"No image found with ID {identity}")
    return image


def _own(cloud: State, request: Request, region: str, identity: str) -> Document:
    """Return an image that the user may change."""
    image = _seen(cloud, request, region, identity)
    if request.user != ADMIN and image["owner"] != request.project:
        raise Refusal(403, "You are not permitted to change this image")
    return image


def _check_visibility(request: Request, visibility: object) -> None:
    if visibility == "public" and request.user != ADMIN:
        raise Refusal(403, "You are not authorized to complete publicize_image action.")


@SERVICE.call("GET", r"/image-([^/]+)(?:/v2)?", public=True)
def _versions(_cloud: State, request: Request, region: str) -> Answer:
    url = f"{request.base}/image-{region}/v2/"
    return answer(300, {"versions": [documents.version("v2.18", url)]})


@SERVICE.call("GET", r"/image-[^/]+/v2/info/import")
def _import_methods(_cloud: State, _request: Request) -> Answer:
    methods = {"type": "array", "value": ["glance-direct", "glance-download"]}
    return answer(200, {"import-methods": methods})


# -- records ---------------------------------------------------------------------------------------


@SERVICE.call("POST", IMAGES)
def _create(cloud: State, request: Request, region: str) -> Answer:
    images, asked = cloud.region(region), request.data
    if asked.get("id") in images:
        raise Refusal(409, f"Image ID {asked['id']} already exists!")
    _check_visibility(request, asked.get("visibility"))
    asked = {"name": None, "owner": request.project, **asked}
    image = documents.image(now=cloud.stamp(), **asked)
    images[image["id"]] = image
    cloud.made.append(f"image {image['name']}")
    return answer(201, image)


def _is_like(image: Mapping[str, Any], key: str, value: str) -> bool:
    """Compare as Glance does: what stands before a colon is an operator, for some attributes."""
    if key not in {"name", "id", "status", "container_format", "disk_format"}:
        return str(image.get(key)) == value
    operator, colon, rest = value.partition(":")
    if not colon:
        return image.get(key) == value
    if operator == "eq":
        return image.get(key) == rest
    if operator == "in":
        return image.get(key) in rest.split(",")
    raise Refusal(400, f"Unable to filter by unknown operator '{operator}'.")


@SERVICE.call("GET", IMAGES)
def _list(cloud: State, request: Request, region: str) -> Answer:
    query = {key: value for key, value in request.query.items() if key not in PAGING}
    hidden = query.pop("os_hidden", "false") == "true"
    tag = query.pop("tag", None)
    found = [
        image
        for image in cloud.region(region).values()
        if bool(image["os_hidden"]) == hidden
        and _sees(cloud, request, image)
        and (tag is None or tag in image["tags"])
        and all(_is_like(image, key, value) for key, value in query.items())
    ]
    listed, marker = page(found, request.query, cloud.page)
    document: Document = {"images": listed, "schema": "/v2/schemas/images", "first": "/v2/images"}
    if marker is not None:
        document["next"] = f"/v2/images?{urlencode({**request.query, 'marker': marker})}"
    return answer(200, document)


@SERVICE.call("GET", IMAGE)
def _show(cloud: State, request: Request, region: str, identity: str) -> Answer:
    return answer(200, _seen(cloud, request, region, identity))


@SERVICE.call("PATCH", IMAGE)
def _change(cloud: State, request: Request, region: str, identity: str) -> Answer:
    image = _own(cloud, request, region, identity)
    changed = dict(image)
    for step in request.data:
        key = step["path"][1:].replace("~1", "/").replace("~0", "~")
        if key == "visibility":
            _check_visibility(request, step["value"])
        if step["op"] != "add" and key not in changed:
            raise Refusal(409, f"Property {key} does not exist.")
        if step["op"] == "remove":
            del changed[key]
        else:
            changed[key] = step["value"]
    for key in image.keys() - changed.keys():
        del image[key]
    image.update(changed, updated_at=cloud.stamp())
    return answer(200, image)


@SERVICE.call("DELETE", IMAGE)
def _delete(cloud: State, request: Request, region: str, identity: str) -> Answer:
    image = _own(cloud, request, region, identity)
    if image["protected"]:
        raise Refusal(403, f"Image {identity} is protected and cannot be deleted.")
    if identity in cloud.in_use:
        raise Refusal(409, f"Image {identity} could not be deleted because it is in use")
    del cloud.region(region)[identity]
    cloud.contents.pop(identity, None)
    return answer(204)


@SERVICE.call("PUT", rf"{IMAGE}/tags/([^/]+)")
def _tag(cloud: State, request: Request, region: str, identity: str, tag: str) -> Answer:
    image = _own(cloud, request, region, identity)
    image["tags"] = sorted({*image["tags"], tag})
    return answer(204)


@SERVICE.call("DELETE", rf"{IMAGE}/tags/([^/]+)")
def _untag(cloud: State, request: Request, region: str, identity: str, tag: str) -> Answer:
    image = _own(cloud, request, region, identity)
    if tag not in image["tags"]:
        raise Refusal(404, f"Tag {tag} could not be found")
    image["tags"] = [one for one in image["tags"] if one != tag]
    return answer(204)


# -- content ---------------------------------------------------------------------------------------


@SERVICE.call("PUT", rf"{IMAGE}/(file|stage)", streams=True)
def _upload(cloud: State, request: Request, region: str, identity: str, where: str) -> Answer:
    with cloud.lock:
        image = _own(cloud, request, region, identity)
        if image["status"] != "queued":
            status = image["status"]
            raise Refusal(409, f"Image status transition from {status} to saving is not allowed")
        image["status"] = "uploading" if where == "stage" else "saving"
    try:
        content = receive(cloud, request.blocks())
    except OSError:  # the client is gone
        image["status"] = "queued"
        raise
    with cloud.lock:
        if identity not in cloud.region(region):
            raise Refusal(410, f"Image {identity} could not be found after upload.")
        if content.data is not None:
            cloud.contents[identity] = content.data
        image.update(content.described)
        if where == "file":
            image["status"] = "active"
    return answer(204)


@SERVICE.call("GET", rf"{IMAGE}/file")
def _download(cloud: State, request: Request, region: str, identity: str) -> Answer:
    _seen(cloud, request, region, identity)
    if identity not in cloud.contents:
        return answer(204)
    headers = {"Content-Type": "application/octet-stream"}
    return Answer(status=200, content=cloud.contents[identity], headers=headers)


@SERVICE.call("POST", rf"{IMAGE}/import")
def _import(cloud: State, request: Request, region: str, identity: str) -> Answer:
    image = _own(cloud, request, region, identity)
    method = request.data["method"]
    if cloud.import_fails:  # asynchronously: the answer is that of a success
        failure = {"status": "failure", "message": cloud.import_fails}
        cloud.tasks.setdefault(identity, []).append(failure)
        return answer(202)
    if method["name"] == "glance-download":
        source = cloud.region(method["glance_region"])[method["glance_image_id"]]
        image.update({key: source[key] for key in ("size", "checksum", "os_hash_algo", "os_hash_value")})
        cloud.contents[identity] = cloud.contents[source["id"]]
    elif image["status"] != "uploading":
        raise Refusal(409, "nothing was staged")
    image["status"] = "active"
    return answer(202)


@SERVICE.call("GET", rf"{IMAGE}/tasks")
def _list_tasks(cloud: State, request: Request, region: str, identity: str) -> Answer:
    _seen(cloud, request, region, identity)
    return answer(200, {"tasks": cloud.tasks.get(identity, [])})


# -- members ---------------------------------------------------------------------------------------


@SERVICE.call("GET", rf"{IMAGE}/members")
def _list_members(cloud: State, request: Request, region: str, identity: str) -> Answer:
    _seen(cloud, request, region, identity)
    members = cloud.members.get(identity, {})
    listed = [{"member_id": member, "status": status} for member, status in members.items()]
    return answer(200, {"members": listed})


@SERVICE.call("POST", rf"{IMAGE}/members")
def _add_member(cloud: State, request: Request, region: str, identity: str) -> Answer:
    if _own(cloud, request, region, identity)["visibility"] != "shared":
        raise Refusal(403, "Only shared images have members.")
    members = cloud.members.setdefault(identity, {})
    member = request.data["member"]
    if member in members:
        raise Refusal(409, f"Member {member} is duplicated for image {identity}")
    members[member] = "pending"
    return answer(200, {"member_id": member, "status": "pending"})


@SERVICE.call("PUT", rf"{IMAGE}/members/([^/]+)")
def _accept(cloud: State, request: Request, region: str, identity: str, member: str) -> Answer:
    _seen(cloud, request, region, identity)
    if request.project != member and request.user != ADMIN:
        raise Refusal(403, "Only the member itself accepts.")
    cloud.members[identity][member] = request.data["status"]
    return answer(200, {"member_id": member, "status": request.data["status"]})
