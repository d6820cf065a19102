"""The README's example tests, of every kind, on a real image and its guest."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.qemu.test_end_to_end import CONTAINER, Operator
from tests.support import readme

pytestmark = pytest.mark.real


def test_the_example_tests_pass(tmp_path: Path, micro_files: Path) -> None:
    operator = Operator(path=tmp_path)
    operator.has(micro_files)
    (tmp_path / "tests").mkdir()
    for name, text in readme.FILES.items():
        if not name.endswith(".yaml"):
            operator.write(name, text, executable=name.endswith(".sh"))
    [example] = yaml.safe_load(readme.FILES["images.yaml"]).values()
    images = yaml.safe_load((tmp_path / "images.yaml").read_text())
    tests = {**example["tests"], "ssh": {"username": "root"}}
    # The micro image consists of one program, and has no list of packages.
    tests["tests_list"] = [entry for entry in tests["tests_list"] if entry.get("image") != "generic:manifest"]
    images["micro"] |= {"tests": tests, "external_tests": example["external_tests"]}
    operator.write("images.yaml", yaml.safe_dump(images))
    finished = operator.pytest(CONTAINER, "--junit-xml=junit.xml")
    assert finished.code == 0, finished.output
    kinds = {facts["dib_kind"] for facts in operator.junit().values()}
    assert kinds == {"image", "external", "pytest", "shell", "ssh"}
