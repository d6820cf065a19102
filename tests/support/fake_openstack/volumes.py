"""Cinder: the list of volumes."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.fake_openstack import documents
from tests.support.fake_openstack.compute import fault
from tests.support.fake_openstack.messages import Answer, Document, Refusal, Request, answer
from tests.support.fake_openstack.paging import linked_page
from tests.support.fake_openstack.routing import Service
from tests.support.fake_openstack.state import State

NO_FILTERS = frozenset({"limit", "marker", "all_tenants"})
KNOWN_TO_ALL = frozenset({"status", "name"})
KNOWN = KNOWN_TO_ALL | {"glance_metadata"}
ONLY_ADMINS_SEE = "os-vol-host-attr:host"

SERVICE = Service(fault, request_id="x-openstack-request-id")


@SERVICE.call("GET", r"/volume(?:/v3)?", public=True)
def _versions(_cloud: State, request: Request) -> Answer:
    url = f"{request.base}/volume/v3/"
    return answer(200, {"versions": [documents.version("v3.0", url, version="3.70", min_version="3.0")]})


@SERVICE.call("GET", r"/volume/v3(?:/[^/]+)?/volumes/detail")
def _list(cloud: State, request: Request) -> Answer:
    """List the volumes as Cinder does: to others than admins all_tenants is ignored, and hosts are not shown.

    ``cinder_admins`` see all volumes; ``sees_hosts`` are users that a policy shows hosts besides. What an
    unknown filter comes to depends on both version and user.
    """
    version = request.header("OpenStack-API-Version") or "volume 3.0"
    number = tuple(int(part) for part in version.split()[-1].split("."))
    admin = request.user in cloud.cinder_admins
    filters = {key: value for key, value in request.query.items() if key not in NO_FILTERS}
    unknown = filters.keys() - KNOWN
    if not admin:
        if unknown and number >= (3, 31):
            raise Refusal(400, f"Invalid filters {','.join(unknown)} are found in query options.")
        filters = {key: value for key, value in filters.items() if key in KNOWN_TO_ALL}
    found: Sequence[Mapping[str, Any]] = cloud.volumes or ()
    if not admin:
        found = [volume for volume in found if volume.get("_project") == request.project]
    if "status" in filters:
        found = [volume for volume in found if volume.get("status") == filters["status"]]
    if "glance_metadata" in filters and number >= (3, 4):
        like = ast.literal_eval(filters["glance_metadata"]).items()
        found = [volume for volume in found if like <= (volume.get("volume_image_metadata") or {}).items()]
    if filters.keys() - KNOWN:
        found = ()

    def shown(volume: Mapping[str, Any]) -> Document:
        hidden = set() if admin or request.user in cloud.sees_hosts else {ONLY_ADMINS_SEE}
        return {key: value for key, value in documents.plain(volume).items() if key not in hidden}

    headers = {"OpenStack-API-Version": version}
    return answer(200, linked_page("volumes", found, request, cloud.page, show=shown), **headers)
