"""What engines have, what tests may need, and how both are written in the files."""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from pytest_dibctl.clouds.openstack.cloud import OpenStackCloud
from pytest_dibctl.clouds.qemu.cloud import QemuCloud
from pytest_dibctl.config import catalog, engines, merge
from pytest_dibctl.config.models.qemu import Qemu
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.errors import ConfigError
from tests.unit.config.support import Place

ALL = "known: boot-loader, clock, disk, initrd, kernel, memory-snapshot, modules, root-growth, screen"
OPENSTACK = "keystone: {auth_url: http://cloud.example:5000, username: u, password: p, project_name: p}"


def test_every_engine_of_an_environment_is_in_the_table() -> None:
    getter = TestEnvironment.engine.fget  # type: ignore[attr-defined]  # mypy sees the property's value
    assert set(get_args(get_type_hints(getter)["return"])) == set(engines.ENGINES)


def test_engines_have_nothing_that_is_not_documented() -> None:
    known = set(engines.CAPABILITIES)
    assert all(engine.capabilities <= known for engine in engines.ENGINES.values())
    assert engines.ENGINES["qemu"].capabilities == known
    assert known - engines.ENGINES["openstack"].capabilities == {"memory-snapshot", "screen"}


def test_the_clouds_say_what_the_table_says(place: Place, tmp_path: Path) -> None:
    place.write("images.yaml", "a: {filename: x}\n")
    place.write("test.yaml", f"far:\n  {OPENSTACK}\n  nova: {{flavor: small}}\n")
    loaded = place.load()
    local, far = loaded.environment("local"), loaded.environment("far")
    qemu = QemuCloud(local, directory=tmp_path, cwd=tmp_path)
    openstack = OpenStackCloud(
        far, run_id="r", cwd=tmp_path, deadlines=merge.deadlines(loaded.image("a"), far), environ={}
    )
    assert qemu.capabilities == engines.ENGINES["qemu"].capabilities
    assert openstack.capabilities == engines.ENGINES["openstack"].capabilities


@pytest.mark.parametrize(
    ("line", "vouches"),
    [("", True), ("vouches: true", True), ("vouches: no", False), ("vouches: off", False)],
)
def test_an_environment_vouches_unless_it_says_that_it_does_not(
    place: Place, line: str, *, vouches: bool
) -> None:
    place.write("images.yaml", "")
    place.write("test.yaml", f"here:\n  qemu: {{}}\n  {line}\n")
    assert place.load().environment("here").settings.is_vouching is vouches
    assert catalog.built_in_environment().settings.is_vouching


def test_an_engine_may_vouch_for_nothing_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = engines.Engine(capabilities=frozenset(), vouches=False)
    monkeypatch.setattr(engines, "ENGINES", {**engines.ENGINES, "qemu": bare})
    assert not TestEnvironment(qemu=Qemu()).is_vouching
    assert TestEnvironment(qemu=Qemu(), vouches=True).is_vouching


def test_an_entry_names_what_its_tests_need(place: Place) -> None:
    place.write(
        "images.yaml",
        "a:\n  filename: x\n  tests:\n    tests_list:\n      - shell: t.sh\n        needs: [kernel, clock]\n"
        "  external_tests: [{cmdline: 'true', needs: [disk]}]\n",
    )
    settings = place.load().image("a").settings
    assert settings.tests.tests_list[0].needs == ("kernel", "clock")
    assert settings.external_tests[0].needs == ("disk",)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "{shell: t.sh, needs: [kernl]}",
            f"a.tests.tests_list[0].needs[0]: there is no capability 'kernl'; did you mean 'kernel'? {ALL}",
        ),
        (
            "{shell: t.sh, needs: [gpu]}",
            f"there is no capability 'gpu'; {ALL}",
        ),
        ("{shell: t.sh, needs: [disk, disk]}", "'disk' is listed twice"),
        ("{shell: t.sh, needs: disk}", "expected a list"),
        ("{image: generic:size, needs: [disk]}", "a.tests.tests_list[0].needs: needs is about a running"),
    ],
)
def test_what_is_wrong_with_needs_is_said_at_its_place(place: Place, entry: str, message: str) -> None:
    place.write("images.yaml", f"a:\n  filename: x\n  tests:\n    tests_list:\n      - {entry}\n")
    with pytest.raises(ConfigError) as caught:
        place.load()
    assert message in str(caught.value)
    assert "images.yaml:5:" in str(caught.value)


def test_what_is_lacking_is_said_in_the_order_of_the_table() -> None:
    assert engines.absence({"clock"}) == "no clock of the guest's own"
    assert engines.absence({"disk", "clock", "kernel"}) == "no kernel of the image's own (nor clock, disk)"
