"""What ``dibctl init`` writes is run to the letter, but for the build: another Debian takes its place."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pytest

from pytest_dibctl.errors import DibctlError
from tests.qemu.test_end_to_end import Operator
from tests.support import packages, small_debian

pytestmark = pytest.mark.real
DEMO = Path(__file__).parents[2] / "images/debian.qcow2"


@pytest.mark.usefixtures("_no_leftovers")
def test_a_new_repository_passes_its_tests(tmp_path: Path) -> None:
    try:
        packages.require()
        # The main job of .ci/run builds one with cloud-init, which gives a guest its name.
        image = DEMO if DEMO.exists() else small_debian.cached()
    except DibctlError as error:
        pytest.fail(str(error), pytrace=False)
    operator = Operator(path=tmp_path, label="debian")
    assert operator.dibctl("init").code == 0
    assert operator.dibctl("validate").code == 0
    (tmp_path / "images").mkdir()
    shutil.copy(image, tmp_path / "images/debian.qcow2")
    results = ("--junit-xml=reports/debian.xml", "--dib-report=reports/debian.html")
    left_out = () if image == DEMO else ("-k", "not hostname")
    finished = operator.pytest("--dib-env=container", *results, *left_out)
    assert finished.code == 0, finished.output
    merged = ("reports", "--expect=debian@container", "--junit-xml=junit.xml", "--report=report.html")
    assert operator.dibctl("merge", *merged).code == 0
    kinds = {facts["dib_kind"] for facts in operator.junit().values()}
    assert kinds == {"image", "pytest", "shell", "ssh"}
    assert "srcdoc" in (tmp_path / "report.html").read_text()


def test_a_script_that_failed_in_a_guest_runs_again_there(tmp_path: Path, micro_files: Path) -> None:
    operator = Operator(path=tmp_path)
    operator.has(micro_files, tests=[{"ssh": "inside.sh"}])
    operator.write("inside.sh", '#!/bin/sh\ntest "$(uname -n)" = nobody\n', executable=True)
    first = operator.pytest("--dib-env=container", "--dib-keep-failed-instance")
    assert first.code == 1, first.output
    [line] = {
        line.strip() for line in first.output.splitlines() if line.startswith("    pytest --dib-image=micro ")
    }
    [removal] = {
        line.split("remove:")[1].strip() for line in first.output.splitlines() if "    remove:  " in line
    }
    try:
        second = operator.run(*shlex.split(line))
        assert second.code == 1, second.output
        assert "+ test " in second.output
        assert f"{os.linesep}again, in " in second.output
    finally:
        assert operator.run("pytest_dibctl.cli.main", *shlex.split(removal)[1:]).code == 0
