"""What is uploaded of an image in a test environment that wants it preprocessed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_dibctl.image import statements
from tests.plugin.conftest import Project

CONVERT = "qemu-img convert -O %(disk_format)s %(input_filename)s %(output_filename)s"


@pytest.fixture
def staging(project: Project) -> Project:
    """A project that tests an image in an OpenStack environment, which the in-memory cloud stands for."""
    project.write("test_it.py", "def test_it(instance): pass\ndef test_more(artifact): pass")
    tests = {"environment_name": "staging", "tests_list": [{"pytest": "test_it.py"}]}
    project.images({"debian": {"tests": tests}})
    return project


def preprocess(project: Project, cmdline: str, **more: Any) -> None:
    environment: dict[str, Any] = {
        "keystone": {},
        "nova": {"flavor": "small"},
        "glance": {"disk_format": "raw"},
        "preprocessing": {"cmdline": cmdline, "output_filename": "made.%(disk_format)s", **more},
    }
    project.write("test.yaml", json.dumps({"staging": environment}))


def test_the_made_file_is_uploaded_and_removed(staging: Project) -> None:
    preprocess(staging, CONVERT)
    staging.run().assert_outcomes(passed=2)
    [upload] = [item for item in staging.operations() if item["operation"] == "upload"]
    assert (upload["file"], upload["exists"]) == ("made.raw", True)
    assert not (staging.path / "made.raw").exists()


def test_a_failing_command_is_an_error_of_what_needed_it(staging: Project) -> None:
    preprocess(staging, "qemu-img convert -O nonsense %(input_filename)s %(output_filename)s")
    result = staging.run(f"--dib-result-file={staging.path}/result.json")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*test.yaml:1:* (staging.preprocessing): qemu-img convert *exited with 1*", "*nonsense*"]
    )
    assert "Traceback" not in result.stdout.str()
    assert json.loads((staging.path / "result.json").read_text())["exit_code"] == 18
    assert "upload" not in staging.counts()


@pytest.mark.parametrize("origin", ["made", "elsewhere"])
def test_a_run_vouches_only_for_a_file_that_was_made_of_the_image(staging: Project, origin: str) -> None:
    preprocess(staging, CONVERT, delete_processed_after_upload=False)
    staging.run().assert_outcomes(passed=2)
    preprocess(staging, CONVERT, use_existing=True)
    if origin == "elsewhere":
        with (staging.path / "made.raw").open("r+b") as file:
            file.write(b"another")
    result = staging.run()
    result.assert_outcomes(passed=2)
    *_, last = statements.read(staging.path / "debian.qcow2")
    assert last.vouches == (origin == "made")
    assert (staging.path / "made.raw").exists()
