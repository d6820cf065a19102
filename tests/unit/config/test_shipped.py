"""The files in configs/, which the README's first line runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_dibctl.config import catalog, tests_list

ROOT = Path(__file__).parents[3]


@pytest.fixture
def shipped(tmp_path: Path) -> catalog.Catalog:
    """The catalog of this repository."""
    return catalog.load(cwd=ROOT, system=tmp_path)


def test_the_demo_has_entries_of_every_kind_and_its_files_are_there(shipped: catalog.Catalog) -> None:
    assert shipped.warnings == ()
    debian = shipped.image("debian")
    for entry in debian.settings.tests.tests_list:
        assert tests_list.expand(entry, debian, ROOT)
    kinds = {entry.kind for entry in debian.settings.tests.tests_list}
    assert kinds == {"image", "pytest", "shell", "ssh"}
    assert debian.settings.external_tests


def test_both_images_are_tested_alike(shipped: catalog.Catalog) -> None:
    one, other = shipped.image("debian").settings, shipped.image("debian-vm").settings
    assert (one.tests, one.external_tests) == (other.tests, other.external_tests)


@pytest.mark.parametrize(("name", "label"), [("test", "staging"), ("upload", "production")])
def test_what_is_commented_out_loads_too(name: str, label: str, tmp_path: Path) -> None:
    _, found, rest = (ROOT / f"configs/{name}.yaml").read_text().partition(f"# {label}:")
    example = re.sub(r"^# ", "", found + rest, flags=re.MULTILINE)
    (tmp_path / f"{name}.yaml").write_text(example)
    (tmp_path / "images.yaml").write_text("x: {filename: x}\n")
    loaded = catalog.load(cwd=tmp_path, system=tmp_path / "none")
    assert label in {*loaded.environments, *loaded.uploads}
