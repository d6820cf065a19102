"""``dibctl transfer`` between fake clouds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pytest_dibctl.errors import ExitCode
from tests.support import claims
from tests.support.fake_openstack import FakeCloud, Refusal, serving
from tests.support.publishing import NAME, Shop

CONTENT = bytes(range(256)) * 20000


@pytest.fixture
def abroad() -> Iterator[FakeCloud]:
    """Another cloud, with a Keystone of its own, whose projects have other ids."""
    users = {"demo": "there-demo", "other": "there-other", "admin": "there-admin"}
    with serving(FakeCloud(users=users)) as cloud:
        yield cloud


@pytest.fixture
def two(shop: Shop, abroad: FakeCloud) -> Shop:
    there = {"auth_url": abroad.url, "username": "admin", "password": "secret", "project_name": "admin"}
    near = shop.keystone("admin", "RegionTwo")
    shop.write(
        {"here": {"keystone": shop.keystone("admin")}, "near": {"keystone": near}, "far": {"keystone": there}}
    )
    return shop


def add(shop: Shop, **more: Any) -> str:
    usual: dict[str, Any] = {"owner": "admin-id", "content": CONTENT, "disk_format": "raw"}
    return shop.cloud.add_image(**{"name": NAME, **usual, **more})


def test_everything_of_an_image_arrives(two: Shop, abroad: FakeCloud) -> None:
    image_id = add(
        two,
        visibility="shared",
        protected=True,
        min_disk=3,
        min_ram=64,
        tags=["ci", "dibctl-test", "dibctl-run-01234567"],
        os_distro="debian",
        obsolete="true",
    )
    two.cloud.members[image_id] = {"other-id": "accepted"}
    done = two.json("transfer", image_id, "here", "far")
    assert done["how"] == "streamed"
    (image,) = abroad.region().values()
    assert image["id"] == done["destination"]["image"]
    assert abroad.contents[image["id"]] == CONTENT
    source = two.cloud.region()[image_id]
    same = ("name", "disk_format", "container_format", "visibility", "protected", "min_disk", "min_ram")
    assert {key: image[key] for key in same} == {key: source[key] for key in same}
    assert (image["os_distro"], image["obsolete"]) == ("debian", "true")
    assert image["tags"] == ["ci"]
    assert image["os_hidden"] is False
    assert image["owner"] == "there-admin"
    assert abroad.members[image["id"]] == {"there-other": "accepted"}


def test_another_projects_image_keeps_its_owner_by_name(two: Shop, abroad: FakeCloud) -> None:
    image_id = add(two, owner="other-id")
    two.json("transfer", image_id, "here", "far")
    (image,) = abroad.region().values()
    assert image["owner"] == "there-other"
    two.json("transfer", add(two, owner="other-id", name="x"), "here", "far", "--ignore-membership")
    assert {one["owner"] for one in abroad.region().values() if one["name"] == "x"} == {"there-admin"}


def test_without_meta_only_bytes_and_formats_go(two: Shop, abroad: FakeCloud) -> None:
    image_id = add(two, visibility="public", tags=["ci"], os_distro="debian", min_disk=3)
    two.json("transfer", image_id, "here", "far", "--ignore-meta")
    (image,) = abroad.region().values()
    assert (image["name"], image["disk_format"], image["visibility"]) == (NAME, "raw", "private")
    assert (image["tags"], image["min_disk"], image.get("os_distro")) == ([], 0, None)


def test_within_one_keystone_the_other_glance_fetches_it(two: Shop) -> None:
    image_id = add(two)
    done = two.json("transfer", image_id, "here", "near")
    assert done["how"] == "fetched"
    (image,) = two.images("RegionTwo")
    assert two.cloud.contents[image["id"]] == CONTENT
    assert (image["os_hidden"], image["tags"]) == (False, [])
    assert not two.cloud.count("GET", f"{image_id}/file$")


def test_what_cannot_be_fetched_goes_through_here(two: Shop) -> None:
    def before(method: str, path: str, _query: Mapping[str, str]) -> None:
        if method == "POST" and path.endswith("/import"):
            raise Refusal(403, "not here")

    two.cloud.before = before
    assert two.json("transfer", add(two), "here", "near")["how"] == "streamed"
    assert len(two.images("RegionTwo")) == 1


def test_a_fetch_that_fails_later_is_noticed(two: Shop) -> None:
    two.cloud.import_fails = "URI does not pass filtering"
    code, out, err = two.run("transfer", add(two), "here", "near")
    assert code == ExitCode.OK, err
    assert "URI does not pass filtering" in err
    assert "transferred" in out
    assert len(two.images("RegionTwo")) == 1


def test_what_is_there_is_not_sent_again(two: Shop, abroad: FakeCloud) -> None:
    image_id = add(two, tags=["a"])
    two.json("transfer", image_id, "here", "far")
    assert two.json("transfer", image_id, "here", "far")["how"] == "unchanged"
    two.cloud.region()[image_id].update(tags=["b"], os_distro="debian")
    assert two.json("transfer", image_id, "here", "far")["how"] == "updated"
    (image,) = abroad.region().values()
    assert (image["tags"], image["os_distro"]) == (["b"], "debian")
    assert abroad.count("PUT", "/file$") == 1


def test_an_interrupted_transfer_is_taken_up(two: Shop, abroad: FakeCloud) -> None:
    image_id = add(two)
    two.json("transfer", image_id, "here", "far")
    (image,) = abroad.region().values()
    image.update(os_hidden=True, tags=["dibctl-unfinished"], dibctl_claim=claims.of_a_dead_process())
    assert two.json("transfer", image_id, "here", "far")["how"] == "updated"
    assert (image["os_hidden"], image["tags"]) == (False, [])
    assert len(abroad.region()) == 1


def test_damaged_bytes_leave_nothing(two: Shop, abroad: FakeCloud) -> None:
    image_id = add(two)
    two.cloud.contents[image_id] = CONTENT[:-1] + b"x"
    code, _, err = two.run("transfer", image_id, "here", "far")
    assert code == ExitCode.UNSPECIFIED
    assert "came damaged from here" in err
    assert not abroad.region()


def test_a_failure_at_the_end_leaves_nothing(two: Shop, abroad: FakeCloud) -> None:
    def before(method: str, _path: str, _query: Mapping[str, str]) -> None:
        if method == "PATCH":
            raise Refusal(403, "locked")

    abroad.before = before
    assert two.run("transfer", add(two), "here", "far")[0] == ExitCode.UNSPECIFIED
    assert not abroad.region()


def test_a_name_means_its_current_image(two: Shop) -> None:
    old = add(two, created_at="2020-01-01T00:00:00Z")
    new, obsolete = add(two), add(two, obsolete="true")
    done = two.json("transfer", NAME, "here", "near")
    assert done["source"]["image"] == new
    assert new not in {old, obsolete}
    code, _, err = two.run("transfer", "nothing", "here", "near")
    assert code == ExitCode.IMAGE_NOT_FOUND
    assert "nothing" in err


def test_kernel_and_initrd_go_along(two: Shop, abroad: FakeCloud) -> None:
    kernel = add(
        two, name="k", content=b"kernel", disk_format="aki", os_hidden=True, tags=["dibctl-companion"]
    )
    two.json("transfer", add(two, kernel_id=kernel), "here", "far")
    by_name = {image["name"]: image for image in abroad.region().values()}
    assert by_name[NAME]["kernel_id"] == by_name["k"]["id"]
    assert (by_name["k"]["os_hidden"], by_name["k"]["tags"]) == (True, ["dibctl-companion"])


def test_dibctls_own_options_say_both_ends(two: Shop, abroad: FakeCloud) -> None:
    image_id = add(two, owner="demo-id")
    ends = []
    for side, cloud in (("src", two.cloud), ("dst", abroad)):
        for key, value in (
            ("auth-url", cloud.url),
            ("tenant-name", "demo"),
            ("username", "demo"),
            ("password", "secret"),
        ):
            ends.append(f"--{side}-{key}={value}")
    assert two.json("transfer", image_id, *ends)["how"] == "streamed"
    (image,) = abroad.region().values()
    assert image["owner"] == "there-demo"


def test_the_environment_fills_in_and_sends_neither_end_elsewhere(
    two: Shop, abroad: FakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_AUTH_URL", "http://127.0.0.1:1/v3")
    monkeypatch.setenv("OS_PASSWORD", "wrong")
    assert two.json("transfer", add(two), "here", "far")["how"] == "streamed"
    assert abroad.region()
    monkeypatch.setenv("OS_AUTH_URL", two.cloud.url)
    for name, value in (("USERNAME", "admin"), ("PASSWORD", "secret"), ("PROJECT_NAME", "admin")):
        monkeypatch.setenv(f"OS_{name}", value)
    ends = ["--src-region-name=RegionOne", "--dst-region-name=RegionThree"]
    assert two.json("transfer", add(two, name="b"), *ends)["how"] == "fetched"


def test_an_unknown_end_is_said(two: Shop) -> None:
    code, _, err = two.run("transfer", add(two), "here", "nowhere")
    assert code == ExitCode.CONFIG
    assert "nowhere" in err
    code, _, err = two.run("transfer", "x", "here", "nowhere", "--dst-username=me")
    assert code == ExitCode.NOT_IN_CONFIG


def test_a_label_that_is_no_cloud_either_is_told_with_a_near_one(two: Shop) -> None:
    code, _, err = two.run("transfer", NAME, "here", "faar")
    assert code == ExitCode.CONFIG
    assert "there is no cloud 'faar' in clouds.yaml" in err
    assert "note: there is no upload environment 'faar'; did you mean 'far'?" in err
