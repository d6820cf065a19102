"""Cinder: the list of volumes."""

from __future__ import annotations

from urllib.parse import urlencode

from tests.support.fake_openstack import documents
from tests.support.fake_openstack.compute import fault
from tests.support.fake_openstack.messages import ADMIN, Answer, Request, answer
from tests.support.fake_openstack.routing import Service, page
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
    listed, marker = page(cloud.volumes or (), request.query, cloud.page)
    if request.user != ADMIN:
        listed = [
            {key: value for key, value in volume.items() if key != ONLY_ADMINS_SEE} for volume in listed
        ]
    following = None
    if marker is not None:
        query = urlencode({**request.query, "marker": marker})
        following = f"{request.base}{request.path}?{query}"
    return answer(200, documents.with_link("volumes", listed, following))
