"""What publishing may never do to an image, whatever names, rules, clocks and other commands there are."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_dibctl.clouds.openstack.images import NO_PROPERTIES
from pytest_dibctl.config.models.upload import GLANCES_OWN, Obsoleting
from pytest_dibctl.errors import ExitCode
from pytest_dibctl.publish import rotate
from tests.support.fake_openstack import stamp
from tests.support.publishing import NAME, Shop
from tests.support.regions import Cloud, MemoryRegion, record
from tests.unit.publish.test_rotate import obsolete, reasons, server, volume

OPERATORS = [
    "in:a,b",
    "neq:foo",
    "eq:x",
    "eq:eq:x",
    'in:"a"',
    "gt:1",
    "foo:bar",
    ":",
    "a:",
    "x, y",
    'say "hi"',
]
OPERATORS += ["2026-01-01T00:00:00Z", "100%", "a&owner=b", "ä:ö"]


@pytest.fixture
def attic(shop: Shop) -> Shop:
    """A shop whose publisher is an admin."""
    shop.write({"one": {"keystone": shop.keystone("admin")}})
    return shop


# -- rules that current images fulfil --------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "glance"),
    [
        ({"name": "%(name)s"}, {}),
        ({"name": " %(name)s "}, {}),
        ({"properties": {"os_distro": "debian"}}, {"properties": {"os_distro": "debian"}}),
        ({"properties": {"a": "1", "b": "2"}}, {"properties": {"a": "1", "b": "2", "c": "3"}}),
        ({"properties": {"dibctl_label": "debian"}}, {}),
        ({"name": "%(name)s, old"}, {"name": "x" * 255}),
        ({"name": "Web"}, {"name": "Web"}),
        ({}, {"properties": {"obsolete": "true"}}),
        ({}, {"properties": {"obsoleted_at": "now"}}),
        ({"name": "%(nme)s"}, {}),
    ],
)
def test_a_rule_that_current_images_fulfil_is_refused(
    shop: Shop, rule: dict[str, Any], glance: dict[str, Any]
) -> None:
    shop.write({"one": {"keystone": shop.keystone(), "obsolete": rule}}, glance=glance)
    code, out, err = shop.run("validate")
    assert code == ExitCode.CONFIG, out + err
    assert "obsolete" in out
    code, _, err = shop.run("upload", "debian", "one")
    assert code == ExitCode.CONFIG, err
    assert not shop.images()


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("name", ["%(name)s", "D%(name)s", "Debian 12"])
def test_rotate_never_deletes_a_current_image_whatever_the_rule(name: str, published: bool) -> None:
    rule = Obsoleting.model_construct(name=name, properties={"os_distro": "debian"})
    properties = {"os_distro": "debian", **({"dibctl_sha512": "0"} if published else {})}
    current = record("current", name="Debian 12", properties=properties)
    older = record("older", name="Debian 12", properties={**properties, "obsoleted_at": "2025-01-01"})
    cloud = Cloud(images={image.id: image for image in (current, older)})
    policy = rotate.Policy(rule=rule, where="")
    verdicts = rotate.rotate(MemoryRegion(cloud=cloud), policy, tell=print)
    assert {verdict.candidate.id: verdict.outcome for verdict in verdicts}["current"] == "stays"
    assert "current" in cloud.images


def test_an_image_that_becomes_current_before_its_deletion_stays(attic: Shop) -> None:
    left = obsolete(attic)

    def before(_method: str, path: str, query: Mapping[str, str]) -> None:
        if path.endswith("/servers/detail") and "image" in query:
            attic.cloud.region()[left].update(name=NAME)

    attic.cloud.before = before
    assert reasons(attic)[left] == "stays: is not obsolete any more"


# -- who sees all volumes --------------------------------------------------------------------------


@pytest.mark.parametrize("sees_hosts", [True, False])
@pytest.mark.parametrize("own", [0, 1])
def test_who_sees_only_the_own_volumes_deletes_nothing(attic: Shop, own: int, sees_hosts: bool) -> None:
    left = obsolete(attic)
    cloud = attic.cloud
    cloud.cinder_admins = set()
    cloud.sees_hosts = {"admin"} if sees_hosts else set()
    mine = [{**volume("else", 7), "_project": "admin-id"}]
    cloud.volumes = [{**volume(left), "_project": "other-id"}, *mine[:own]]
    code, _, err = attic.run("rotate", "one")
    assert code == ExitCode.NOVA_FORBIDDEN
    assert "volumes of all projects" in err
    assert left in cloud.region()


@pytest.mark.parametrize("status", ["creating", "downloading", "Downloading"])
@pytest.mark.parametrize("shows", [None, "another"])
def test_a_volume_in_creation_uses_every_image(attic: Shop, status: str, shows: str | None) -> None:
    left = obsolete(attic)
    attic.cloud.volumes = [{**volume(shows or ""), "status": status}]
    assert "does not show its image" in reasons(attic)[left]
    assert left in attic.cloud.region()


@pytest.mark.parametrize("status", ["creating", "downloading", "available"])
def test_a_volume_of_the_last_moment_is_seen(attic: Shop, status: str) -> None:
    left = obsolete(attic)
    attic.cloud.volumes = []
    shows = left if status == "available" else ""

    def before(_method: str, path: str, query: Mapping[str, str]) -> None:
        if path.endswith("/servers/detail") and "image" in query:
            attic.cloud.volumes = [{**volume(shows), "status": status}]

    attic.cloud.before = before
    assert "volume v0" in reasons(attic)[left]
    assert left in attic.cloud.region()


def test_settled_volumes_of_other_images_do_not_matter(attic: Shop) -> None:
    left = obsolete(attic)
    attic.cloud.volumes = [{**volume("another"), "status": "in-use"}]
    assert reasons(attic) == {left: "deleted: nobody used it"}


# -- clocks ----------------------------------------------------------------------------------------


def leftover(shop: Shop, **more: Any) -> str:
    return shop.cloud.add_image(NAME, tags=["dibctl-unfinished"], os_hidden=True, **more)


@pytest.mark.parametrize("tells_time", [True, False])
def test_a_running_upload_stays_by_a_client_from_the_next_year(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, tells_time: bool
) -> None:
    running = leftover(shop)

    class Ahead(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
            return dt.datetime.fromtimestamp(time.time(), tz) + dt.timedelta(days=365)

    monkeypatch.setattr(dt, "datetime", Ahead)
    shop.cloud.tells_time = tells_time
    shop.json("upload", "debian", "one")
    assert running in shop.cloud.region()


@pytest.mark.parametrize("updated", [None, "", "yesterday", "0"])
def test_an_unfinished_image_of_unknown_age_stays(shop: Shop, updated: str | None) -> None:
    running = leftover(shop, updated_at=updated)
    shop.json("upload", "debian", "one")
    assert running in shop.cloud.region()


def test_without_a_time_ages_delete_nothing_and_the_rest_works(attic: Shop) -> None:
    left = obsolete(attic)
    attic.cloud.tells_time = False
    code, _, err = attic.run("rotate", "one", "--older-than", "1d")
    assert code != ExitCode.OK
    assert "does not tell its time" in err
    assert left in attic.cloud.region()
    attic.json("list")
    attic.json("upload", "debian", "one")
    attic.fill()
    (result,) = attic.json("upload", "debian", "one")
    (old,) = result["obsoleted"]
    assert attic.cloud.region()[old]["obsoleted_at"] == "unknown"
    assert reasons(attic)[old].startswith("deleted")


# -- mark-obsolete ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "like",
    [
        {"image_type": "snapshot"},
        {"image_type": "backup"},
        {"instance_uuid": "s"},
        {"block_device_mapping": "[]"},
        {"tags": ["dibctl-test", "dibctl-run-0123abcd"]},
        {"tags": ["dibctl-test", "dibctl-kept"]},
        {"tags": ["dibctl-unfinished"], "os_hidden": True},
        {"tags": ["dibctl-companion"], "os_hidden": True},
    ],
)
def test_mark_obsolete_refuses_what_is_no_image_in_production(shop: Shop, like: dict[str, Any]) -> None:
    image_id, good = shop.cloud.add_image("web", **like), shop.cloud.add_image(NAME)
    before = dict(shop.cloud.region()[image_id])
    code, _, err = shop.run("mark-obsolete", "one", image_id, good)
    assert code != ExitCode.OK
    assert "left alone" in err
    assert shop.cloud.region()[image_id] == before
    assert shop.cloud.region()[good]["obsolete"] == "true"


# -- names that look like filters ------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATORS)
def test_a_name_is_a_value_and_no_filter(shop: Shop, name: str) -> None:
    shop.write(glance={"name": name})
    shop.json("upload", "debian", "one")
    shop.fill()
    (result,) = shop.json("upload", "debian", "one")
    assert len(result["obsoleted"]) == 1
    assert [image["id"] for image in shop.images(name=name)] == [result["image"]]


# -- two uploads at a time -------------------------------------------------------------------------


@pytest.mark.parametrize("had", [0, 1])
@pytest.mark.parametrize("seconds", [1, 0, -1])
def test_of_two_uploads_at_a_time_one_is_current(shop: Shop, seconds: int, had: int) -> None:
    for _ in range(had):
        shop.json("upload", "debian", "one")
        shop.fill()
    other: list[str] = []

    def before(method: str, path: str, _query: Mapping[str, str]) -> None:
        if method == "PATCH" and not other:  # ours is about to show: the other machine's shows before it
            (mine,) = [one for one in shop.images() if one["id"] in path]
            moment = dt.datetime.fromisoformat(mine["created_at"]) + dt.timedelta(seconds=seconds)
            other.append(shop.cloud.add_image(NAME, created_at=stamp(moment)))

    shop.cloud.before = before
    (result,) = shop.json("upload", "debian", "one")
    (current,) = shop.images(name=NAME)
    newest = max(
        (image["created_at"], image["id"])
        for image in shop.cloud.region().values()
        if image["id"] in {result["image"], *other}
    )
    assert current["id"] == newest[1]
    shop.json("upload", "debian", "one")
    assert len(shop.images(name=NAME)) == 1


@pytest.mark.parametrize("had", [0, 1])
def test_two_real_uploads_at_a_time_leave_one_current(shop: Shop, had: int) -> None:
    for _ in range(had):
        shop.json("upload", "debian", "one")
    shop.fill()
    shows = threading.Barrier(2, timeout=30)
    codes: list[int] = []
    gone: list[bool] = []

    def before(method: str, _path: str, _query: Mapping[str, str]) -> None:
        if method == "PUT":
            gone.append(True)

    shop.cloud.before = before

    def run() -> None:
        from pytest_dibctl.cli import main

        shows.wait()
        codes.append(main.main(["upload", "debian", "one"]))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    assert len([image for image in shop.images(name=NAME) if not image["os_hidden"]]) == 1


# -- Glance's own names ----------------------------------------------------------------------------


@pytest.mark.parametrize("key", sorted(GLANCES_OWN | {"obsoleted_at", "dibctl_spec", "os_glance_x"}))
def test_names_of_glances_own_are_no_properties_of_obsolete_images(shop: Shop, key: str) -> None:
    shop.write({"one": {"keystone": shop.keystone(), "obsolete": {"properties": {key: "x"}}}})
    code, out, _ = shop.run("validate")
    assert code == ExitCode.CONFIG
    assert key in out
    hint = {"name": "obsolete.name", "os_hidden": "obsolete.hidden", "visibility": "obsolete.visibility"}
    assert hint.get(key, "") in out


def test_every_name_of_glances_own_is_kept_out_of_queries() -> None:
    assert GLANCES_OWN - {"location"} <= NO_PROPERTIES | {"location"}


def test_obsolete_images_are_hidden_and_private_and_rotated(attic: Shop) -> None:
    rule = {"hidden": True, "visibility": "community", "properties": {"state": "old", "limit": "1"}}
    attic.write({"one": {"keystone": attic.keystone("admin"), "obsolete": rule}})
    attic.json("upload", "debian", "one")
    (old,) = attic.images()
    attic.fill()
    attic.json("upload", "debian", "one")
    old = attic.cloud.region()[old["id"]]
    assert (old["os_hidden"], old["visibility"], old["state"]) == (True, "community", "old")
    states = {image["image"]: image["state"] for image in attic.json("list")[0]["images"]}
    assert states[old["id"]] == "obsolete"
    assert reasons(attic) == {old["id"]: "deleted: nobody used it"}


def test_a_failed_upload_shows_the_older_image_as_before(attic: Shop) -> None:
    rule = {"hidden": True, "visibility": "community"}
    attic.write({"one": {"keystone": attic.keystone("admin"), "obsolete": rule}})
    attic.json("upload", "debian", "one")
    (old,) = attic.images()
    kept = {key: value for key, value in old.items() if key != "updated_at"}
    second = attic.cloud.add_image(
        NAME, owner="admin-id", created_at=stamp(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    )
    attic.fill()

    def before(method: str, path: str, _query: Mapping[str, str]) -> None:
        from tests.support.fake_openstack import Refusal

        if method == "PATCH" and old["id"] in path and attic.cloud.region()[second]["os_hidden"]:
            raise Refusal(400, "no")

    attic.cloud.before = before
    attic.json("upload", "debian", "one", code=1)
    assert {
        key: value for key, value in attic.cloud.region()[old["id"]].items() if key != "updated_at"
    } == kept
    assert (attic.cloud.region()[second]["name"], attic.cloud.region()[second]["os_hidden"]) == (NAME, False)


def test_a_server_and_a_volume_are_told(attic: Shop) -> None:
    left = obsolete(attic)
    attic.cloud.other_servers = [server(left)]
    attic.cloud.volumes = [volume(left)]
    assert "and 1 more" in reasons(attic)[left]


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("digest", [("sha256", "0" * 64), (None, None), ("sha512", None)])
def test_properties_alone_do_not_vouch_for_an_image_that_is_there(
    shop: Shop, digest: tuple[str | None, str | None], allowed: bool
) -> None:
    shop.write({"one": {"keystone": shop.keystone(), "glance": {"allow_unverified": allowed}}})
    (first,) = shop.json("upload", "debian", "one")
    shop.cloud.region()[first["image"]].update(os_hash_algo=digest[0], os_hash_value=digest[1])
    (second,) = shop.json("upload", "debian", "one")
    assert second["outcome"] == ("unchanged" if allowed else "uploaded")
