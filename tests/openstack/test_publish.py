"""Publishing in the real Glance, in two regions, and rotation beside the real Nova and Cinder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl.clouds.openstack.regions import OpenStackRegion
from pytest_dibctl.errors import ExitCode
from pytest_dibctl.publish import connect
from tests.openstack import proxy
from tests.openstack.cloud import names
from tests.openstack.shelf import MIB, REGIONS, Shelf
from tests.support import claims, leaks
from tests.support.loopback import QuietHandler, listening
from tests.support.publishing import write_qcow2

# -- upload ----------------------------------------------------------------------------------------


def test_two_regions_get_the_same_bytes_and_facts(shelf: Shelf) -> None:
    shelf.write(min_disk=1, min_ram=64, tags=["ci"], properties={"os_distro": "debian"})
    results = shelf.json("upload", "web", "--all")
    assert [result["outcome"] for result in results] == ["uploaded", "uploaded"]
    digest = hashlib.sha512(shelf.file.read_bytes()).hexdigest()
    for cloud, result in zip(REGIONS, results, strict=True):
        image = shelf.images(cloud)[result["image"]]
        assert (image.name, image.status, image.visibility) == (shelf.name, "active", "private")
        assert (image.min_disk, image.min_ram, image.tags) == (1, 64, ["ci"])
        assert image.hash_value == digest == image.properties["dibctl_sha512"]
        assert image.os_distro == "debian"
        assert not shelf.images(cloud, hidden=True)


def test_an_older_image_makes_place_and_an_identical_one_stays(shelf: Shelf) -> None:
    (first, _) = shelf.json("upload", "web", "--all")
    assert {one["outcome"] for one in shelf.json("upload", "web", "--all")} == {"unchanged"}
    shelf.fill()
    (second, other) = shelf.json("upload", "web", "--all")
    assert second["obsoleted"] == [first["image"]]
    assert shelf.named() == [second["image"]]
    assert shelf.named("demo-two") == [other["image"]]
    old = shelf.images()[first["image"]]
    assert old.name == f"Obsolete {shelf.name}"
    assert old.properties["obsolete"] == "true"
    assert old.properties["obsoleted_by"] == second["image"]


def test_one_region_down_stops_no_other_and_is_resumed_alone(shelf: Shelf) -> None:
    away = {"keystone": {"cloud": "demo-two"}, "glance": {"endpoint": "http://127.0.0.1:9"}}
    shelf.write({"demo": {"keystone": {"cloud": "demo"}}, "demo-two": away})
    good, bad = shelf.json("upload", "web", "--all", code=1)
    assert (good["outcome"], bad["outcome"]) == ("uploaded", "failed")
    assert "no Glance answers" in bad["error"]
    shelf.write()
    outcomes = [one["outcome"] for one in shelf.json("upload", "web", "--all")]
    assert outcomes == ["unchanged", "uploaded"]


def test_bytes_that_are_damaged_on_the_way_change_nothing(shelf: Shelf) -> None:
    (old,) = shelf.json("upload", "web", "demo")
    shelf.fill()
    with proxy.before(shelf.glance()) as between:
        between.harms.append(proxy.Harm(method="PUT", path="/file$", body=proxy.flip(3 * MIB)))
        shelf.write({"demo": {"keystone": {"cloud": "demo"}, "glance": {"endpoint": between.url}}})
        (result,) = shelf.json("upload", "web", "demo", code=1)
    assert "arrived damaged" in result["error"]
    assert shelf.named() == [old["image"]]
    assert not shelf.images(hidden=True)


@pytest.mark.parametrize(
    ("glance", "path"),
    [({}, "/file$"), ({"import_method": "glance-direct"}, "/stage$")],
    ids=["plain", "import"],
)
def test_a_connection_that_breaks_once_costs_another_sending(
    shelf: Shelf, glance: Mapping[str, str], path: str
) -> None:
    with proxy.before(shelf.glance()) as between:
        between.harms.append(proxy.Harm(method="PUT", path=path, body=proxy.cut(2 * MIB)))
        shelf.write({"demo": {"keystone": {"cloud": "demo"}, "glance": {"endpoint": between.url, **glance}}})
        (result,) = shelf.json("upload", "web", "demo")
        assert between.count("PUT", path) in proxy.ONCE_BROKEN
    assert shelf.named() == [result["image"]]


def test_the_moment_of_change_may_lose_its_answers(shelf: Shelf) -> None:
    (old,) = shelf.json("upload", "web", "demo")
    shelf.fill()
    with proxy.before(shelf.glance()) as between:
        between.harms.append(proxy.Harm(method="PATCH", path="/images/", times=2, lose_answer=True))
        shelf.write({"demo": {"keystone": {"cloud": "demo"}, "glance": {"endpoint": between.url}}})
        (result,) = shelf.json("upload", "web", "demo")
    assert shelf.named() == [result["image"]]
    assert shelf.images()[old["image"]].name == f"Obsolete {shelf.name}"


def test_a_token_that_is_revoked_before_the_body(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = connect.open_region

    def opened_and_spoiled(*arguments: Any, **named: Any) -> Any:
        region = opened(*arguments, **named)
        assert isinstance(region, OpenStackRegion)
        register = region.api.image.post

        def post(url: str, **options: Any) -> Any:
            answer = register(url, **options)
            shelf.site.revoke(answer.request.headers["X-Auth-Token"])
            return answer

        monkeypatch.setattr(region.api.image, "post", post)
        return region

    monkeypatch.setattr(connect, "open_region", opened_and_spoiled)
    (result,) = shelf.json("upload", "web", "demo")
    image = shelf.images()[result["image"]]
    assert image.size == shelf.file.stat().st_size
    assert image.hash_value == hashlib.sha512(shelf.file.read_bytes()).hexdigest()


def test_a_token_that_ends_under_the_body(shelf: Shelf) -> None:
    tokens: list[str] = []

    def revoke(block: bytes, offset: int) -> bytes:
        if tokens and offset >= 2 * MIB:
            shelf.site.revoke(tokens.pop())
        return block

    with proxy.before(shelf.glance()) as between:
        between.harms.append(
            proxy.Harm(
                method="PUT",
                path="/file$",
                before=lambda head: tokens.append(head["X-Auth-Token"]),
                body=revoke,
            )
        )
        shelf.write({"demo": {"keystone": {"cloud": "demo"}, "glance": {"endpoint": between.url}}})
        (result,) = shelf.json("upload", "web", "demo")
        # The body had been let in before; only what is asked afterwards is refused.
        assert between.count("PUT", "/file$") == 1
        assert [one.status for one in between.seen].count(401) == 1
    assert not tokens
    assert shelf.named() == [result["image"]]
    assert digest_in(shelf) == hashlib.sha512(shelf.file.read_bytes()).hexdigest()


def test_another_projects_image_of_that_name_is_not_touched(shelf: Shelf) -> None:
    theirs = shelf.put("other", visibility="community")
    before = shelf.state()["admin"][theirs]
    assert before["owner"] != shelf.project()
    shelf.json("upload", "web", "demo")
    assert shelf.state()["admin"][theirs] == before


def test_a_member_may_not_publish_to_everybody(shelf: Shelf) -> None:
    (old,) = shelf.json("upload", "web", "demo")
    shelf.fill()
    shelf.write(visibility="public")
    (result,) = shelf.json("upload", "web", "demo", code=1)
    assert "Glance answered 403" in result["error"]
    assert shelf.named() == [old["image"]]


def test_an_admin_may_and_protects_it(shelf: Shelf) -> None:
    shelf.write({"all": {"keystone": {"cloud": "admin"}}}, visibility="public", protected=True)
    (result,) = shelf.json("upload", "web", "all")
    image = shelf.images("admin")[result["image"]]
    assert (image.visibility, image.is_protected) == ("public", True)


def test_members_by_name_are_accepted_by_an_admin(shelf: Shelf) -> None:
    shelf.write({"all": {"keystone": {"cloud": "admin"}}}, members=[shelf.site.cloud.name_of("other")])
    (result,) = shelf.json("upload", "web", "all")
    assert result["pending"] == []
    with shelf.connected("other") as other:
        assert result["image"] in {image.id for image in other.image.images()}


def test_members_of_a_plain_user_have_to_accept_it(shelf: Shelf) -> None:
    project = shelf.project("other")
    shelf.write(members=[project])
    (result,) = shelf.json("upload", "web", "demo")
    assert result["pending"] == [project]
    with shelf.connected("other") as other:
        assert other.image.get_image(result["image"]).name == shelf.name


def test_converted_files_arrive_in_their_format(shelf: Shelf) -> None:
    raw = {"keystone": {"cloud": "demo"}, "convert": {"disk_format": "raw"}}
    packed = {"keystone": {"cloud": "demo-two"}, "convert": {"disk_format": "qcow2", "compression": "zstd"}}
    shelf.write({"demo": raw, "demo-two": packed})
    one, two = shelf.json("upload", "web", "demo", "demo-two")
    assert shelf.images()[one["image"]].disk_format == "raw"
    assert shelf.images()[one["image"]].size == 6 * MIB
    assert shelf.images("demo-two")[two["image"]].disk_format == "qcow2"
    outcomes = {one["outcome"] for one in shelf.json("upload", "web", "demo", "demo-two")}
    assert outcomes == {"unchanged"}


def test_kernel_and_initrd_go_along_hidden(shelf: Shelf) -> None:
    shelf.write(filename=shelf.site.image)
    (result,) = shelf.json("upload", "web", "demo")
    image = shelf.images()[result["image"]]
    parts = shelf.images(hidden=True)
    assert {image.kernel_id, image.ramdisk_id} == set(parts)
    assert {part.disk_format for part in parts.values()} == {"aki", "ari"}


def test_what_was_left_hidden_is_shown_by_the_next_run(shelf: Shelf) -> None:
    (first,) = shelf.json("upload", "web", "demo")
    with shelf.connected("demo") as demo:
        claim = {"dibctl_claim": claims.of_a_dead_process()}
        demo.image.update_image(first["image"], is_hidden=True, tags=["dibctl-unfinished"], **claim)
    (again,) = shelf.json("upload", "web", "demo")
    assert again["image"] == first["image"]
    assert shelf.named() == [first["image"]]
    assert "dibctl_claim" not in shelf.images()[first["image"]].properties


def test_packages_fit_into_a_property(shelf: Shelf) -> None:
    directory = shelf.site.path / "image.d/dib-manifests"
    directory.mkdir(parents=True)
    packages = [
        {"package": f"package-{number}", "version": f"{number}.{uuid.uuid4().hex}", "status": "ii "}
        for number in range(1200)
    ]
    manifest = directory / "dib-manifest-dpkg-image"
    manifest.write_text(json.dumps({"packages": packages}))
    (result,) = shelf.json("upload", "web", "demo")
    assert len(shelf.images()[result["image"]].properties["dibctl_packages"]) > 20_000
    manifest.write_text(json.dumps({"packages": packages[1:]}))
    found = shelf.json("diff", "web", "demo")
    assert [(one["package"], one["what"]) for one in found["differences"]] == [("package-0", "removed")]


def digest_in(shelf: Shelf, cloud: str = "demo") -> str:
    """Return Glance's digest of the one image that has the name."""
    (image_id,) = shelf.named(cloud)
    return str(shelf.images(cloud)[image_id].hash_value)


@pytest.mark.usefixtures("small_store")
@pytest.mark.parametrize("glance", [{}, {"import_method": "glance-direct"}], ids=["plain", "import"])
def test_a_store_is_chosen(shelf: Shelf, glance: Mapping[str, Any]) -> None:
    write_qcow2(shelf.file, os.urandom(MIB))
    shelf.write(stores=[names.STORE_SMALL], **glance)
    (result,) = shelf.json("upload", "web", "demo")
    assert digest_in(shelf) == hashlib.sha512(shelf.file.read_bytes()).hexdigest()
    assert shelf.stores(result["image"]) == {names.STORE_SMALL}


@pytest.mark.usefixtures("small_store")
def test_all_stores_are_reached_by_import(shelf: Shelf) -> None:
    write_qcow2(shelf.file, os.urandom(MIB))
    shelf.write(all_stores=True)
    (result,) = shelf.json("upload", "web", "demo")
    assert digest_in(shelf) == hashlib.sha512(shelf.file.read_bytes()).hexdigest()
    assert shelf.stores(result["image"]) == {names.STORE, names.STORE_SMALL}


@pytest.mark.usefixtures("small_store")
@pytest.mark.parametrize("glance", [{}, {"import_method": "glance-direct"}], ids=["plain", "import"])
def test_a_full_store_spoils_no_other_region(shelf: Shelf, glance: Mapping[str, Any]) -> None:
    (old,) = shelf.json("upload", "web", "demo")
    shelf.fill()
    full = {"keystone": {"cloud": "demo"}, "glance": {"stores": [names.STORE_SMALL], **glance}}
    shelf.write({"demo": full, "demo-two": {"keystone": {"cloud": "demo-two"}}})
    code, out, err = shelf.run("upload", "web", "demo", "demo-two", "--json")
    assert code == ExitCode.UNSPECIFIED
    assert [one["outcome"] for one in json.loads(out)] == ["failed", "uploaded"]
    assert "store is full" in err or "a full store" in err
    assert shelf.named() == [old["image"]]
    assert not shelf.images(hidden=True)
    assert digest_in(shelf, "demo-two") == hashlib.sha512(shelf.file.read_bytes()).hexdigest()


def test_glance_fetches_the_file_itself_and_it_is_verified(shelf: Shelf) -> None:
    with serving_file(shelf.file) as url:
        shelf.write(import_method="web-download", import_uri=url)
        (result,) = shelf.json("upload", "web", "demo")
        assert result["outcome"] == "uploaded"
        assert digest_in(shelf) == hashlib.sha512(shelf.file.read_bytes()).hexdigest()
        served = shelf.file.read_bytes()
        shelf.fill()
        with serving_file(shelf.file, content=served) as other:
            shelf.write(import_method="web-download", import_uri=other)
            (wrong,) = shelf.json("upload", "web", "demo", code=1)
    assert "is not the one that Glance was to fetch" in wrong["error"]
    assert shelf.named() == [result["image"]]
    assert not shelf.images(hidden=True)


@contextlib.contextmanager
def serving_file(path: Path, *, content: bytes | None = None) -> Iterator[str]:
    """Serve a file, or other bytes under its name, as a build server would."""
    payload = path.read_bytes() if content is None else content

    class Handler(QuietHandler):
        def _serve(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(payload)

    with listening(Handler) as port:
        yield f"http://127.0.0.1:{port}/{path.name}"


def test_mark_obsolete_and_list(shelf: Shelf) -> None:
    (result,) = shelf.json("upload", "web", "demo")
    (marked,) = shelf.json("mark-obsolete", "demo", result["image"])
    assert marked["name"] == f"Obsolete {shelf.name}"
    (listed, _) = shelf.json("list")
    (found,) = [one for one in listed["images"] if one["image"] == result["image"]]
    assert (found["state"], found["used"]) == ("obsolete", None)
    missing = str(uuid.uuid4())
    (gone,) = shelf.json("mark-obsolete", "demo", missing, code=int(ExitCode.IMAGE_NOT_FOUND))
    assert missing in gone["error"]


# -- rotate ----------------------------------------------------------------------------------------


def obsolete(shelf: Shelf, count: int) -> list[str]:
    """Return the ids of so many obsolete images of the admin's, the oldest first."""
    made = []
    for _ in range(count):
        shelf.fill()
        made.append(shelf.json("upload", "web", "all")[0]["image"])
    # Times are whole seconds; of two images that became obsolete in one, chance says which is the newer.
    time.sleep(1)
    shelf.json("mark-obsolete", "all", made[-1])
    return made


def verdicts(shelf: Shelf, *options: str) -> dict[str, str]:
    found = shelf.json("rotate", "all", shelf.name, *options)
    return {one["image"]: f"{one['outcome']}: {one['reason']}" for one in found}


def test_rotate_deletes_what_nobody_uses(attic: Shelf) -> None:
    used, protected, unused, kept = obsolete(attic, 4)
    with attic.connected("admin") as admin:
        admin.image.update_image(protected, is_protected=True)
    with attic.server(used):
        planned = verdicts(attic, "--keep", "1", "--dry-run")
        assert planned[used].startswith(f"stays: used by server {attic.name}-server")
        assert planned[protected] == "stays: is protected"
        assert planned[unused].startswith("goes")
        assert planned[kept] == "stays: is among the 1 newest of its name"
        before = attic.images("admin")
        done = verdicts(attic, "--keep", "1")
        assert done[unused].startswith("deleted")
    after = attic.images("admin")
    assert set(before) - set(after) == {unused}
    for image_id in (used, protected, kept):
        assert after[image_id].to_dict() == before[image_id].to_dict()


def test_a_snapshot_of_a_server_is_never_deleted(attic: Shelf) -> None:
    (image_id,) = obsolete(attic, 1)
    with attic.server(image_id) as made, attic.connected("admin") as admin:
        # Nova's fake driver makes the image's record, with all that it takes over, and never any bytes.
        snapshot = admin.compute.create_server_image(made, f"Obsolete {attic.name}")
        # A server that goes while it is being snapshotted takes the snapshot along.
        assert not leaks.settled(
            lambda: {str(task) for task in [admin.compute.get_server(made.id).task_state] if task}, seconds=60
        )
        assert admin.image.get_image(snapshot.id).properties.get("obsolete") == "true"
    found = verdicts(attic)
    assert found[snapshot.id] == "stays: is a snapshot"
    assert found[image_id].startswith("deleted")
    with attic.connected("admin") as admin:
        assert admin.image.get_image(snapshot.id).name == f"Obsolete {attic.name}"


def test_volumes_count_where_there_is_cinder(attic: Shelf) -> None:
    (image_id,) = obsolete(attic, 1)
    with attic.connected("admin") as admin:
        if not admin.has_service("block-storage"):
            pytest.skip("this cloud has no Cinder")
        volume = admin.block_storage.create_volume(size=1, image_id=image_id, name=attic.name)
        try:
            admin.block_storage.wait_for_status(volume, "available", interval=0.3, wait=180)
            assert verdicts(attic)[image_id] == f"stays: used by volume {attic.name}"
        finally:
            admin.block_storage.delete_volume(volume.id, ignore_missing=True)
            admin.block_storage.wait_for_delete(volume, interval=0.3, wait=180)
    assert verdicts(attic)[image_id].startswith("deleted")


def test_who_is_no_admin_gets_61_and_nothing_is_deleted(shelf: Shelf) -> None:
    (result,) = shelf.json("upload", "web", "demo")
    shelf.json("mark-obsolete", "demo", result["image"])
    code, _, err = shelf.run("rotate", "demo")
    assert code == ExitCode.NOVA_FORBIDDEN
    assert "openstack role add" in err
    assert result["image"] in shelf.images()


def test_rotate_single_takes_the_image_s_name(attic: Shelf) -> None:
    (image_id,) = obsolete(attic, 1)
    found = attic.json("rotate-single", "web", "all")
    assert [(one["image"], one["outcome"]) for one in found] == [(image_id, "deleted")]
    assert image_id not in attic.images("admin")


# -- transfer --------------------------------------------------------------------------------------


def test_an_image_goes_to_the_other_region_with_all_that_is_said_of_it(shelf: Shelf) -> None:
    shelf.write(min_disk=1, tags=["ci"], properties={"os_distro": "debian"}, protected=True)
    (result,) = shelf.json("upload", "web", "demo")
    done = shelf.json("transfer", result["image"], "demo", "demo-two")
    assert done["how"] == "fetched"
    source, image = shelf.images()[result["image"]], shelf.images("demo-two")[done["destination"]["image"]]
    for key in ("name", "hash_value", "disk_format", "visibility", "is_protected", "min_disk", "tags"):
        assert getattr(image, key) == getattr(source, key), key
    assert image.os_distro == "debian"
    assert properties(image) == properties(source)
    assert shelf.json("transfer", shelf.name, "demo", "demo-two")["how"] == "unchanged"
    assert not shelf.images("demo-two", hidden=True)
    # And back: Glance keeps a record of the import in properties that nobody may set.
    with shelf.connected("demo") as demo:
        demo.image.update_image(source.id, is_protected=False)
        demo.image.delete_image(source.id)
    back = shelf.json("transfer", image.id, "demo-two", "demo")
    assert back["how"] == "fetched"
    assert properties(shelf.images()[back["destination"]["image"]]) == properties(image)


def properties(image: Any) -> dict[str, Any]:
    """Return what somebody has said of an image, and not Glance itself."""
    return {key: value for key, value in image.properties.items() if not key.startswith("os_glance_")}


def test_a_shared_image_keeps_its_members(shelf: Shelf) -> None:
    project = shelf.project("other")
    shelf.write({"all": {"keystone": {"cloud": "admin"}}}, members=[shelf.site.cloud.name_of("other")])
    (result,) = shelf.json("upload", "web", "all")
    done = shelf.json("transfer", result["image"], "admin", "admin-two")
    with shelf.connected("admin-two") as admin:
        members = {one.member_id: one.status for one in admin.image.members(done["destination"]["image"])}
    assert members == {project: "accepted"}


def test_kernel_and_initrd_are_transferred_too(shelf: Shelf) -> None:
    shelf.write(filename=shelf.site.image)
    (result,) = shelf.json("upload", "web", "demo")
    done = shelf.json("transfer", result["image"], "demo", "demo-two")
    image = shelf.images("demo-two")[done["destination"]["image"]]
    parts = shelf.images("demo-two", hidden=True)
    assert {image.kernel_id, image.ramdisk_id} == set(parts)


def test_a_transfer_through_a_rough_way_is_verified(shelf: Shelf) -> None:
    (result,) = shelf.json("upload", "web", "demo")
    with proxy.before(shelf.glance("demo-two")) as between:
        between.harms += [
            # The other Glance cannot fetch it, so it goes through here.
            proxy.Harm(method="POST", path="/import$", status=403),
            proxy.Harm(method="PUT", path="/file$", body=proxy.flip(MIB)),
        ]
        there = {"keystone": {"cloud": "demo-two"}, "glance": {"endpoint": between.url}}
        shelf.write({"demo": {"keystone": {"cloud": "demo"}}, "there": there})
        code, _, err = shelf.run("transfer", result["image"], "demo", "there")
        assert between.count("PUT", "/file$") == 1
    assert code == ExitCode.UNSPECIFIED
    assert "arrived damaged" in err
    assert not shelf.images("demo-two")
    assert not shelf.images("demo-two", hidden=True)
