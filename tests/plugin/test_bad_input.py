"""What a person reads when something they wrote is wrong; nothing is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.conftest import Project


@pytest.fixture
def listed(project: Project) -> Project:
    """A project with one image, debian, and one passing test."""
    project.write("test_it.py", "def test_it(): pass")
    project.images({"debian": [{"pytest": "test_it.py"}]})
    return project


def refused(project: Project, result: pytest.RunResult, *lines: str) -> None:
    """Check that the run was refused with these lines, without a traceback, before anything was made."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(lines)
    assert "Traceback" not in result.stderr.str() + result.stdout.str()
    assert project.operations() == []
    assert not list(project.log_file.parent.glob("dibctl-*"))


def test_what_is_outdated_is_told_at_the_start(project: Project) -> None:
    project.images({"debian": {"glance": {"api_version": 1}, "tests": {"tests_list": []}}})
    result = project.run("--collect-only")
    result.stdout.fnmatch_lines(
        ["dib-image: warning: images.yaml:*(debian.glance.api_version): * v1 is gone*"]
    )


def test_an_unknown_option_is_refused_with_a_near_one(listed: Project) -> None:
    result = listed.run("--dib-biuld=never")
    refused(listed, result, "ERROR: unrecognized arguments: --dib-biuld; did you mean '--dib-build'?")


def test_unknown_image_is_refused_with_near_labels(listed: Project) -> None:
    refused(listed, listed.run(images="debain"), "ERROR:*debain*", "*debian*")


def test_no_images_yaml(project: Project) -> None:
    refused(project, project.run(images="debian"), "ERROR:*images.yaml*")


def test_yaml_syntax_error_has_its_place(listed: Project) -> None:
    listed.write("images.yaml", "debian:\n  filename: [x\n")
    refused(listed, listed.run(), "ERROR:*images.yaml:*")


def test_unknown_key_is_refused_with_place_and_suggestion(listed: Project) -> None:
    listed.write("images.yaml", "debian:\n  filename: x.qcow2\n  test: {}\n")
    refused(listed, listed.run(), "*images.yaml:3:3: debian.test: unknown key; did you mean 'tests'?")


def test_wrong_type_is_refused_with_its_place(listed: Project) -> None:
    listed.write("images.yaml", "debian:\n  filename: x.qcow2\n  tests: {wait_for_port: ssh}\n")
    refused(listed, listed.run(), "*images.yaml:3:*debian.tests.wait_for_port*")


def test_missing_test_file_is_refused(listed: Project) -> None:
    listed.images({"debian": [{"pytest": "test_absent.py"}]})
    refused(listed, listed.run(), "ERROR:*images.yaml:*test_absent.py*")


def test_script_without_execute_permission_is_refused(listed: Project) -> None:
    listed.write("check.sh", "exit 0")
    listed.images({"debian": [{"shell": "check.sh"}]})
    refused(listed, listed.run(), "ERROR:*check.sh*", "*chmod*")


def test_unknown_environment_is_refused(listed: Project) -> None:
    refused(listed, listed.run("--dib-env=nowhere"), "ERROR:*nowhere*")


def test_unknown_shipped_test_is_refused(listed: Project) -> None:
    listed.images({"debian": [{"pytest": "generic:logon"}]})
    refused(
        listed, listed.run(), "ERROR: images.yaml:*no generic test 'logon'", "hint: did you mean 'login'?"
    )


def test_hosts_of_testinfra_is_refused(listed: Project) -> None:
    refused(listed, listed.run("--hosts=local://"), "ERROR:*--hosts*--dib-image*")


def test_shell_without_terminal_is_refused(listed: Project) -> None:
    refused(listed, listed.run("--dib-shell"), "ERROR:*--dib-shell needs a terminal*")


def test_input_for_several_images_is_refused(listed: Project) -> None:
    listed.images({"debian": [], "ubuntu": []})
    refused(listed, listed.run("--dib-input=x.qcow2"), "ERROR:*--dib-input is for one image*debian, ubuntu*")


def test_missing_image_file_is_an_error_of_its_tests(listed: Project) -> None:
    (listed.path / "debian.qcow2").unlink()
    listed.write("test_it.py", "def test_it(instance): pass\ndef test_that(instance): pass")
    result = listed.run()
    result.assert_outcomes(errors=1, skipped=1)
    result.stdout.fnmatch_lines(["*debian.qcow2*"])
    assert "upload" not in listed.counts()


def test_truncated_image_file_is_an_error_of_its_tests(listed: Project) -> None:
    with (listed.path / "debian.qcow2").open("r+b") as file:
        file.truncate(100)
    listed.write("test_it.py", "def test_it(instance): pass")
    result = listed.run()
    result.assert_outcomes(errors=1)
    assert "upload" not in listed.counts()


WORKER_ERRORS = {
    "no test": ("test_it.py", "", "*no test was found for*", "*images.yaml:*: pytest entry test_it.py"),
    "a boot": (
        "look.py",
        "def test_it(instance): pass",
        "*look.py::test_it* asks for cloud_image and instance",
        "hint: *",
    ),
}


@pytest.mark.parametrize("workers", [[], ["-n1"], ["-n2"]], ids=["alone", "n1", "n2"])
@pytest.mark.parametrize("case", WORKER_ERRORS)
def test_usage_errors_are_one_sentence_with_workers_too(
    project: Project, case: str, workers: list[str]
) -> None:
    name, text, *lines = WORKER_ERRORS[case]
    project.write(name, text)
    project.images({"debian": [{"image" if case == "a boot" else "pytest": name}]})
    result = project.run(*workers)
    refused(project, result, *lines)
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "n2"])
def test_a_test_that_is_not_there_is_one_sentence_too(listed: Project, workers: list[str]) -> None:
    result = listed.run("test_it.py::test_gone", *workers)
    refused(listed, result, "*not found: *test_it.py::test_gone*")
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize(
    "option", ["--collect-only", "--fixtures", "--fixtures-per-test", "--collect-only -n2", "--setup-plan"]
)
def test_what_only_shows_needs_nothing_of_what_a_run_needs(
    listed: Project, option: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    listed.write("look.py", "def test_look(image_tree): pass")
    listed.images({"debian": [{"image": "look.py"}, {"pytest": "test_it.py"}]})
    text = (listed.path / "conftest.py").read_text()
    listed.write("conftest.py", text + MACHINE_WITHOUT_TOOLS)
    result = listed.run(*option.split())
    assert result.ret == pytest.ExitCode.OK, result.stdout.str() + result.stderr.str()
    assert listed.operations() == []
    refused(listed, listed.run(), "ERROR:*cannot open the image's files*")


MACHINE_WITHOUT_TOOLS = """
from pytest_dibctl.system import checks
checks.root = lambda *_: checks.Check(name="root", ok=False, detail="no root here")
"""


@pytest.mark.parametrize("days", ["soon", "-1", "nan", "inf", "7 days"])
def test_a_number_of_days_that_is_none_is_refused(project: Project, days: str) -> None:
    project.write("pytest.ini", f"[pytest]\ndibctl_keep_days = {days}\n")
    project.write("test_it.py", "def test_it(): pass")
    project.images({"debian": [{"pytest": "test_it.py"}]})
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*dibctl_keep_days is '{days}'; it must be a number of days*"])


def test_without_root_the_tests_that_need_none_are_named(listed: Project) -> None:
    listed.write("look.py", "def test_look(image_tree): pass")
    listed.images({"debian": [{"image": "look.py"}, {"pytest": "test_it.py"}, {"pytest": "generic:login"}]})
    listed.write("conftest.py", (listed.path / "conftest.py").read_text() + USER_WITHOUT_ROOT)
    lines = [
        "ERROR:*cannot open the image's files*",
        "*need no root: pytest --dib-image=debian test_it.py generic:login",
    ]
    refused(listed, listed.run(), *lines)
    listed.run("test_it.py").assert_outcomes(passed=1)


USER_WITHOUT_ROOT = (
    MACHINE_WITHOUT_TOOLS
    + """
import os
os.geteuid = lambda: 1000
"""
)
