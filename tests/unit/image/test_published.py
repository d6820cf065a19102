"""What is remembered of published packages, and what has changed since."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_dibctl.image import manifest, published


def write(image: Path, packages: Mapping[str, str]) -> None:
    """Write the manifest of an image."""
    folder = manifest.folder(image)
    folder.mkdir(parents=True, exist_ok=True)
    listed = [{"package": name, "version": version, "status": "ii "} for name, version in packages.items()]
    (folder / f"{manifest.PREFIX}web").write_text(json.dumps({"packages": listed}))


def test_the_changes_are_those_since_each_environment_s_last_upload(tmp_path: Path) -> None:
    image = tmp_path / "web.qcow2"
    write(image, {"a": "1", "b": "1"})
    published.remember(image, ["one", "two"])
    assert [change.differences for change in published.changes(image)] == [(), ()]
    write(image, {"a": "2", "c": "1"})
    published.remember(image, ["two"])
    one, two = published.changes(image)
    assert one.environment == "one"
    assert [(each.package, each.kind) for each in one.differences] == [
        ("a", "changed"),
        ("b", "removed"),
        ("c", "added"),
    ]
    assert not two.differences


@pytest.mark.parametrize("text", ["", "[]", '{"one": 3}', '{"one": {"day": "x", "packages": []}}', "\x00"])
def test_a_file_that_is_none_of_ours_is_as_none(tmp_path: Path, text: str) -> None:
    image = tmp_path / "web.qcow2"
    write(image, {"a": "1"})
    (tmp_path / ".web.qcow2.published.json").write_text(text)
    assert not list(published.changes(image))


def test_an_image_without_a_manifest_is_not_remembered(tmp_path: Path) -> None:
    published.remember(tmp_path / "web.qcow2", ["one"])
    assert not list(tmp_path.iterdir())
