"""Keystone: logins, the catalog, projects."""

from __future__ import annotations

import datetime as dt
import http
from collections.abc import Mapping

from tests.support.fake_openstack import documents
from tests.support.fake_openstack.messages import ADMIN, Answer, Document, Refusal, Request, answer, new_token
from tests.support.fake_openstack.routing import Service
from tests.support.fake_openstack.state import State

LIFETIME = dt.timedelta(hours=1)


def _refused(status: int, message: str) -> Answer:
    title = http.HTTPStatus(status).phrase
    return answer(status, {"error": {"code": status, "message": message, "title": title}})


SERVICE = Service(_refused, request_id="x-openstack-request-id")


@SERVICE.call("GET", r"/identity(/v3)?", public=True)
def _versions(_cloud: State, request: Request, version: str | None) -> Answer:
    latest = documents.version("v3.14", f"{request.base}/identity/v3/", **{"media-types": []})
    latest["status"] = "stable"
    return answer(200, {"version": latest}) if version else answer(300, {"versions": {"values": [latest]}})


@SERVICE.call("POST", r"/identity/v3/auth/tokens", public=True)
def _log_in(cloud: State, request: Request) -> Answer:
    auth = request.data["auth"]
    credentials = auth["identity"]["password"]["user"]
    user = credentials["name"]
    if user not in cloud.users or credentials["password"] not in cloud.passwords:
        raise Refusal(401, "The request you have made requires authentication.")
    project = _scope(cloud, user, auth.get("scope", {}).get("project", {}))
    domain = {"id": "default", "name": "Default"}
    now = dt.datetime.now(dt.UTC)  # clients compare it with their own clock, not with the cloud's
    token = {
        "methods": ["password"],
        "user": {"id": user, "name": user, "domain": domain},
        "project": {"id": project, "name": user, "domain": domain},
        "roles": [{"id": "r", "name": "admin" if user == ADMIN else "member"}],
        "is_domain": False,
        "issued_at": _moment(now),
        "expires_at": _moment(now + LIFETIME),
        "catalog": _catalog(cloud, request.base),
    }
    return answer(201, {"token": token}, **{"X-Subject-Token": new_token(user, project)})


def _scope(cloud: State, user: str, asked: Mapping[str, str]) -> str:
    """Return the project that a login is for; only an admin gets into another than its own."""
    project = cloud.users[user]
    own = asked.get("id", project) == project and asked.get("name", user) == user
    if not own and user != ADMIN:
        raise Refusal(401, "User has no access to project")
    return project


def _moment(when: dt.datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%S.000000Z")


def _catalog(cloud: State, base: str) -> list[Document]:
    paths = {
        ("identity", "keystone"): "/identity/v3",
        ("image", "glance"): "/image-{region}",
        ("compute", "nova"): "/compute/v2.1",
        ("network", "neutron"): "/network",
        **({("block-storage", "cinder"): "/volume/v3"} if cloud.volumes is not None else {}),
    }
    return [
        {
            "type": kind,
            "name": name,
            "id": kind,
            "endpoints": [
                {
                    "id": f"{kind}-{region}-{interface}",
                    "interface": interface,
                    "region": region,
                    "region_id": region,
                    "url": base + path.format(region=region),
                }
                for region in cloud.regions
                for interface in ("public", "internal", "admin")
            ],
        }
        for (kind, name), path in paths.items()
    ]


def _projects(cloud: State) -> list[Document]:
    return [{"id": project, "name": name} for name, project in cloud.users.items()]


@SERVICE.call("GET", r"/identity/v3/auth/projects")
def _own_projects(cloud: State, request: Request) -> Answer:
    return answer(
        200, {"projects": [project for project in _projects(cloud) if project["id"] == request.project]}
    )


@SERVICE.call("GET", r"/identity/v3/projects")
def _list_projects(cloud: State, request: Request) -> Answer:
    _only_admins(request)
    named = [project for project in _projects(cloud) if request.query.get("name") == project["name"]]
    return answer(200, {"projects": named})


@SERVICE.call("GET", r"/identity/v3/projects/([^/]+)")
def _show_project(cloud: State, request: Request, identity: str) -> Answer:
    _only_admins(request)
    for project in _projects(cloud):
        if project["id"] == identity:
            return answer(200, {"project": project})
    raise Refusal(404, f"Could not find project: {identity}.")


def _only_admins(request: Request) -> None:
    if request.user != ADMIN:
        raise Refusal(403, "You are not authorized to perform the requested action.")
