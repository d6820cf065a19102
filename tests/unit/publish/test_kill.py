"""What an end by force leaves of ``dibctl upload`` and ``transfer``, and what the same command does then."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pytest_dibctl.clouds import marks
from tests.support import claims
from tests.support.fake_openstack import FakeCloud, Refusal
from tests.support.publishing import NAME, Shop

LONG_AGO = "2020-01-01T00:00:00Z"
UPLOAD_CALLS = [
    *("POST kernel", "PUT kernel", "POST initrd", "PUT initrd", "POST image", "PUT image"),
    *("reveal", "obsolete", "settle kernel", "settle initrd"),
]
TRANSFER_CALLS = [
    *("POST kernel", "PUT kernel", "POST initrd", "PUT initrd", "POST image", "PUT image"),
    *("reveal", "settle kernel", "settle initrd"),
]


@pytest.fixture
def two(shop: Shop, abroad: FakeCloud) -> Shop:
    there = {"auth_url": abroad.url, "username": "admin", "password": "secret", "project_name": "admin"}
    shop.write({"here": {"keystone": shop.keystone("admin")}, "there": {"keystone": there}})
    return shop


def dies(cloud: FakeCloud, call: int) -> list[str]:
    """Have a cloud hear nothing of whoever calls, from a certain changing call on; return those it heard of.

    To the cloud it is all the same whether the caller is dead, and tries nothing any more, or is not heard.
    """
    heard: list[str] = []

    def before(method: str, path: str, _query: Mapping[str, str]) -> None:
        if not path.startswith("/image-"):
            return
        if method != "GET":
            heard.append(f"{method} {path}")
        if len(heard) > call:
            raise Refusal(403, "nobody listens")

    cloud.before = before
    return heard


def at_call(cloud: FakeCloud, pattern: str, act: Callable[[], None]) -> None:
    """Do something once, when a call that changes something begins."""

    def before(method: str, path: str, _query: Mapping[str, str]) -> None:
        if re.search(pattern, f"{method} {path}"):
            cloud.before = lambda *_: None
            act()

    cloud.before = before


def recover(cloud: FakeCloud) -> None:
    cloud.before = lambda *_: None


def age(cloud: FakeCloud) -> None:
    """Have everything that is unfinished be so for long."""
    for image in unfinished(cloud):
        image["updated_at"] = LONG_AGO


def dead(cloud: FakeCloud) -> None:
    """Have the uploader of everything that is unfinished be dead."""
    for image in unfinished(cloud):
        if "dibctl_claim" in image:
            image["dibctl_claim"] = claims.of_a_dead_process()


def unfinished(cloud: FakeCloud) -> list[dict[str, Any]]:
    return [image for image in cloud.region().values() if marks.UNFINISHED in image["tags"]]


def current(cloud: FakeCloud) -> list[dict[str, Any]]:
    return [
        image
        for image in cloud.region().values()
        if (image["name"], image["status"], image["os_hidden"]) == (NAME, "active", False)
    ]


def parts(cloud: FakeCloud, image: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [cloud.region()[image[key]] for key in ("kernel_id", "ramdisk_id")]


def check_upload(shop: Shop, old: Mapping[str, Any]) -> None:
    """Check that a new image has taken the place of the old one, and nothing else is there."""
    (new,) = current(shop.cloud)
    assert new["id"] != old["id"]
    assert shop.cloud.contents[new["id"]] == (shop.path / "debian.qcow2").read_bytes()
    assert [shop.cloud.contents[part["id"]] for part in parts(shop.cloud, new)] == [
        (shop.path / f"debian.{suffix}").read_bytes() for suffix in ("vmlinuz", "initrd")
    ]
    assert (old["name"], old["obsoleted_by"]) == (f"Obsolete {NAME}", new["id"])
    expected = [new, *parts(shop.cloud, new), old, *parts(shop.cloud, old)]
    assert {image["id"] for image in expected} == set(shop.cloud.region())
    assert not unfinished(shop.cloud)


@pytest.mark.parametrize("call", range(len(UPLOAD_CALLS)), ids=UPLOAD_CALLS)
def test_an_upload_that_died_anywhere_is_finished_by_the_next(shop: Shop, call: int) -> None:
    shop.fill_filesystem()
    shop.json("upload", "debian", "one")
    (old,) = current(shop.cloud)
    old["created_at"] = "2026-01-01T00:00:00Z"  # of two images of one second, the id decides which is newer
    shop.fill_filesystem()
    heard = dies(shop.cloud, call)
    shop.run("upload", "debian", "one")
    assert len(heard) > call
    assert old in current(shop.cloud) or len(current(shop.cloud)) == 1
    recover(shop.cloud)
    dead(shop.cloud)
    bodies = shop.cloud.count("PUT", "/file$")
    (result,) = shop.json("upload", "debian", "one")
    if call == UPLOAD_CALLS.index("reveal"):
        assert shop.cloud.count("PUT", "/file$") == bodies
    assert result["outcome"] == ("unchanged" if call > UPLOAD_CALLS.index("reveal") else "uploaded")
    age(shop.cloud)
    (again,) = shop.json("upload", "debian", "one")
    assert (again["outcome"], again["image"]) == ("unchanged", result["image"])
    check_upload(shop, old)


def test_all_calls_of_an_upload_were_tried(shop: Shop) -> None:
    shop.fill_filesystem()
    shop.json("upload", "debian", "one")
    shop.fill_filesystem()
    heard = dies(shop.cloud, 100)
    shop.json("upload", "debian", "one")
    assert [call.partition(" ")[0] for call in heard] == ["POST", "PUT"] * 3 + ["PATCH"] * 4


@pytest.mark.parametrize("body", [1, 2, 3], ids=["kernel", "initrd", "image"])
def test_an_upload_killed_in_a_body_leaves_nothing_for_good(shop: Shop, body: int) -> None:
    shop.fill_filesystem()
    shop.json("upload", "debian", "one")
    (old,) = current(shop.cloud)
    shop.fill_filesystem()
    bodies: list[str] = []
    with shop.child("upload", "debian", "one") as dibctl:

        def before(method: str, path: str, _query: Mapping[str, str]) -> None:
            if method == "PUT" and path.endswith("/file"):
                bodies.append(path)
                if len(bodies) == body:
                    dibctl.kill()

        shop.cloud.before = before
        assert dibctl.end() < 0
    recover(shop.cloud)
    assert len(unfinished(shop.cloud)) == body
    assert current(shop.cloud) == [old]
    age(shop.cloud)
    shop.json("upload", "debian", "one")
    check_upload(shop, old)


def kernel(cloud: FakeCloud, **more: Any) -> str:
    usual: dict[str, Any] = {"disk_format": "aki", "container_format": "aki", "os_hidden": True}
    tags = [marks.COMPANION, marks.UNFINISHED]
    return cloud.add_image(**{"name": f"{NAME} (kernel)", "tags": tags, **usual, **more})


def test_a_kernel_that_an_image_needs_is_never_removed(shop: Shop) -> None:
    needed, left = kernel(shop.cloud, updated_at=LONG_AGO), kernel(shop.cloud, updated_at=LONG_AGO)
    young, theirs = kernel(shop.cloud), kernel(shop.cloud, updated_at=LONG_AGO, owner="other-id")
    others = kernel(shop.cloud, updated_at=LONG_AGO, name="Another (kernel)")
    user = shop.cloud.add_image("anything", kernel_id=needed)
    shop.json("upload", "debian", "one")
    assert {needed, young, theirs, others, user} <= set(shop.cloud.region())
    assert left not in shop.cloud.region()


def test_an_old_unfinished_image_takes_its_kernel_along(shop: Shop) -> None:
    """One of an earlier version, whose kernels had no tag but their own."""
    part = kernel(shop.cloud, tags=[marks.COMPANION])
    shared = kernel(shop.cloud, tags=[marks.COMPANION])
    foreign = kernel(shop.cloud, tags=[])
    left: dict[str, Any] = {"os_hidden": True, "status": "queued", "tags": [marks.UNFINISHED]}
    first = shop.cloud.add_image(NAME, **left, kernel_id=part, ramdisk_id=foreign, updated_at=LONG_AGO)
    second = shop.cloud.add_image(NAME, **left, kernel_id=shared, updated_at=LONG_AGO)
    shop.cloud.add_image("anything", kernel_id=shared)
    shop.json("upload", "debian", "one")
    assert not {first, second, part} & set(shop.cloud.region())
    assert {shared, foreign} <= set(shop.cloud.region())


def test_what_is_published_while_it_is_looked_for_stays(shop: Shop) -> None:
    """Another upload takes up what is old and unfinished, after it was listed and before its turn."""
    shop.json("upload", "debian", "one")
    first, second = (
        shop.cloud.add_image(NAME, os_hidden=True, tags=[marks.UNFINISHED], updated_at=LONG_AGO)
        for _ in range(2)
    )

    def publish(method: str, path: str, _query: Mapping[str, str]) -> None:
        if method != "DELETE":
            return
        (other,) = {first, second} - {path.rpartition("/")[2]}
        if image := shop.cloud.region().get(other):
            image.update(os_hidden=False, tags=[])

    shop.cloud.before = publish
    shop.json("upload", "debian", "one")
    left = {first, second} & set(shop.cloud.region())
    assert len(left) == 1
    assert shop.cloud.region()[left.pop()]["os_hidden"] is False


@pytest.mark.parametrize("call", ["claim", "reveal", "obsolete"])
def test_what_was_taken_up_and_fails_is_unfinished_again(shop: Shop, call: str) -> None:
    shop.fill_filesystem()
    shop.json("upload", "debian", "one")
    (old,) = current(shop.cloud)
    old["created_at"] = "2026-01-01T00:00:00Z"
    shop.fill_filesystem()
    dies(shop.cloud, UPLOAD_CALLS.index("reveal"))
    shop.run("upload", "debian", "one")
    dead(shop.cloud)
    (image,) = [image for image in unfinished(shop.cloud) if image["name"] == NAME]
    before = {key: value for key, value in image.items() if key not in {"updated_at", "dibctl_claim"}}
    patches: list[str] = []

    def refuse(method: str, path: str, _query: Mapping[str, str]) -> None:
        if method == "PATCH":
            patches.append(path)
            if len(patches) == ["claim", "reveal", "obsolete"].index(call) + 1:
                raise Refusal(403, "locked")

    shop.cloud.before = refuse
    assert shop.run("upload", "debian", "one")[0] == 1
    recover(shop.cloud)
    after = {key: value for key, value in image.items() if key not in {"updated_at", "dibctl_claim"}}
    assert after == before
    assert current(shop.cloud) == [old]
    dead(shop.cloud)
    (result,) = shop.json("upload", "debian", "one")
    assert result["image"] == image["id"]
    check_upload(shop, old)


@pytest.mark.parametrize("claim", ["own", "elsewhere", "none", "nonsense"])
def test_what_a_living_upload_may_still_publish_is_not_taken_up(shop: Shop, claim: str) -> None:
    """Only time tells whether an uploader on another machine, or of an earlier version, has ended."""
    shop.fill()
    dies(shop.cloud, 2)
    shop.run("upload", "debian", "one")
    recover(shop.cloud)
    (left,) = unfinished(shop.cloud)
    match claim:
        case "elsewhere":
            left["dibctl_claim"] = claims.ELSEWHERE
        case "none":
            del left["dibctl_claim"]
        case "nonsense":
            left["dibctl_claim"] = "../\n-1/ä"
    kept = dict(left)
    (first,) = shop.json("upload", "debian", "one")
    assert first["image"] != left["id"]
    assert left == kept
    shop.cloud.region().pop(first["image"])
    age(shop.cloud)
    (second,) = shop.json("upload", "debian", "one")
    assert second["image"] == left["id"]
    assert "dibctl_claim" not in left


def test_an_upload_that_slept_removes_nothing_that_another_took_up(shop: Shop) -> None:
    shop.fill()

    def sleeps(method: str, path: str, _query: Mapping[str, str]) -> None:
        if method == "PATCH":  # it is about to publish, and has slept for long
            (image,) = unfinished(shop.cloud)
            image.update(dibctl_claim=claims.ELSEWHERE)
            raise Refusal(403, "locked")

    shop.cloud.before = sleeps
    code, _, err = shop.run("upload", "debian", "one")
    assert code == 1
    assert "another upload of the same bytes has taken it up" in err
    (image,) = shop.cloud.region().values()
    assert image["dibctl_claim"] == claims.ELSEWHERE


def test_what_was_published_while_it_was_claimed_stays_another_uploads(shop: Shop) -> None:
    shop.fill()
    dies(shop.cloud, 2)
    shop.run("upload", "debian", "one")
    recover(shop.cloud)
    dead(shop.cloud)
    (left,) = unfinished(shop.cloud)
    at_call(shop.cloud, "^PATCH", lambda: left.update(os_hidden=False, tags=[]))
    (result,) = shop.json("upload", "debian", "one")
    assert "dibctl_claim" not in left
    assert left["id"] in shop.cloud.region()
    assert {left["id"], result["image"]} <= set(shop.cloud.region())
    assert len(current(shop.cloud)) == 1


def test_an_unfinished_image_whose_kernel_is_gone_is_not_taken_up(shop: Shop) -> None:
    shop.fill_filesystem()
    dies(shop.cloud, UPLOAD_CALLS.index("reveal"))
    shop.run("upload", "debian", "one")
    recover(shop.cloud)
    dead(shop.cloud)
    (broken,) = [image for image in unfinished(shop.cloud) if image["name"] == NAME]
    del shop.cloud.region()[broken["kernel_id"]]
    (result,) = shop.json("upload", "debian", "one")
    assert result["image"] != broken["id"]
    assert len(parts(shop.cloud, shop.cloud.region()[result["image"]])) == 2


def test_kernels_that_are_left_are_listed(shop: Shop) -> None:
    left = kernel(shop.cloud)
    kernel(shop.cloud, tags=[marks.COMPANION])
    (found,) = shop.json("list", "one")
    assert [(one["image"], one["state"]) for one in found["images"]] == [(left, "unfinished")]


# -- transfer --------------------------------------------------------------------------------------


def source(shop: Shop) -> str:
    """Add an image with a kernel and an initrd of its own."""
    ids = {
        key: kernel(shop.cloud, owner="admin-id", tags=[marks.COMPANION], name=name, content=name.encode())
        for key, name in (("kernel_id", "k"), ("ramdisk_id", "r"))
    }
    return shop.cloud.add_image(NAME, owner="admin-id", disk_format="raw", content=b"bytes", **ids)


def check_transfer(abroad: FakeCloud) -> None:
    (image,) = current(abroad)
    assert [abroad.contents[one["id"]] for one in (image, *parts(abroad, image))] == [b"bytes", b"k", b"r"]
    assert [part["tags"] for part in parts(abroad, image)] == [[marks.COMPANION]] * 2
    assert len(abroad.region()) == 3


@pytest.mark.parametrize("call", range(len(TRANSFER_CALLS)), ids=TRANSFER_CALLS)
def test_a_transfer_that_died_anywhere_is_finished_by_the_next(
    two: Shop, abroad: FakeCloud, call: int
) -> None:
    image_id = source(two)
    heard = dies(abroad, call)
    assert two.run("transfer", image_id, "here", "there")[0] == 1
    assert len(heard) > call
    recover(abroad)
    dead(abroad)
    bodies = abroad.count("PUT", "/file$")
    two.json("transfer", image_id, "here", "there")
    if call >= TRANSFER_CALLS.index("reveal"):
        assert abroad.count("PUT", "/file$") == bodies
    age(abroad)
    assert two.json("transfer", image_id, "here", "there")["how"] == "unchanged"
    check_transfer(abroad)


def test_all_calls_of_a_transfer_were_tried(two: Shop, abroad: FakeCloud) -> None:
    heard = dies(abroad, 100)
    two.json("transfer", source(two), "here", "there")
    assert [call.partition(" ")[0] for call in heard] == ["POST", "PUT"] * 3 + ["PATCH"] * 3


def test_a_transfer_whose_last_answer_is_lost_leaves_nothing(two: Shop, abroad: FakeCloud) -> None:
    def shows_and_is_not_heard() -> None:
        (image,) = [image for image in unfinished(abroad) if image["name"] == NAME]
        image.update(os_hidden=False, tags=[])
        del image["dibctl_claim"]
        raise Refusal(403, "locked")

    image_id = source(two)
    at_call(abroad, "^PATCH", shows_and_is_not_heard)
    code, _, err = two.run("transfer", image_id, "here", "there")
    assert code == 1
    assert "taken it up" not in err
    assert not abroad.region()


@pytest.mark.parametrize("body", [1, 3], ids=["kernel", "image"])
def test_a_transfer_killed_in_a_body_leaves_nothing_for_good(two: Shop, abroad: FakeCloud, body: int) -> None:
    image_id = source(two)
    bodies: list[str] = []
    with two.child("transfer", image_id, "here", "there") as dibctl:

        def before(method: str, path: str, _query: Mapping[str, str]) -> None:
            if method == "PUT":
                bodies.append(path)
                if len(bodies) == body:
                    dibctl.kill()

        abroad.before = before
        assert dibctl.end() < 0
    recover(abroad)
    assert len(unfinished(abroad)) == body
    two.json("transfer", image_id, "here", "there")
    age(abroad)
    two.json("transfer", image_id, "here", "there")
    check_transfer(abroad)


@pytest.mark.parametrize("call", range(len(TRANSFER_CALLS)), ids=TRANSFER_CALLS)
def test_a_transfer_that_fails_leaves_the_destination_as_it_was(
    two: Shop, abroad: FakeCloud, call: int
) -> None:
    calls = 0

    def before(method: str, path: str, _query: Mapping[str, str]) -> None:
        nonlocal calls
        if path.startswith("/image-") and method in {"POST", "PUT", "PATCH"}:
            calls += 1
            if calls == call + 1:
                raise Refusal(403, "not this")

    abroad.before = before
    code, _, err = two.run("transfer", source(two), "here", "there")
    assert code == 1
    assert "not this" in err
    assert not abroad.region()


def test_a_kernel_that_was_there_before_a_failed_transfer_stays(two: Shop, abroad: FakeCloud) -> None:
    there = kernel(abroad, owner="admin-id", tags=[marks.COMPANION], name="k", content=b"k")

    def before(method: str, _path: str, _query: Mapping[str, str]) -> None:
        if method == "PATCH":
            raise Refusal(403, "locked")

    abroad.before = before
    assert two.run("transfer", source(two), "here", "there")[0] == 1
    assert set(abroad.region()) == {there}


def test_another_projects_image_is_transferred_once(two: Shop, abroad: FakeCloud) -> None:
    image_id = two.cloud.add_image(NAME, owner="other-id", disk_format="raw", content=b"theirs")
    two.json("transfer", image_id, "here", "there")
    assert two.json("transfer", image_id, "here", "there")["how"] == "unchanged"
    (image,) = abroad.region().values()
    assert image["owner"] == "other-id"
    image.update(os_hidden=True, tags=[marks.UNFINISHED], dibctl_claim=claims.of_a_dead_process())
    assert two.json("transfer", image_id, "here", "there")["how"] == "updated"
    assert "dibctl_claim" not in image
    left: dict[str, Any] = {"os_hidden": True, "status": "queued", "tags": [marks.UNFINISHED]}
    abroad.add_image(NAME, owner="other-id", **left, updated_at=LONG_AGO)
    two.json("transfer", image_id, "here", "there")
    assert list(abroad.region()) == [image["id"]]


def test_no_mark_of_a_test_run_is_transferred(two: Shop, abroad: FakeCloud) -> None:
    ours = [*marks.all_tags("01234567"), marks.KEPT]
    image_id = two.cloud.add_image(NAME, owner="admin-id", disk_format="raw", tags=["ci", *ours])
    two.json("transfer", image_id, "here", "there")
    assert [image["tags"] for image in abroad.region().values()] == [["ci"]]


def test_a_name_means_what_its_environment_does_not_call_obsolete(two: Shop, abroad: FakeCloud) -> None:
    there = {"auth_url": abroad.url, "username": "admin", "password": "secret", "project_name": "admin"}
    rule = {"name": "Ended %(name)s", "properties": {"lifecycle": "ended"}}
    two.write(
        {
            "here": {"keystone": two.keystone("admin"), "obsolete": rule},
            "there": {"keystone": there},
        }
    )
    meant = two.cloud.add_image(NAME, owner="admin-id", created_at=LONG_AGO)
    two.cloud.add_image(NAME, owner="admin-id", lifecycle="ended")
    assert two.json("transfer", NAME, "here", "there")["source"]["image"] == meant
