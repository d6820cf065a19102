"""The cloud: every request goes to the service whose path it has."""

from __future__ import annotations

import dataclasses
import email.utils
import json

from tests.support.fake_openstack import compute, identity, images, network, volumes
from tests.support.fake_openstack.messages import Answer, Request
from tests.support.fake_openstack.routing import Service
from tests.support.fake_openstack.state import State

SERVICES: dict[str, Service] = {
    "identity": identity.SERVICE,
    "image": images.SERVICE,
    "compute": compute.SERVICE,
    "network": network.SERVICE,
    "volume": volumes.SERVICE,
}
"""By the first part of their paths, up to a hyphen: Glance has one for each region."""


class FakeCloud(State):
    """A cloud that answers. The user "admin" is an admin, all others are members of their projects."""

    def handle(self, request: Request) -> Answer:
        """Return the services' answer to a request."""
        path = request.path.rstrip("/")
        if path == "/calls":
            return self._give_calls()
        self.calls.append((request.method, path))
        service = SERVICES.get(path.split("/", 2)[1].partition("-")[0] if path else "")
        if service is None:
            return Answer(status=404)
        answer = service.handle(self, request, path)
        now = email.utils.format_datetime(self.now(), usegmt=True)
        return dataclasses.replace(
            answer, headers={**({"Date": now} if self.tells_time else {}), **answer.headers}
        )

    def _give_calls(self) -> Answer:
        """Return the calls since this was last asked for, without Keystone's, for measurements elsewhere."""
        calls, self.calls = self.calls, []
        listed = [call for call in calls if not call[1].startswith("/identity")]
        return Answer(status=200, content=json.dumps(listed).encode())
