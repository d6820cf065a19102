"""``dibctl status``, beside fake clouds: what is built, tested and published, and what is not known."""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_dibctl.image import statements
from tests.support.fake_openstack import FakeCloud, stamp
from tests.support.publishing import NAME, Shop

NOW = dt.datetime.now(dt.UTC)
TESTS = [{"shell": "check.sh"}]


def sha512(shop: Shop) -> str:
    return hashlib.sha512((shop.path / "debian.qcow2").read_bytes()).hexdigest()


def published(shop: Shop, code: int = 0) -> list[dict[str, Any]]:
    (image,) = shop.json("status", code=code)
    found: list[dict[str, Any]] = image["published"]
    return found


def test_from_nothing_to_an_image_that_is_published(shop: Shop) -> None:
    (before,) = shop.json("status")
    assert before["built"]["exists"]
    assert before["built"]["recipe"] == "elsewhere"
    assert before["built"]["sha512"] == sha512(shop)
    assert before["tested"] == {"outcome": "none", "finished": None, "environment": None}
    assert [(there["state"], there["image"]) for there in before["published"]] == [("not published", None)]
    (result,) = shop.json("upload", "debian", "one")
    (there,) = published(shop)
    assert (there["state"], there["image"], there["current"]) == ("this file", result["image"], 1)
    shop.fill()
    (there,) = published(shop)
    assert (there["state"], there["image"]) == ("another file", result["image"])
    (shop.path / "debian.qcow2").unlink()
    (after,) = shop.json("status")
    assert not after["built"]["exists"]
    assert after["published"][0]["state"] == "another file"


def test_a_recipe_that_changed_is_told_and_so_is_what_was_published_of_the_old_one(shop: Shop) -> None:
    (shop.path / "source.qcow2").write_bytes((shop.path / "debian.qcow2").read_bytes())
    (shop.path / "debian.qcow2").unlink()
    command = {"cmdline": "cp source.qcow2 %(output_filename)s"}
    shop.write(external_build=[command])
    (before,) = shop.json("status")
    assert (before["built"]["exists"], before["built"]["recipe"]) == (False, "none")
    shop.json("build", "debian")
    shop.json("upload", "debian", "one")
    (fresh,) = shop.json("status")
    assert (fresh["built"]["recipe"], fresh["built"]["reason"]) == ("unchanged", None)
    assert fresh["built"]["fingerprint"] == fresh["built"]["fingerprint_today"]
    assert dt.datetime.fromisoformat(fresh["built"]["finished"]) > NOW - dt.timedelta(seconds=2)
    assert fresh["published"][0]["outdated"] is False
    shop.write(external_build=[{"cmdline": "cp  source.qcow2 %(output_filename)s"}])
    (stale,) = shop.json("status")
    assert (stale["built"]["recipe"], stale["built"]["reason"]) == ("outdated", "external_build changed")
    assert (stale["published"][0]["state"], stale["published"][0]["outdated"]) == ("this file", True)
    _, out, _ = shop.run("status")
    assert "external_build changed" in out


def test_a_broken_recipe_is_told_beside_the_others(shop: Shop) -> None:
    shop.write(external_build=[{"cmdline": "cp 'source"}])
    code, out, err = shop.run("status", "--offline")
    assert code == 10
    assert " broken " in out
    assert "external_build" in err
    (image,) = shop.json("status", "--offline", code=10)
    assert image["built"]["exit_code"] == 10
    assert image["built"]["exists"]


def statement(shop: Shop, **more: Any) -> statements.Statement:
    usual: dict[str, Any] = {
        "file": "debian.qcow2",
        "sha512": sha512(shop),
        "label": "debian",
        "environment": "local",
        "finished": "2026-11-20T12:00:00Z",
        "whole": True,
        "entries": ("shell: check.sh",),
        "test_files": {"check.sh": statements.digest_of(shop.path / "check.sh")},
    }
    return statements.Statement(**{**usual, **more})


@pytest.mark.parametrize(
    ("more", "outcome"),
    [
        ({}, "passed"),
        ({"failed": ("x",)}, "failed"),
        ({"whole": False}, "incomplete"),
        ({"resumed": True}, "incomplete"),
        ({"environment_vouches": False}, "elsewhere"),
        ({"entries": ()}, "outdated"),
        ({"sha512": "0" * 128}, "none"),
        ({"label": "other"}, "none"),
    ],
)
def test_what_tests_have_said(shop: Shop, more: Mapping[str, Any], outcome: str) -> None:
    (shop.path / "check.sh").write_text("#!/bin/sh\n")
    (shop.path / "check.sh").chmod(0o755)
    shop.write(tests={"tests_list": TESTS})
    statements.add(shop.path / "debian.qcow2", statement(shop, **more))
    (image,) = shop.json("status", "--offline")
    assert image["tested"]["outcome"] == outcome
    known = outcome != "none"
    assert image["tested"]["environment"] == ("local" if known else None)
    assert image["tested"]["finished"] == ("2026-11-20T12:00:00Z" if known else None)


def test_no_cloud_is_asked_when_offline(shop: Shop) -> None:
    asked: list[str] = []
    shop.cloud.before = lambda _method, path, _query: asked.append(path)
    (image,) = shop.json("status", "--offline")
    assert image["published"] == []
    code, out, _ = shop.run("status", "--offline")
    assert code == 0
    assert "not asked" in out
    assert not asked
    assert shop.run("status", "--offline", "--environment", "one")[0] == 10


# -- clouds that do not answer, or not the truth ---------------------------------------------------


def test_a_cloud_that_refuses_hides_no_other(shop: Shop) -> None:
    shop.write(
        {
            "bad": {"keystone": {**shop.keystone(), "password": "wrong"}},
            "good": {"keystone": shop.keystone()},
        }
    )
    image_id = shop.cloud.add_image(NAME)
    bad, good = published(shop, code=20)
    assert (bad["state"], bad["exit_code"]) == ("unreachable", 20)
    assert (good["state"], good["image"]) == ("another file", image_id)
    code, out, err = shop.run("status")
    assert code == 20
    assert " unreachable" in out
    assert "bad: error: " in err
    assert err.count("bad: error: ") == 1


def test_clouds_are_asked_side_by_side_and_not_for_ever(shop: Shop, abroad: FakeCloud) -> None:
    over = threading.Event()
    there = {**shop.keystone(), "auth_url": abroad.url}
    shop.write(
        {"slow": {"keystone": there}, "slow-too": {"keystone": there}, "good": {"keystone": shop.keystone()}}
    )

    def hangs(_method: str, _path: str, _query: Mapping[str, str]) -> None:
        over.wait(60)

    abroad.before = hangs
    started = time.monotonic()
    try:
        (image,) = shop.json("status", "--timeout", "1", code=1)
    finally:
        over.set()
    assert time.monotonic() - started < 10
    good, slow, too = image["published"]
    assert slow["state"] == too["state"] == "unreachable"
    assert slow["error"] == "no answer within 1 s"
    assert good["state"] == "not published"


def test_a_property_that_was_set_by_hand_proves_no_bytes(shop: Shop) -> None:
    ours = sha512(shop)
    usual: dict[str, Any] = {"dibctl_sha512": ours, "os_hash_algo": "sha512"}
    shop.cloud.add_image(NAME, **usual, os_hash_value="0" * 128)
    assert published(shop)[0]["state"] == "another file"
    shop.cloud.region().clear()
    shop.cloud.add_image(NAME, **usual, os_hash_value=ours)
    assert published(shop)[0]["state"] == "this file"


def test_another_operator_s_image_beside_ours_is_told(shop: Shop) -> None:
    shop.json("upload", "debian", "one")
    other = shop.cloud.add_image(NAME, created_at=stamp(NOW + dt.timedelta(days=2)))
    (there,) = published(shop)
    assert (there["current"], there["image"], there["state"]) == (2, other, "another file")
    _, out, _ = shop.run("status")
    assert "2 are current" in out


def test_obsolete_and_hidden_images_are_not_current(shop: Shop) -> None:
    shop.cloud.add_image(NAME, obsolete="true")
    shop.cloud.add_image(NAME, os_hidden=True)
    shop.cloud.add_image(NAME, status="deactivated")
    assert published(shop)[0]["state"] == "not published"


def test_a_time_ahead_is_told_as_such(shop: Shop) -> None:
    shop.cloud.add_image(NAME, created_at=stamp(NOW + dt.timedelta(days=3, hours=1)))
    _, out, _ = shop.run("status")
    assert "in 3 days" in out


def test_a_label_and_a_name_of_escapes_stay_harmless(shop: Shop) -> None:
    name = "=cmd\x1b[2J\u202e\nforged"
    shop.write({"=e": {"keystone": shop.keystone()}}, glance={"name": name})
    shop.cloud.add_image(name)
    for form in ("table", "csv", "value", "json"):
        code, out, err = shop.run("status", "-f", form)
        assert code == 0
        assert "\x1b" not in out + err
        assert "\nforged" not in out
    _, out, _ = shop.run("status", "-f", "csv", "-c", "environment")
    assert out.splitlines()[1].startswith("\"'=e")


def test_an_environment_without_a_login_is_told(shop: Shop) -> None:
    shop.write({"one": {"keystone": {}}})
    (there,) = published(shop, code=12)
    assert there["state"] == "unreachable"
    assert "auth_url" in there["error"]


def test_an_image_without_a_name_is_published_nowhere(shop: Shop) -> None:
    (shop.path / "images.yaml").write_text("debian: {filename: debian.qcow2}\n")
    (there,) = published(shop)
    assert (there["state"], there["name"]) == ("not published", None)
