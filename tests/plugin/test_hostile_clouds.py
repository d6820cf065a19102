"""Runs in two clouds, of which one cannot be logged in to: the real client against services in memory."""

from __future__ import annotations

import os

import pytest
import yaml

from tests.plugin.conftest import Project
from tests.support.cloud_files import write_clouds
from tests.support.fake_openstack import FakeCloud, serving
from tests.support.fake_openstack.documents import NETWORK

NOVA = {"nova": {"flavor_id": "1", "nics": [{"net_id": NETWORK}], "ssh_host_key": "first-seen"}}


@pytest.mark.parametrize("fault", ["no password", "no CA", "malformed", "text in secure.yaml", "profile"])
def test_a_fault_of_one_cloud_fails_only_its_tests(
    project: Project, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    write_clouds(project.path, monkeypatch, fault)
    project.write("conftest.py", "")  # the project's own would put the cloud in memory under the run
    project.write("test_it.py", "def test_it(cloud_image):\n    assert cloud_image.id\n")
    project.images({"debian": {"tests": {"tests_list": [{"pytest": "test_it.py"}]}}})
    with serving(FakeCloud()) as cloud:
        keystone = {
            "auth_url": cloud.url,
            "username": "demo",
            "password": "secret",
            "project_name": "demo",
            "region_name": "RegionOne",
        }
        environments = {"bad": {"keystone": {"cloud": "bad"}, **NOVA}, "good": {"keystone": keystone, **NOVA}}
        project.write("test.yaml", yaml.safe_dump(environments))
        result = project.run("-rA", "--dib-env=bad,good", images="debian")
        assert not cloud.region()
    said = result.stdout.str()
    assert "PASSED test_it.py::test_it[debian-good]" in said
    assert "ERROR test_it.py::test_it[debian-bad]" in said
    assert "1 passed, 1 error" in said
    assert "INTERNALERROR" not in said
    assert "Traceback" not in said + result.stderr.str()
    assert "(bad.keystone)" in said
