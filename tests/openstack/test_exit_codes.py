"""Every exit code of `dibctl test`, provoked for real."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.openstack.site import Site, line_of

NOWHERE = "11111111-2222-3333-4444-555555555555"
"""The uuid of nothing."""


def test_0_and_80_the_tests_decide(site: Site) -> None:
    (site.path / "test_it.py").write_text(
        "import os\ndef test_it(instance): assert 'FAIL' not in os.environ, 'told to fail'\n"
    )
    site.write({"here": site.environment()}, [{"pytest": "test_it.py"}])
    passed = site.dibctl("test", "micro")
    assert passed.returncode == 0, passed.stdout
    failed = site.dibctl("test", "micro", FAIL="1")
    assert failed.returncode == 80, failed.stdout
    assert "told to fail" in failed.stdout
    # The guest answered: its console says nothing of it.
    assert "Last lines of the console of micro" not in failed.stdout


def test_10_an_unknown_key(site: Site) -> None:
    site.write({"here": site.environment(nova={"flavour": "x"})})
    refused = site.dibctl("test", "micro")
    assert refused.returncode == 10, refused.stdout
    assert "did you mean 'flavor'" in refused.stdout


def test_11_an_unknown_environment(site: Site) -> None:
    site.write({"here": site.environment()})
    refused = site.dibctl("test", "micro", "--environment", "her")
    assert refused.returncode == 11, refused.stdout
    assert "did you mean 'here'" in refused.stdout


def test_12_no_password_anywhere(site: Site) -> None:
    demo = site.cloud.name_of("demo")
    keystone = {"auth_url": site.cloud.auth_url, "username": demo, "project_name": demo}
    site.write({"here": site.environment(keystone=keystone)})
    refused = site.dibctl("test", "micro")
    assert refused.returncode == 12, refused.stdout
    assert "OS_PASSWORD" in refused.stdout


def test_20_a_wrong_password(site: Site) -> None:
    keystone = {
        "auth_url": site.cloud.auth_url,
        "username": site.cloud.name_of("demo"),
        "password": "not-the-password",
        "project_name": site.cloud.name_of("demo"),
        "region_name": site.cloud.region,
    }
    site.write({"here": site.environment(keystone=keystone)})
    refused = site.dibctl("test", "micro")
    assert refused.returncode == 20, refused.stdout
    assert f"test.yaml:{line_of(site.path / 'test.yaml', 'keystone:')}" in refused.stdout
    assert "(request req-" in refused.stdout
    assert "not-the-password" not in refused.stdout


def test_50_an_image_that_glance_does_not_have(site: Site) -> None:
    site.write({"here": site.environment()})
    refused = site.dibctl("test", "micro", "--use-existing-image", NOWHERE)
    assert refused.returncode == 50, refused.stdout
    assert NOWHERE in refused.stdout


@pytest.mark.parametrize(
    ("nova", "key", "said"),
    [
        ({"nics": [{"net_id": NOWHERE}]}, "net_id", f"there is no network {NOWHERE}"),
        ({"flavor": "m1.nanoo"}, "flavor", "did you mean 'm1.nano'?"),
    ],
    ids=["network", "flavor"],
)
def test_60_what_nova_cannot_do(site: Site, nova: dict[str, Any], key: str, said: str) -> None:
    site.write({"here": site.environment(nova=nova)})
    refused = site.dibctl("test", "micro")
    assert refused.returncode == 60, refused.stdout
    assert said in refused.stdout
    assert f"test.yaml:{line_of(site.path / 'test.yaml', f'{key}:')}" in refused.stdout
    assert "uploading" not in refused.stdout  # told before anything was made


def test_60_a_flavor_smaller_than_the_image_asks_for(site: Site) -> None:
    site.write({"here": site.environment()}, image={"glance": {"min_disk": 3}})
    refused = site.dibctl("test", "micro")
    assert refused.returncode == 60, refused.stdout
    assert "min_disk is 3 GiB, and the root disk has 1 GiB" in refused.stdout
    assert f"images.yaml:{line_of(site.path / 'images.yaml', 'min_disk')}" in refused.stdout
    assert f"test.yaml:{line_of(site.path / 'test.yaml', 'flavor')}" in refused.stdout


def test_61_a_quota_that_is_used_up(site: Site) -> None:
    site.write({"here": site.environment(user="poor")})
    refused = site.dibctl("test", "micro")
    assert refused.returncode == 61, refused.stdout
    assert "Nova answered 403: Quota exceeded" in refused.stdout
    assert "Traceback" not in refused.stdout


def test_61_a_role_that_is_missing(site: Site) -> None:
    with site.cloud.connected("demo") as demo:
        image = demo.image.create_image(
            name=f"foreign-{uuid.uuid4().hex}",
            data=site.image.read_bytes(),
            disk_format="qcow2",
            container_format="bare",
        )
        try:
            site.write({"here": site.environment(user="demo-reader")})
            refused = site.dibctl("test", "micro", "--use-existing-image", image.id)
        finally:
            demo.image.delete_image(image.id)
    assert refused.returncode == 61, refused.stdout
    assert "the user lacks a role" in refused.stdout


def test_70_an_instance_that_goes_to_error(site: Site) -> None:
    site.write({"here": site.environment(nova={"flavor": site.cloud.flavor_huge})})
    refused = site.dibctl("test", "micro")
    assert refused.returncode == 70, refused.stdout
    assert "went to ERROR: No valid host" in refused.stdout


def test_70_an_instance_that_does_not_become_active_in_time(site: Site) -> None:
    site.write({"here": site.live(active_timeout=1)}, image={"nova": {"active_timeout": 1}})
    refused = site.dibctl("test", "micro")
    assert refused.returncode == 70, refused.stdout
    assert "did not become ACTIVE within 1 s; it is BUILD" in refused.stdout


def test_71_a_port_that_nobody_answers(site: Site) -> None:
    site.write({"here": site.environment(wait=3)})
    refused = site.dibctl("test", "micro")
    assert refused.returncode == 71, refused.stdout
    assert "did not answer within 3 s" in refused.stdout
