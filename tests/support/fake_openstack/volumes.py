"""Cinder: the list of volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.fake_openstack import documents
from tests.support.fake_openstack.compute import fault
from tests.support.fake_openstack.messages import ADMIN, Answer, Document, Request, answer
from tests.support.fake_openstack.paging import linked_page
from tests.support.fake_openstack.routing import Service
from tests.support.fake_openstack.state import State

ONLY_ADMINS_SEE = "os-vol-host-attr:host"

SERVICE = Service(fault, request_id="x-openstack-request-id")


@SERVICE.call("GET", r"/volume(?:/v3)?", public=True)
def _versions(_cloud: State, request: Request) -> Answer:
    url = f"{request.base}/volume/v3/"
    return answer(200, {"versions": [documents.version("v3.0", url, version="3.70", min_version="3.0")]})


@SERVICE.call("GET", r"/volume/v3(?:/[^/]+)?/volumes/detail")
def _list(cloud: State, request: Request) -> Answer:
    """List the volumes; to others than admins all_tenants is not refused, and hosts are not shown."""

    def shown(volume: Mapping[str, Any]) -> Document:
        hidden = set() if request.user == ADMIN else {ONLY_ADMINS_SEE}
        return {key: value for key, value in volume.items() if key not in hidden}

    return answer(200, linked_page("volumes", cloud.volumes or (), request, cloud.page, show=shown))
