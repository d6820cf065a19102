"""Services that misbehave: they lead elsewhere, never end, give other shapes, or say too little."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from pytest_dibctl.clouds.openstack.api import Api
from pytest_dibctl.clouds.openstack.lists import pages
from pytest_dibctl.clouds.openstack.login import open_api
from pytest_dibctl.clouds.openstack.regions import OpenStackRegion
from pytest_dibctl.config.credentials import Credentials
from pytest_dibctl.config.models.upload import UploadEnvironment
from pytest_dibctl.errors import ApiError, DibctlError
from tests.support.cloud_files import FAULTS, write_clouds
from tests.support.fake_openstack import FakeCloud, serving
from tests.support.fake_openstack.messages import TOKEN, Answer, Request
from tests.support.fake_openstack.server import Server, serving_backend
from tests.support.loopback import QuietHandler, listening
from tests.support.publishing import Shop

Change = Callable[[Request, Answer], Answer]


@dataclasses.dataclass(kw_only=True)
class Front:
    """A cloud whose answers ``change`` may spoil, and another server, which should hear of nothing."""

    cloud: FakeCloud
    change: Change = lambda _request, answer: answer
    requests: list[Request] = dataclasses.field(default_factory=list)
    elsewhere: str = ""
    heard: list[Request] = dataclasses.field(default_factory=list)

    def handle(self, request: Request) -> Answer:
        self.requests.append(request)
        return self.change(request, self.cloud.handle(request))

    def hear(self, request: Request) -> Answer:
        self.heard.append(request)
        return Answer(status=200, content=b"{}")


@pytest.fixture
def front() -> Iterator[Front]:
    made = Front(cloud=FakeCloud())
    with serving_backend(made.handle) as server, serving_backend(made.hear) as other:
        made.cloud.url = f"{server.url}/identity/v3"
        made.elsewhere = other.url
        yield made


@pytest.fixture
def api(front: Front) -> Iterator[Api]:
    opened = _opened(front.cloud.url)
    yield opened
    opened.close()


def _opened(url: str) -> Api:
    credentials = Credentials(
        method="password",
        auth_url=url,
        username="demo",
        password=SecretStr("secret"),
        project_name="demo",
        user_domain_id="default",
        project_domain_id="default",
        region_name="RegionOne",
    )
    site = UploadEnvironment.model_validate({"keystone": {}})
    return open_api(credentials, site, where="upload.yaml:1:1 (one.keystone)", environ={})


def _json(document: Any, **headers: str) -> Answer:
    content = json.dumps(document).encode()
    return Answer(status=200, content=content, headers={"Content-Type": "application/json", **headers})


def _listed(api: Api, service: Any, url: str, key: str) -> list[Any]:
    return list(pages(api, service, url, {}, key))


def _servers(api: Api) -> list[Any]:
    return api.safely("compute", "list instances", lambda: list(api.compute.servers()))


def _networks(api: Api) -> list[Any]:
    return api.safely("network", "list networks", lambda: list(api.network.networks()))


CALLS: dict[str, tuple[str, Callable[[Api], object]]] = {
    "login": ("/identity/v3/auth/tokens", lambda api: api.project_id),
    "glance list": ("/image-RegionOne/v2/images", lambda api: _listed(api, "image", "/images", "images")),
    "glance discovery": ("/image-RegionOne", lambda api: _listed(api, "image", "/images", "images")),
    "nova": ("/compute/v2.1/servers/detail", _servers),
    "neutron": ("/network/v2.0/networks", _networks),
}


@pytest.mark.parametrize("status", [301, 302, 303, 305, 307, 308])
@pytest.mark.parametrize("call", CALLS)
def test_no_redirect_leads_elsewhere(front: Front, api: Api, call: str, status: int) -> None:
    path, ask = CALLS[call]

    def change(request: Request, answer: Answer) -> Answer:
        if request.path.rstrip("/") == path:
            return Answer(status=status, headers={"Location": f"{front.elsewhere}{request.path}"})
        return answer

    front.change = change
    with pytest.raises(DibctlError, match="redirected to") as caught:
        ask(api)
    assert front.elsewhere in caught.value.message
    assert TOKEN not in str(caught.value)
    assert not front.heard


@pytest.mark.parametrize(
    "address", ["//{}/x", "http://127.0.0.1@{}/x", "HTTP://{}/x", "http:\\\\{}\\x", "https://{}/x"]
)
def test_no_spelling_of_an_address_hides_it(front: Front, api: Api, address: str) -> None:
    other = front.elsewhere.removeprefix("http://")
    front.change = lambda request, answer: (
        Answer(status=302, headers={"Location": address.format(other)})
        if request.path.endswith("/images")
        else answer
    )
    with pytest.raises(DibctlError):
        _listed(api, "image", "/images", "images")
    assert not front.heard


def test_a_redirect_within_a_service_is_followed(front: Front, api: Api) -> None:
    front.cloud.add_image("here")

    def change(request: Request, answer: Answer) -> Answer:
        if request.path == "/image-RegionOne/v2/images" and "again" not in request.query:
            return Answer(status=307, headers={"Location": f"{request.path}?again=1"})
        return dataclasses.replace(answer) if "again" not in request.query else _json({"images": []})

    front.change = change
    assert _listed(api, "image", "/images", "images") == []


def test_no_link_to_a_next_page_leads_elsewhere(front: Front, api: Api) -> None:
    def change(request: Request, answer: Answer) -> Answer:
        if request.path.endswith("/networks"):
            link = {"rel": "next", "href": f"{front.elsewhere}/v2.0/networks?marker=a"}
            return _json({"networks": [{"id": "a", "name": "a"}], "networks_links": [link]})
        return answer

    front.change = change
    with pytest.raises(DibctlError, match="nothing was sent to it"):
        _networks(api)
    assert not front.heard


def test_no_document_of_versions_leads_elsewhere(front: Front, api: Api) -> None:
    def change(request: Request, answer: Answer) -> Answer:
        if request.path.rstrip("/") == "/image-RegionOne":
            here = request.base.encode()
            return dataclasses.replace(answer, content=answer.content.replace(here, front.elsewhere.encode()))
        return answer

    front.change = change
    with contextlib.suppress(DibctlError):
        _listed(api, "image", "/images", "images")
    assert any(request.path.rstrip("/") == "/image-RegionOne" for request in front.requests)
    assert not front.heard


@pytest.mark.parametrize("part", ["status line", "head", "body", "chunks", "continue"])
def test_drops_do_not_add_up_to_more_than_the_deadline(part: str) -> None:
    class Drips(QuietHandler):
        def _serve(self) -> None:
            whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"
            first = {
                "status line": b"",
                "head": b"HTTP/1.1 200 OK\r\nX: ",
                "body": whole,
                "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                "continue": b"",
            }
            drop = {"chunks": b"1\r\nx\r\n", "continue": b"HTTP/1.1 100 Continue\r\n\r\n"}.get(part, b"x")
            try:
                self.wfile.write(first[part])
                for _ in range(150):
                    self.wfile.write(drop)
                    self.wfile.flush()
                    time.sleep(0.2)
            except OSError:
                self.close_connection = True

    with listening(Drips) as port:
        api = _opened(f"http://127.0.0.1:{port}/identity/v3")
        started = time.monotonic()
        with pytest.raises(DibctlError):
            api.once("identity", "log in", api.connection.session.get_token, timeout=1.5)
        assert time.monotonic() - started < 6
        api.close()


@pytest.mark.parametrize(
    "page",
    [
        lambda _number: {"images": [{"id": "a", "status": "active"}], "next": "/v2/images?marker=a"},
        lambda number: {"images": [{"id": "a", "status": "active"}], "next": f"/v2/images?marker={number}"},
        lambda number: {"images": [], "next": f"/v2/images?marker={number}"},
        lambda number: {
            "images": [{"id": "ab"[number % 2], "status": "active"}],
            "next": f"/v2/images?marker={'ab'[number % 2]}",
        },
    ],
    ids=["same link", "same item", "no items", "two in turns"],
)
def test_pages_that_lead_nowhere_are_noticed(front: Front, api: Api, page: Callable[[int], Any]) -> None:
    front.change = lambda request, answer: (
        _json(page(len(front.requests))) if request.path.endswith("/images") else answer
    )
    with pytest.raises(ApiError, match="without an end"):
        _listed(api, "image", "/images", "images")
    assert len(front.requests) < 50


def test_openstacksdk_is_not_led_in_circles_either(front: Front, api: Api) -> None:
    def change(request: Request, answer: Answer) -> Answer:
        if request.path.endswith("/networks"):
            mine = "ab"[request.query.get("marker") == "a"]
            link = {"rel": "next", "href": f"{request.base}/network/v2.0/networks?marker={mine}"}
            return _json({"networks": [{"id": mine, "name": mine}], "networks_links": [link]})
        return answer

    front.change = change
    with pytest.raises(ApiError, match="again and again"):
        _networks(api)


@pytest.mark.parametrize(
    "document",
    [
        [],
        None,
        "text",
        3,
        {},
        {"images": None},
        {"images": {}},
        {"images": ["a"]},
        {"images": [{"name": "no id"}]},
        {"images": [{"id": 3, "status": "active"}]},
        {"images": [{"id": "../servers", "status": "active"}]},
        {"images": [{"id": "a", "status": "active", "size": "3"}]},
        {"images": [{"id": "a", "status": "active", "tags": "x"}]},
        {"images": [], "next": 3},
    ],
)
def test_an_answer_of_another_shape_is_told_at_once(front: Front, api: Api, document: Any) -> None:
    front.change = lambda request, answer: (
        _json(document, **{"x-openstack-request-id": "req-7"}) if request.path.endswith("/images") else answer
    )
    started = time.monotonic()
    with pytest.raises(ApiError, match="Glance gave an answer that cannot be read") as caught:
        list(OpenStackRegion(api, name="one", where="here").images())
    assert "req-7" in caught.value.message
    assert "/image-RegionOne/v2/images" in caught.value.message
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "document", [[], None, "x", {}, {"servers": 3}, {"servers": [{"id": "a", "name": 3}]}]
)
def test_so_is_one_that_openstacksdk_reads(front: Front, api: Api, document: Any) -> None:
    front.change = lambda request, answer: (
        _json(document) if request.path.endswith("/servers/detail") else answer
    )
    # Such an answer may be one that was cut off: it is asked for again while there is time.
    with pytest.raises(ApiError, match="Nova gave an answer that cannot be read"):
        api.safely("compute", "list instances", lambda: list(api.compute.servers()), timeout=1.0)


# -- what Glance has -------------------------------------------------------------------------------


@pytest.fixture
def saying(shop: Shop) -> Iterator[Callable[..., None]]:
    """Have Glance describe its images otherwise."""
    more: dict[str, Any] = {}

    def backend(request: Request) -> Answer:
        answer = shop.cloud.handle(request)
        described = request.method == "GET" and re.search("/v2/images/[^/]+$", request.path)
        if described and answer.status == 200 and more:
            document = {**json.loads(answer.content), **more}
            return _json({key: value for key, value in document.items() if value != "left out"})
        return answer

    with serving_backend(backend) as server:
        _serve_by(shop, server)
        yield more.update


def _serve_by(shop: Shop, server: Server) -> None:
    shop.cloud.url = f"{server.url}/identity/v3"
    shop.write()


UNVERIFIED: list[dict[str, object]] = [
    {"size": None},
    {"size": "left out"},
    {"os_hash_algo": None, "os_hash_value": None, "checksum": None},
    {"os_hash_algo": "left out", "os_hash_value": "left out", "checksum": "left out"},
    {"os_hash_algo": "gost", "os_hash_value": "00", "checksum": None},
    {"os_hash_algo": "shake_128", "os_hash_value": "00", "checksum": None},
    {"os_hash_algo": "sha512", "os_hash_value": "", "checksum": None},
]


@pytest.mark.parametrize("said", UNVERIFIED, ids=str)
def test_what_cannot_be_verified_is_not_published(
    shop: Shop, saying: Callable[..., None], said: dict[str, object]
) -> None:
    saying(**said)
    code, out, err = shop.run("upload", "debian", "one")
    assert code != 0
    assert "cannot be verified" in out + err
    assert "allow_unverified" in out + err
    assert not shop.images()


@pytest.mark.parametrize("said", UNVERIFIED, ids=str)
def test_unless_that_is_allowed(shop: Shop, saying: Callable[..., None], said: dict[str, object]) -> None:
    saying(**said)
    shop.write(glance={"allow_unverified": True})
    code, out, err = shop.run("upload", "debian", "one")
    assert code == 0, out + err
    assert shop.images()


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("spoilt", ["source", "destination"])
@pytest.mark.parametrize("said", UNVERIFIED[2:], ids=str)
def test_a_transfer_that_cannot_be_verified_is_refused_unless_that_is_allowed(
    shop: Shop, saying: Callable[..., None], said: dict[str, object], spoilt: str, allowed: bool
) -> None:
    """``saying`` spoils one cloud's answers; the other one is as it should be."""
    with serving(FakeCloud()) as other:
        source, destination = (shop.cloud, other) if spoilt == "source" else (other, shop.cloud)
        image_id = source.add_image("web", owner="admin-id", disk_format="raw", content=b"x" * 4096)
        keystones = {
            label: {**shop.keystone("admin"), "auth_url": cloud.url}
            for label, cloud in (("from", source), ("to", destination))
        }
        shop.write({label: {"keystone": keystone} for label, keystone in keystones.items()})
        saying(**said)
        arguments = ["--allow-unverified"] if allowed else []
        code, out, err = shop.run("transfer", *arguments, image_id, "from", "to")
        assert "Traceback" not in err
        if allowed:
            assert code == 0, out + err
            (image,) = destination.region().values()
            assert destination.contents[image["id"]] == b"x" * 4096
        else:
            assert code != 0
            assert "cannot be verified" in out + err
            assert "--allow-unverified" in out + err
            assert not destination.region()


def test_the_size_is_told_before_the_bytes(shop: Shop) -> None:
    heard: list[str] = []

    def backend(request: Request) -> Answer:
        if request.method == "PUT":
            heard.append(request.header("X-OpenStack-Image-Size"))
        return shop.cloud.handle(request)

    with serving_backend(backend) as server:
        _serve_by(shop, server)
        for method in ({}, {"import_method": "glance-direct", "name": "other"}):
            shop.write(glance=method)
            assert shop.run("upload", "debian", "one")[0] == 0
    assert heard == [str((shop.path / "debian.qcow2").stat().st_size)] * 2


COPY = "cp %(input_filename)s %(output_filename)s"


def _change_behind_its_times(file: Path) -> None:
    before = file.stat()
    with file.open("r+b") as opened:
        opened.seek(before.st_size - 1)
        last = opened.read(1)
        opened.seek(before.st_size - 1)
        opened.write(bytes([last[0] ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"convert": {"disk_format": "raw"}},
        {
            "preprocessing": {
                "cmdline": "cp %(input_filename)s %(output_filename)s",
                "output_filename": "made",
            }
        },
        {"external_upload": [{"cmdline": "touch ran"}]},
    ],
    ids=["as it is", "convert", "preprocessing", "external_upload"],
)
def test_bytes_changed_behind_the_file_s_times_are_not_sent(shop: Shop, more: dict[str, Any]) -> None:
    shop.write({"one": {"keystone": shop.keystone()}})
    assert shop.run("upload", "debian", "one")[0] == 0  # the digest is known from now on
    shop.cloud.clear()
    _change_behind_its_times(shop.path / "debian.qcow2")
    shop.write({"one": {"keystone": shop.keystone(), **more}})
    code, out, err = shop.run("upload", "debian", "one")
    assert code != 0
    assert "is not the tested file" in out + err
    assert not shop.images()
    assert not (shop.path / "ran").exists()


def test_a_source_that_changes_while_a_command_reads_it_is_refused(shop: Shop) -> None:
    script = shop.path / "swap"
    script.write_text('#!/bin/sh\ncp "$1" kept; printf x >>"$1"; cp "$1" "$2"; cp kept "$1"\n')
    script.chmod(0o755)
    command = {"cmdline": "./swap %(input_filename)s %(output_filename)s", "output_filename": "made"}
    shop.write({"one": {"keystone": shop.keystone(), "preprocessing": command}})
    code, out, err = shop.run("upload", "debian", "one")
    assert code != 0
    assert "changed while it was read" in out + err
    assert not shop.images()


# -- clouds.yaml -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["upload", "debian", "bad", "good"], ["list", "bad", "good"]], ids=str)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_one_cloud_leaves_the_others_alone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, fault: str, command: list[str]
) -> None:
    code = write_clouds(shop.path, monkeypatch, fault)
    shop.write({"bad": {"keystone": {"cloud": "bad"}}, "good": {"keystone": shop.keystone()}})
    shop.cloud.add_image("already")
    found, out, err = shop.run(*command)
    assert found == code, out + err
    assert "Traceback" not in err
    assert "good" in out
    if command[0] == "upload":
        assert len(shop.images()) == 2


SOME = "5d3d6cb9-3a9c-4c1e-9f0a-4f1f2f3a7a10"
SINGLE = (
    ["rotate", "bad"],
    ["rotate-single", "debian", "bad"],
    ["mark-obsolete", "bad", SOME],
    ["diff", "debian", "bad"],
    ["transfer", SOME, "bad", "good"],
    ["transfer", "already", "good", "bad"],
)
"""Commands for one cloud, or from one to another."""


@pytest.mark.parametrize("command", SINGLE, ids=" ".join)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_only_cloud_is_told(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, fault: str, command: list[str]
) -> None:
    code = write_clouds(shop.path, monkeypatch, fault)
    shop.write({"bad": {"keystone": {"cloud": "bad"}}, "good": {"keystone": shop.keystone()}})
    shop.cloud.add_image("already")
    found, out, err = shop.run(*command)
    assert (found, "Traceback" in out + err) == (code, False), out + err


@pytest.mark.parametrize("fault", FAULTS)
def test_cleanup_says_which_cloud_it_could_not_look_into(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    write_clouds(shop.path, monkeypatch, fault)
    environments = {"bad": {"keystone": {"cloud": "bad"}}, "good": {"keystone": shop.keystone()}}
    nova = {"nova": {"flavor": "m1"}}
    text = yaml.safe_dump({label: {**section, **nova} for label, section in environments.items()})
    (shop.path / "test.yaml").write_text(text)
    found, out, err = shop.run("cleanup", "--expired")
    assert found == 1, out + err
    assert "Traceback" not in out + err
    assert "bad" in out + err
    assert shop.cloud.calls, "the other cloud was looked into"


def test_threads_have_deadlines_of_their_own() -> None:
    from pytest_dibctl.clouds.openstack import transport

    seen: list[float] = []
    with transport.within(5):
        thread = threading.Thread(target=lambda: seen.append(transport._deadline.get()))
        thread.start()
        thread.join()
    assert seen == [float("inf")]
