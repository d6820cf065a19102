"""What the names in ``external_tests`` stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_dibctl.config import catalog
from pytest_dibctl.config.tests_list import EXTERNAL_NAMES
from pytest_dibctl.image import artifact
from pytest_dibctl.run import variables

FACTS = {f"DIBCTL_{name.upper()}": name for name in EXTERNAL_NAMES}
TEST = """
local: {{qemu: {{}}, glance: {{{glance}}}}}
cloud:
  keystone: {{cloud: demo}}
  nova: {{flavor: small, nics: [{{net_id: 6f70656e-7374-4163-8b20-696d61676573}}]}}
  glance: {{{glance}}}
"""


@pytest.mark.parametrize(
    ("label", "image", "environment", "expected"),
    [
        ("local", "", "", "raw"),
        ("local", "disk_format: qcow2", "disk_format: qcow2", "raw"),
        ("cloud", "", "", "raw"),
        ("cloud", "disk_format: qcow2", "", "qcow2"),
        # As where preprocessing makes it.
        ("cloud", "disk_format: raw", "disk_format: qcow2", "qcow2"),
    ],
)
def test_the_format_is_the_file_s_or_what_glance_is_told(
    tmp_path: Path, label: str, image: str, environment: str, expected: str
) -> None:
    (tmp_path / "images.yaml").write_text(f"web: {{filename: web.img, glance: {{{image}}}}}\n")
    (tmp_path / "test.yaml").write_text(TEST.format(glance=environment))
    with (tmp_path / "web.img").open("wb") as file:
        file.truncate(1 << 20)
    loaded = catalog.load(cwd=tmp_path, system=tmp_path / "none")
    built = artifact.inspect(tmp_path / "web.img")
    names = variables.for_command(loaded.image("web"), loaded.environment(label), built.path, built, FACTS)
    assert names["disk_format"] == expected
    assert names["container_format"] == "bare"
    assert set(names) == set(EXTERNAL_NAMES)
