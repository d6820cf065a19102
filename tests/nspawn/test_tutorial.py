"""The tutorial to the letter: its files are written, its image is really built, booted and tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.qemu.test_end_to_end import Operator
from tests.support import documents

pytestmark = pytest.mark.real


def test_its_image_is_built_and_passes_its_tests(tmp_path: Path) -> None:
    documents.write(documents.files(documents.TUTORIAL), tmp_path)
    lines = documents.commands(documents.TUTORIAL)
    assert {"dibctl validate", "pytest --dib-image=web --dib-env=container"} <= set(lines)
    operator = Operator(path=tmp_path, label="web")
    assert operator.dibctl("validate").code == 0
    finished = operator.run("pytest", "-v", "--dib-image=web", "--dib-env=container", "--junit-xml=junit.xml")
    assert finished.code == 0, finished.output
    kinds = {facts["dib_kind"] for facts in operator.junit().values()}
    assert kinds == {"image", "external", "pytest", "shell", "ssh"}
