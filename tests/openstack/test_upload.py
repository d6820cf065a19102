"""Test images in the real Glance: what it is told of them, and what happens when their way there is rough."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl.clouds import file_body
from pytest_dibctl.clouds.protocols import CloudImage
from pytest_dibctl.errors import ApiError, ConfigError, DibctlError, ImageNotFoundError, NovaBadRequestError
from pytest_dibctl.run import booting, keys, ledger, uploading
from pytest_dibctl.system import process
from tests.openstack import proxy
from tests.openstack.site import Bench, Site, line_of
from tests.support.patience import shorten

MIB = 1 << 20


@pytest.fixture(scope="session")
def small_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A qcow2 file of some MiB that nothing boots from."""
    directory = tmp_path_factory.mktemp("small")
    raw, qcow2 = directory / "small.raw", directory / "small.qcow2"
    raw.write_bytes(os.urandom(6 * MIB))
    process.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(qcow2)])
    return qcow2


@pytest.fixture
def small(site: Site, small_image: Path) -> Site:
    return dataclasses.replace(site, image=small_image)


@contextlib.contextmanager
def bench(site: Site, image: Mapping[str, Any] | None = None, **sections: Any) -> Iterator[Bench]:
    site.write({"cloud": site.environment(**sections)}, image=image)
    with site.opened("cloud") as opened:
        yield opened


def uploaded(opened: Bench) -> contextlib.AbstractContextManager[CloudImage]:
    return uploading.uploaded(opened.target_run, opened.cloud, opened.artifact)


def glance(site: Site, cloud: str = "demo") -> str:
    with site.cloud.connected(cloud) as connection:
        return str(
            connection.session.get_endpoint(
                service_type="image", region_name=site.cloud.entry(cloud)["region_name"]
            )
        )


def in_glance(site: Site, name: str, cloud: str = "demo") -> list[Any]:
    with site.cloud.connected(cloud) as connection:
        return [image for image in connection.image.images() if image.name == name]


def recorded(opened: Bench) -> set[str]:
    return {record.kind for record in opened.ledger.records()}


# -- what Glance is told ---------------------------------------------------------------------------


def test_what_both_files_say_arrives_and_is_private(small: Site) -> None:
    ours = {"properties": {"hw_disk_bus": "virtio", "both": "image"}, "tags": ["here"], "min_disk": 1}
    theirs = {"properties": {"both": "environment"}, "tags": ["there"], "min_ram": 64}
    marks = {"public": True, "protected": True}
    with bench(small, {"glance": {**ours, **marks}}, glance={**theirs, **marks}) as opened:
        with uploaded(opened) as image:
            (found,) = in_glance(small, image.name)
            assert found.properties["both"] == "environment"
            assert found.hw_disk_bus == "virtio"
            assert image.properties == {"hw_disk_bus": "virtio", "both": "environment"}
            assert {"here", "there", "dibctl-test"} <= set(found.tags)
            assert (found.min_disk, found.min_ram) == (1, 64)
            assert (found.visibility, found.is_protected) == ("private", False)
            assert (found.disk_format, found.container_format) == ("qcow2", "bare")
        assert not in_glance(small, image.name)
        assert not opened.target_run.leftovers
        assert not recorded(opened)


def test_the_bytes_in_glance_are_those_of_the_file(small: Site) -> None:
    with bench(small) as opened, uploaded(opened) as image:
        with small.cloud.connected() as connection:
            content = connection.image.get(f"/images/{image.id}/file").content
        assert hashlib.sha512(content).hexdigest() == image.sha512 == opened.artifact.sha512
        assert image.details["os_hash_value"] == image.sha512


def test_kernel_and_initrd_go_along_and_are_removed_with_the_image(site: Site) -> None:
    with bench(site) as opened, site.cloud.connected() as connection:
        with uploaded(opened) as image:
            parts = {
                key: connection.image.get_image(image.properties[key]) for key in ("kernel_id", "ramdisk_id")
            }
            assert parts["kernel_id"].disk_format == "aki"
            assert parts["ramdisk_id"].disk_format == "ari"
            assert {part.visibility for part in parts.values()} == {"private"}
            assert set(image.companions) == {part.id for part in parts.values()}
            assert "root=/dev/vda" in image.properties["os_command_line"]
        left = {one.id for one in connection.image.images()}
        assert not left & {image.id, *image.companions}


def test_an_image_goes_to_the_glance_of_another_region(small: Site) -> None:
    with bench(small, glance={"endpoint": glance(small, "demo-two")}) as opened:
        with uploaded(opened) as image:
            assert in_glance(small, image.name, "demo-two")
            assert not in_glance(small, image.name)
        assert not in_glance(small, image.name, "demo-two")


def test_a_dead_run_is_cleaned_up_where_its_image_went(small: Site) -> None:
    endpoint = glance(small, "demo-two")
    small.write({"cloud": small.environment()}, image={"glance": {"endpoint": endpoint}})
    left = small.pytest("--dib-upload-only")
    assert left.returncode == 0, left.stdout
    (run,) = ledger.all_runs()
    name = next(record.name for record in run.records() if record.kind == "image")
    assert in_glance(small, name, "demo-two")
    cleaned = small.dibctl("cleanup", "--run", run.run_id)
    assert cleaned.returncode == 0, cleaned.stdout
    assert not in_glance(small, name, "demo-two")


def test_the_controller_removes_it_from_the_glance_that_the_image_names(small: Site) -> None:
    """Under xdist not the process that uploaded removes the image, but one that logs in anew."""
    (small.path / "test_it.py").write_text("def test_it(cloud_image): assert cloud_image.id\n")
    endpoint = glance(small, "demo-two")
    small.write(
        {"cloud": small.environment()},
        [{"pytest": "test_it.py"}],
        image={"glance": {"endpoint": endpoint}},
    )
    run = small.pytest("-n1")
    assert run.returncode == 0, run.stdout
    assert "environment cloud" in run.stdout
    assert small.left_at_last() == set()


def test_an_image_that_is_there_already_can_be_used(small: Site) -> None:
    with bench(small) as opened, uploaded(opened) as image:
        found = opened.cloud.existing_image(image.id)
        assert (found.name, found.disk_format, found.sha512) == (image.name, "qcow2", image.sha512)
        unknown = str(uuid.uuid4())
        with pytest.raises(ImageNotFoundError, match=unknown):
            opened.cloud.existing_image(unknown)


def test_a_slow_upload_tells_how_far_it_is(small: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel takes the first MiBs at once, and the rest is on its way for some seconds only.
    shorten(monkeypatch, TELL_EVERY=0.5)
    with proxy.before(glance(small)) as between, bench(small, glance={"endpoint": between.url}) as opened:
        between.harms.append(proxy.Harm(method="PUT", path="/file$", body=proxy.crawl(MIB // 2)))
        with uploaded(opened) as image:
            pass
        assert any(f"as {image.name}" in line for line in opened.told)
        assert any(" % of 6 MiB" in line and "MiB/s" in line for line in opened.told), opened.told


# -- a rough way -----------------------------------------------------------------------------------


def test_a_token_that_is_revoked_before_the_body_costs_no_byte(
    small: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies: list[file_body.FileBody] = []

    begin = file_body.FileBody.__init__

    def watched(body: file_body.FileBody, *arguments: Any, **named: Any) -> None:
        begin(body, *arguments, **named)
        bodies.append(body)

    # Of the class itself: a body that tells its progress is one of a class of its own.
    monkeypatch.setattr(file_body.FileBody, "__init__", watched)
    statuses: list[int] = []
    with bench(small) as opened:
        register, send = opened.cloud.api.image.post, opened.cloud.api.image.put

        def post(*arguments: Any, **named: Any) -> Any:
            answer = register(*arguments, **named)
            small.revoke(answer.request.headers["X-Auth-Token"])
            return answer

        def put(*arguments: Any, **named: Any) -> Any:
            answer = send(*arguments, **named)
            statuses.append(answer.status_code)
            return answer

        monkeypatch.setattr(opened.cloud.api.image, "post", post)
        monkeypatch.setattr(opened.cloud.api.image, "put", put)
        with uploaded(opened) as image:
            (found,) = in_glance(small, image.name)
            assert found.size == opened.artifact.size
            assert found.hash_value == opened.artifact.sha512
    (body,) = bodies
    assert body.sendings == 2
    assert statuses == [204]


def test_damaged_bytes_are_refused_and_removed(small: Site) -> None:
    with proxy.before(glance(small)) as between, bench(small, glance={"endpoint": between.url}) as opened:
        between.harms.append(proxy.Harm(method="PUT", path="/file$", body=proxy.flip(5 * MIB)))
        with pytest.raises(ApiError, match="arrived damaged"), uploaded(opened):
            pytest.fail("a damaged image was accepted")
        assert between.count("DELETE", "/images/") == 1
        assert not recorded(opened)


def test_a_body_is_sent_again_from_its_start_when_the_connection_breaks(small: Site) -> None:
    with proxy.before(glance(small)) as between, bench(small, glance={"endpoint": between.url}) as opened:
        between.harms.append(proxy.Harm(method="PUT", path="/file$", body=proxy.cut(2 * MIB)))
        with uploaded(opened) as image:
            assert image.details["os_hash_value"] == opened.artifact.sha512
        assert between.count("PUT", "/file$") in proxy.ONCE_BROKEN


def test_an_answer_that_is_lost_after_the_body_is_not_needed(small: Site) -> None:
    with proxy.before(glance(small)) as between, bench(small, glance={"endpoint": between.url}) as opened:
        between.harms.append(proxy.Harm(method="PUT", path="/file$", lose_answer=True))
        with uploaded(opened) as image:
            assert image.details["os_hash_value"] == opened.artifact.sha512
        assert between.count("PUT", "/file$") == 1


def test_an_image_whose_record_was_made_without_an_answer_is_not_made_twice(small: Site) -> None:
    with proxy.before(glance(small)) as between, bench(small, glance={"endpoint": between.url}) as opened:
        between.harms.append(proxy.Harm(method="POST", path="/images$", lose_answer=True))
        with uploaded(opened) as image:
            assert [one.id for one in in_glance(small, image.name)] == [image.id]
        assert between.count("POST", "/images$") == 2


def test_an_upload_that_takes_too_long_ends_and_leaves_nothing(site: Site) -> None:
    disk_only = {"glance": {"properties": {"kernel_id": "none", "ramdisk_id": "none"}}}
    with (
        proxy.before(glance(site)) as between,
        bench(site, disk_only, glance={"endpoint": between.url}) as opened,
    ):
        deadlines = dataclasses.replace(opened.target_run.deadlines, upload=1.5)
        request = request_of(opened, deadlines)
        between.harms.append(proxy.Harm(method="PUT", path="/file$", body=proxy.crawl(2 * MIB)))
        with pytest.raises(ApiError, match=r"was not uploaded within 1\.5 s") as caught:
            opened.cloud.upload(opened.artifact, request, progress=opened.told.append)
        assert "upload_timeout" in str(caught.value.hint)
        assert not in_glance(site, request.name)


def request_of(opened: Bench, deadlines: Any) -> Any:
    from pytest_dibctl.clouds.protocols import UploadRequest

    return UploadRequest(
        name=f"dibctl-{opened.ledger.run_id}-micro", image=opened.target_run.image, deadlines=deadlines
    )


def test_an_image_that_is_deleted_while_it_is_uploaded(small: Site) -> None:
    with proxy.before(glance(small)) as between, bench(small, glance={"endpoint": between.url}) as opened:
        tag = f"dibctl-run-{opened.ledger.run_id}"
        between.harms.append(proxy.Harm(method="PUT", path="/file$", before=lambda _: deleted(small, tag)))
        with pytest.raises(ImageNotFoundError, match="cannot upload image"), uploaded(opened):
            pytest.fail("an image that is gone was accepted")
        assert not recorded(opened)


def deleted(site: Site, tag: str) -> None:
    with site.cloud.connected() as connection:
        for image in connection.image.images(tag=tag):
            connection.image.delete_image(image.id)


def test_an_image_that_is_deleted_before_it_is_booted(small: Site) -> None:
    with bench(small) as opened:
        with uploaded(opened) as image, keys.keypair(opened.target_run, opened.cloud) as key:
            deleted(small, f"dibctl-run-{opened.ledger.run_id}")
            boot = booting.booted(opened.target_run, opened.cloud, image, key)
            with pytest.raises(NovaBadRequestError, match=r"test\.yaml.*requested image"), boot:
                pytest.fail("an image that is gone was booted")
        assert not opened.target_run.leftovers
        assert not recorded(opened)


# -- what is refused -------------------------------------------------------------------------------


def test_a_format_that_the_file_does_not_have_is_told_with_its_place(small: Site) -> None:
    with bench(small, glance={"disk_format": "raw"}) as opened:
        line = line_of(small.path / "test.yaml", "disk_format")
        with (
            pytest.raises(ConfigError, match=rf"test\.yaml:{line}\b.*is raw, but .* is qcow2"),
            uploaded(opened),
        ):
            pytest.fail("a wrong format was accepted")


def test_the_service_says_in_plain_words_why_it_refuses_content(small: Site) -> None:
    with bench(small, glance={"disk_format": "iso"}) as opened:
        with pytest.raises(DibctlError, match="cannot upload image") as caught, uploaded(opened):
            pytest.fail("a qcow2 file was accepted as an iso")
        assert "415" in caught.value.message
        assert "<" not in caught.value.message
        assert not recorded(opened)


def test_a_property_that_glance_keeps_for_itself(small: Site) -> None:
    with bench(small, {"glance": {"properties": {"owner": "me"}}}) as opened:
        line = line_of(small.path / "images.yaml", "properties")
        with pytest.raises(ConfigError, match=rf"images\.yaml:{line}\b.*owner"), uploaded(opened):
            pytest.fail("a reserved property was accepted")


def test_more_properties_than_glance_allows(small: Site) -> None:
    many = {f"property_{number}": "x" for number in range(140)}
    with bench(small, {"glance": {"properties": many}}) as opened:
        with pytest.raises(ApiError, match=r"make image .*Glance answered 413") as caught, uploaded(opened):
            pytest.fail("140 properties were accepted")
        assert "<" not in caught.value.message


def test_a_role_that_may_not_upload(small: Site) -> None:
    forbidden = pytest.raises(ApiError, match="Glance answered 403")
    with bench(small, user="demo-reader") as opened, forbidden, uploaded(opened):
        pytest.fail("a reader made an image")


# -- other people's images -------------------------------------------------------------------------


@contextlib.contextmanager
def foreign(site: Site, name: str, tags: list[str]) -> Iterator[str]:
    """Make an image like ours in another project, shared with nobody."""
    with site.cloud.connected("other") as other:
        document = {"name": name, "tags": tags, "disk_format": "raw", "container_format": "bare"}
        image = other.image.post("/images", json=document).json()
        other.image.put(
            f"/images/{image['id']}/file",
            data=b"theirs",
            headers={"Content-Type": "application/octet-stream"},
        )
        try:
            yield str(image["id"])
            assert other.image.get_image(image["id"]).status == "active"
        finally:
            other.image.delete_image(image["id"])


def test_images_of_another_project_are_not_touched(small: Site) -> None:
    with bench(small, glance={"disk_format": "iso"}) as opened:
        name = f"dibctl-{opened.ledger.run_id}-micro"
        tags = ["dibctl-test", f"dibctl-run-{opened.ledger.run_id}"]
        with foreign(small, name, tags) as theirs:
            with pytest.raises(DibctlError), uploaded(opened):
                pytest.fail("a qcow2 file was accepted as an iso")
            opened.cloud.remove("image", name, {})
            with small.cloud.connected("admin") as admin:
                assert admin.image.get_image(theirs).name == name


def test_an_image_of_ours_without_the_runs_tags_is_not_touched(small: Site) -> None:
    with bench(small) as opened, small.cloud.connected() as connection:
        name = f"dibctl-{opened.ledger.run_id}-micro"
        alike = connection.image.post(
            "/images", json={"name": name, "disk_format": "raw", "container_format": "bare"}
        ).json()
        try:
            opened.cloud.remove("image", name, {})
            assert connection.image.get_image(alike["id"]).status == "queued"
        finally:
            connection.image.delete_image(alike["id"])
