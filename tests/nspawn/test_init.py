"""What ``dibctl init`` writes is run to the letter, but for the build: another Debian takes its place."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pytest_dibctl.errors import DibctlError
from tests.qemu.test_end_to_end import Finished, Operator
from tests.support import packages, small_debian

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
DEMO = ROOT / "images/debian.qcow2"


def shell(operator: Operator, script: str, variables: dict[str, str]) -> Finished:
    """Run a script as a CI service does, with our commands on its path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    given = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=operator.path,
        env=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Finished(code=done.returncode, output=done.stdout)


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
    # What CI would do, with the scripts and variables that CI would get.
    left_out = "" if image == DEMO else "-k 'not hostname'"
    operator.write("build.env", f'export PYTEST_ADDOPTS="$PYTEST_ADDOPTS --dib-build=never {left_out}"\n')
    template = yaml.safe_load((tmp_path / ".gitlab/images.yml").read_text())
    jobs = yaml.safe_load(operator.dibctl("matrix", "--format=gitlab", "--environment=container").output)
    for job, hidden in (("test debian-container", ".test"), ("report", ".report")):
        assert jobs[job]["extends"] == hidden
        script = [line for line in template[hidden]["script"] if not line.startswith("pip ")]
        finished = shell(operator, "\n".join(["set -e", ". ./build.env", *script]), jobs[job]["variables"])
        assert finished.code == 0, finished.output
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
