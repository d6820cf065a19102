"""cloud-init knows where to look for its data, without trying every place there is.

Names that must be among them go, between blanks, into DATASOURCES in ``environment_variables`` of the image
or the environment; by default it is what the test environment offers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from pytest_dibctl import Entry, ImageTree, TargetRun, TestEnvironment

pytestmark = pytest.mark.usefixtures("image_tree")

FILES = ("/etc/cloud/cloud.cfg", "/etc/cloud/cloud.cfg.d/*.cfg")
"""In the order in which cloud-init reads them; later ones win."""

NOWHERE = "None"
"""The source that cloud-init falls back to: it has no data."""


@pytest.fixture
def configured(image_tree: ImageTree) -> list[str]:
    """What ``datasource_list`` says in the end; the test is skipped where there is no cloud-init."""
    if not image_tree.exists("/etc/cloud/cloud.cfg"):
        pytest.skip("the image has no cloud-init")
    found: Any = []
    for name in [name for pattern in FILES for name in image_tree.glob(pattern)]:
        settings = _settings(name, image_tree.read(name))
        found = settings.get("datasource_list", found)
        if found and not isinstance(found, list):
            pytest.fail(f"datasource_list is {found!r} in {name}, and no list", pytrace=False)
    return [str(source) for source in found or ()]


def _settings(name: str, text: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        pytest.fail(f"{name} is no YAML, and cloud-init passes over it: {error}", pytrace=False)
    return settings if isinstance(settings, dict) else {}


def offered(environment: Entry[TestEnvironment]) -> list[set[str]]:
    """Return what the test environment offers: one of each set is enough."""
    qemu = environment.settings.qemu
    if environment.settings.engine != "qemu":
        return [{"OpenStack", "ConfigDrive"}]
    return [{"ConfigDrive" if qemu is not None and qemu.seed == "configdrive" else "NoCloud"}]


def test_datasources_are_configured(configured: list[str]) -> None:
    """The places where cloud-init looks are named: otherwise it guesses, or waits for a network of its own.

    If this fails, use DIB's ``cloud-init-datasources`` element with DIB_CLOUD_INIT_DATASOURCES, or write
    ``datasource_list: [ConfigDrive, OpenStack]`` into /etc/cloud/cloud.cfg.d/.
    """
    named = [source for source in configured if source != NOWHERE]
    assert named, f"datasource_list names no source (it is {configured})"


def test_datasources_suit_the_environment(
    configured: list[str], dib_run: TargetRun, variable: Callable[..., str]
) -> None:
    """cloud-init looks where this test environment has its data.

    If this fails, the instance would come up without ssh key and name: add the source to datasource_list.
    """
    wanted = [{name} for name in variable("DATASOURCES").replace(",", " ").split()]
    wanted = wanted or offered(dib_run.environment)
    missing = [" or ".join(sorted(names)) for names in wanted if not names & set(configured)]
    assert not missing, f"datasource_list is {configured}; missing: {', '.join(missing)}"
