"""``dibctl rotate`` with the real client against a fake Glance, Nova and Cinder."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_dibctl.errors import ExitCode
from tests.support.fake_openstack import Refusal, stamp
from tests.support.publishing import NAME, Shop

OLD = f"Obsolete {NAME}"


@pytest.fixture
def attic(shop: Shop) -> Shop:
    """A shop whose publisher is an admin."""
    shop.write({"one": {"keystone": shop.keystone("admin")}})
    return shop


def obsolete(shop: Shop, days: int = 10, **more: Any) -> str:
    when = stamp(dt.datetime.now(dt.UTC) - dt.timedelta(days=days))
    usual = {"owner": "admin-id", "obsolete": "true", "obsoleted_at": when}
    return shop.cloud.add_image(**{"name": OLD, **usual, **more})


def server(image_id: str | None, number: int = 0, **more: Any) -> dict[str, Any]:
    image: Any = {"id": image_id} if image_id else ""
    usual = {"id": f"s{number}", "name": f"web-{number}", "tenant_id": "p", "status": "ACTIVE"}
    return {**usual, "image": image, **more}


def volume(image_id: str, number: int = 0) -> dict[str, Any]:
    usual = {"id": f"v{number}", "name": "", "attachments": [], "os-vol-host-attr:host": "lvm"}
    return {**usual, "volume_image_metadata": {"image_id": image_id}}


def reasons(shop: Shop, *options: str, code: int = 0) -> dict[str, str]:
    found = shop.json("rotate", "one", *options, code=code)
    return {one["image"]: f"{one['outcome']}: {one['reason']}" for one in found}


def test_only_what_nobody_uses_goes(attic: Shop) -> None:
    cloud = attic.cloud
    unused, used, booted, protected, snapshot = (
        obsolete(attic),
        obsolete(attic),
        obsolete(attic),
        obsolete(attic, protected=True),
        obsolete(attic, image_type="snapshot"),
    )
    theirs = obsolete(attic, owner="demo-id")
    stored, renamed = obsolete(attic), obsolete(attic, name="from-a-volume")
    current = cloud.add_image(NAME, owner="admin-id")
    cloud.other_servers = [server(used, 1), server(used, 2), server(None, 3)]
    cloud.volumes = [volume(booted)]
    cloud.in_use = {stored}
    before = {one: dict(image) for one, image in cloud.region().items()}
    assert reasons(attic) == {
        unused: "deleted: nobody used it",
        used: "stays: used by server web-1 of project p and 1 more",
        booted: "stays: used by volume v0",
        protected: "stays: is protected",
        snapshot: "stays: is a snapshot",
        stored: "stays: the store has it in use",
        renamed: "stays: is not called like an obsolete image",
    }
    assert cloud.region() == {one: image for one, image in before.items() if one != unused}
    assert {theirs, current} <= set(cloud.region())


def test_dry_run_deletes_nothing(attic: Shop) -> None:
    unused = obsolete(attic)
    code, out, _ = attic.run("rotate", "one", "--dry-run")
    assert code == ExitCode.OK
    assert "would be deleted" in out
    assert unused in attic.cloud.region()
    assert {method for method, path in attic.cloud.calls if "tokens" not in path} == {"GET"}


def test_the_newest_and_the_young_are_kept(attic: Shop) -> None:
    ages = {days: obsolete(attic, days) for days in (1, 5, 20, 40)}
    other = obsolete(attic, 50, name="Obsolete Other")
    found = reasons(attic, "--keep", "1", "--older-than", "2w")
    assert found == {
        ages[1]: "stays: is among the 1 newest of its name",
        ages[5]: found[ages[5]],
        ages[20]: "deleted: nobody used it",
        ages[40]: "deleted: nobody used it",
        other: "stays: is among the 1 newest of its name",
    }
    assert found[ages[5]].startswith("stays: is obsolete since ")


def test_names_choose(attic: Shop) -> None:
    mine, other = obsolete(attic), obsolete(attic, name="Obsolete Other")
    assert set(reasons(attic, "Other")) == {other}
    assert set(reasons(attic, OLD)) == {mine}
    again = obsolete(attic)
    (verdict,) = attic.json("rotate-single", "debian", "one")
    assert (verdict["image"], verdict["outcome"]) == (again, "deleted")


def test_a_member_may_not_rotate_and_is_told_how_to(shop: Shop) -> None:
    left = obsolete(shop, owner="demo-id")
    code, _, err = shop.run("rotate", "one")
    assert code == ExitCode.NOVA_FORBIDDEN
    assert "upload.yaml" in err
    assert "openstack role add" in err
    assert left in shop.cloud.region()


def test_who_is_no_admin_of_cinder_may_not_either(attic: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    left = obsolete(attic)
    attic.cloud.volumes = [{"id": "v", "name": "v"}]
    code, _, err = attic.run("rotate", "one")
    assert code == ExitCode.NOVA_FORBIDDEN
    assert "volumes of all projects" in err
    assert left in attic.cloud.region()


def test_a_server_without_an_image_and_no_cinder_keep_everything(attic: Shop) -> None:
    left = obsolete(attic)
    attic.cloud.other_servers = [server(None)]
    assert "no Cinder" in reasons(attic)[left]


def test_a_cell_that_is_down_stops_it(attic: Shop) -> None:
    left = obsolete(attic)
    attic.cloud.other_servers = [{"id": "s", "status": "UNKNOWN", "tenant_id": "p"}]
    code, _, err = attic.run("rotate", "one")
    assert code == ExitCode.UNSPECIFIED
    assert "cell is down" in err
    assert left in attic.cloud.region()


def test_a_server_of_the_last_moment_is_seen(attic: Shop) -> None:
    left = obsolete(attic)

    def before(method: str, path: str, query: Mapping[str, str]) -> None:
        if path.endswith("/servers/detail") and "image" in query:
            attic.cloud.other_servers = [server(left)]

    attic.cloud.before = before
    assert reasons(attic)[left].startswith("stays: used by server web-0 of project p since a moment ago")


def test_soft_deleted_servers_count(attic: Shop) -> None:
    left = obsolete(attic)
    attic.cloud.soft_deleted = [server(left, status="SOFT_DELETED")]
    assert reasons(attic)[left].startswith("stays: used by server")


def test_a_kernel_goes_with_its_last_image(attic: Shop) -> None:
    kernel = attic.cloud.add_image(
        "k", owner="admin-id", os_hidden=True, tags=["dibctl-companion"], disk_format="aki"
    )
    shared = attic.cloud.add_image(
        "r", owner="admin-id", os_hidden=True, tags=["dibctl-companion"], disk_format="ari"
    )
    obsolete(attic, kernel_id=kernel, ramdisk_id=shared)
    attic.cloud.add_image(NAME, owner="admin-id", ramdisk_id=shared)
    (verdict,) = attic.json("rotate", "one")
    assert verdict["reason"] == "with k"
    assert kernel not in attic.cloud.region()
    assert shared in attic.cloud.region()


def test_an_error_of_one_does_not_stop_the_others(attic: Shop) -> None:
    bad, good = obsolete(attic, 1), obsolete(attic, 2)

    def before(method: str, path: str, _query: Mapping[str, str]) -> None:
        if method == "DELETE" and path.endswith(bad):
            raise Refusal(400, "no")

    attic.cloud.before = before
    found = reasons(attic, code=1)
    assert found[bad].startswith("failed: cannot delete image")
    assert good not in attic.cloud.region()


def test_lists_are_paged(attic: Shop) -> None:
    left = [obsolete(attic) for _ in range(7)]
    attic.cloud.page = 3
    attic.cloud.other_servers = [server(left[number % 7], number) for number in range(14)]
    attic.cloud.volumes = [volume(left[0], number) for number in range(4)]
    assert {reason.partition(" ")[0] for reason in reasons(attic).values()} == {"stays:"}
    assert attic.cloud.count("GET", "/servers/detail") == 5 + 1
    assert attic.cloud.count("GET", "/volumes/detail") == 1 + 2
    assert attic.cloud.count("GET", "/v2/images$") == 3 + 1


@pytest.mark.parametrize("options", [["--keep", "x"], ["--older-than", "soon"], ["--older-than", "3"]])
def test_wrong_numbers_are_wrong_usage(shop: Shop, options: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        shop.run("rotate", "one", *options)
    assert caught.value.code == 2
