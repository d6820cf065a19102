"""``dibctl list``, and how tables look."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import yaml

from tests.support.fake_openstack import stamp
from tests.support.publishing import NAME, Shop


def old(**time: float) -> str:
    return stamp(dt.datetime.now(dt.UTC) - dt.timedelta(**time))


def test_every_image_of_the_project_with_its_state(shop: Shop) -> None:
    shop.write(
        {
            "one": {"keystone": shop.keystone("admin")},
            "two": {"keystone": shop.keystone("demo", "RegionTwo")},
        }
    )
    ours: dict[str, Any] = {"owner": "admin-id"}
    current = shop.cloud.add_image(NAME, **ours, created_at=old(hours=3), dibctl_tested="today in local")
    obsolete = shop.cloud.add_image(f"Obsolete {NAME}", **ours, obsolete="true", created_at=old(days=9))
    shop.cloud.add_image(NAME, **ours, image_type="snapshot")
    shop.cloud.add_image("dibctl-x", **ours, tags=["dibctl-test"])
    shop.cloud.add_image("theirs", owner="other-id", visibility="public")
    there = shop.cloud.add_image(NAME, region="RegionTwo", os_hidden=True, tags=["dibctl-unfinished"])
    shop.cloud.other_servers = [{"id": "s", "name": "web", "tenant_id": "p", "image": {"id": current}}]
    one, two = shop.json("list")
    assert [(found["image"], found["state"], found["used"]) for found in one["images"]] == [
        (current, "current", "server web of project p"),
        (obsolete, "obsolete", ""),
    ]
    assert one["images"][0]["tested"] == "today in local"
    assert [(found["image"], found["state"], found["used"]) for found in two["images"]] == [
        (there, "unfinished", None)
    ]
    code, out, _ = shop.run("list")
    assert code == 0
    lines = {line.split()[-0]: line for line in out.splitlines()}
    assert out.splitlines()[0].split()[:4] == ["environment", "name", "image", "state"]
    assert " 3 hours ago " in out
    assert " 9 days ago " in out
    assert lines["two"].endswith("?")


def test_one_environment_that_fails_hides_no_other(shop: Shop) -> None:
    shop.write(
        {
            "bad": {"keystone": {**shop.keystone(), "password": "wrong"}},
            "good": {"keystone": shop.keystone()},
        }
    )
    image = shop.cloud.add_image(NAME)
    bad, good = shop.json("list", code=20)
    assert bad["exit_code"] == 20
    assert [one["image"] for one in good["images"]] == [image]


def test_os_cloud_leads_to_the_cloud_of_an_environment_that_names_none(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = shop.cloud.add_image(NAME)
    shop.write({"one": {"keystone": {}}})
    login = {key: text for key, text in shop.keystone().items() if key != "region_name"}
    clouds = {"mine": {"auth": {**login, "user_domain_id": "default", "project_domain_id": "default"}}}
    (shop.path / "clouds.yaml").write_text(yaml.safe_dump({"clouds": clouds}))
    monkeypatch.setenv("OS_REGION_NAME", "RegionOne")
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(shop.path / "clouds.yaml"))
    monkeypatch.setenv("OS_CLOUD", "mine")
    (one,) = shop.json("list")
    assert [found["image"] for found in one["images"]] == [image]
    monkeypatch.setenv("OS_CLOUD", "other")
    code, _, err = shop.run("list")
    assert code == 10
    assert "by OS_CLOUD: there is no cloud 'other' in clouds.yaml" in err
    monkeypatch.setenv("OS_CLOUD", "mien")
    assert "did you mean 'mine'?" in shop.run("list")[2]


def test_a_region_that_the_catalog_lacks_is_told_with_a_near_one(shop: Shop) -> None:
    shop.write({"one": {"keystone": shop.keystone(region="RegionTow")}})
    code, _, err = shop.run("list")
    assert code == 10
    assert "hint: check region_name; did you mean 'RegionTwo'" in err


def test_an_environment_without_any_login_tells_three_ways(shop: Shop) -> None:
    shop.write({"one": {"keystone": {}}})
    code, _, err = shop.run("list")
    assert code == 12
    assert "there are three ways" in err
