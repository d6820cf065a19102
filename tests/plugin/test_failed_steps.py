"""One cause is one error: a step that failed is told by one test, and those that need it are skipped."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from pytest_dibctl.image import statements
from tests.plugin.conftest import Project

TESTS = """
import pytest

def test_image(image): pass
def test_a(instance): pass
def test_b(host): pass
@pytest.mark.xfail
def test_c(ssh_access): pass
"""
BOOT_FAILED = "the boot of debian in local failed, see test_it.py::test_a[debian]"


@pytest.fixture
def debian(project: Project) -> Project:
    """An image with a test that needs no boot and three that do."""
    project.write("test_it.py", TESTS)
    project.images({"debian": [{"pytest": "test_it.py"}]})
    return project


def skips(project: Project) -> dict[str, str]:
    """Return why tests were skipped, as junit.xml says it."""
    return {
        case.get("name", ""): skipped.get("message", "")
        for case in ET.parse(project.path / "junit.xml").iter("testcase")
        for skipped in case.iterfind("skipped")
    }


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_failed_boot_is_one_error_wherever_it_is_told(debian: Project, workers: str) -> None:
    debian.faults(boot=True)
    result = debian.run(workers, "-rs", "--junit-xml=junit.xml", "--dib-summary=summary.md")
    result.assert_outcomes(errors=1, skipped=2, passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    text = result.stdout.str()
    assert text.count("hint: use a smaller flavor") == 1
    assert "Traceback" not in text
    assert ".py:" not in text.partition("hint: ")[0].rpartition("ERROR at setup")[2]
    assert f"debian: 2 tests were not run: {BOOT_FAILED}" in text
    assert skips(debian) == dict.fromkeys(("test_b[debian]", "test_c[debian]"), BOOT_FAILED)
    assert f"SKIPPED [2] images.yaml:1: {BOOT_FAILED}" in text
    summary = (debian.path / "summary.md").read_text()
    assert summary.count("no valid host") == 1
    assert "### Not run" in summary
    assert "❌" in summary
    assert debian.counts()["boot"] == 1


def test_a_mark_of_an_expected_failure_excuses_no_failed_step(debian: Project) -> None:
    debian.faults(boot=True)
    result = debian.run("-k", "test_c")
    result.assert_outcomes(errors=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_what_was_skipped_with_a_failed_step_runs_again_with_last_failed(debian: Project) -> None:
    debian.faults(boot=True)
    debian.run().assert_outcomes(errors=1, skipped=2, passed=1)
    debian.run("--lf").assert_outcomes(errors=1, skipped=2, deselected=1)
    debian.faults(none=True)
    debian.run("--lf").assert_outcomes(passed=2, xpassed=1, deselected=1)
    debian.run("--lf").assert_outcomes(passed=3, xpassed=1)


def test_a_run_fails_although_the_test_that_would_tell_was_not_reported(debian: Project) -> None:
    # A conftest file hides the one error, as a plugin might.
    debian.write(
        "conftest.py",
        (debian.path / "conftest.py").read_text()
        + "\nimport pytest\n"
        + "@pytest.hookimpl(wrapper=True, tryfirst=True)\n"
        + "def pytest_runtest_makereport(item, call):\n"
        + "    report = yield\n"
        + "    if report.failed: report.outcome = 'passed'\n"
        + "    return report\n",
    )
    debian.faults(boot=True)
    result = debian.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("option", ["-x", "--reruns=1"])
def test_the_exit_status_is_that_of_the_one_error(debian: Project, option: str) -> None:
    debian.faults(boot=True)
    result = debian.run(option, "--dib-result-file=result.json")
    assert result.ret in {pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED}
    assert json.loads((debian.path / "result.json").read_text())["exit_code"] == 70
    assert result.parseoutcomes()["error" if "error" in result.parseoutcomes() else "errors"] == 1


def test_a_boot_that_fails_takes_back_the_word_for_the_image(debian: Project) -> None:
    debian.write("test_it.py", "def test_a(instance): pass\ndef test_b(instance): pass")
    debian.run().assert_outcomes(passed=2)
    debian.faults(boot=True)
    debian.run().assert_outcomes(errors=1, skipped=1)
    [last] = statements.read(debian.path / "debian.qcow2")
    assert (last.whole, last.vouches, len(last.failed), len(last.skipped)) == (True, False, 1, 1)


WRONG = {
    "an element": (
        {"dib": {"elements": ["no-such-element"]}},
        "",
        "*images.yaml:*no-such-element*",
    ),
    "user data": (
        {"tests": {"environment_name": "staging", "tests_list": [{"pytest": "test_it.py"}]}},
        "staging: {qemu: {userdata_file: gone.yaml}}\n",
        "*test.yaml:1:* (staging.qemu.userdata_file): there is no file gone.yaml",
    ),
}


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_validate_finds_is_told_before_tests_are_collected(
    debian: Project, wrong: str, workers: str
) -> None:
    entry, environments, message = WRONG[wrong]
    debian.write("test.yaml", environments or "{}")
    debian.images({"debian": entry})
    result = debian.run(workers, "--dib-result-file=result.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    assert "collected" not in result.stdout.str()
    assert json.loads((debian.path / "result.json").read_text())["exit_code"] != 0


INTERNALS = """
import pytest

def test_dies(instance, wait_for_port):
    wait_for_port(1, timeout=0.1)

@pytest.mark.timeout(1)
def test_hangs(wait_for_port):
    wait_for_port(1, timeout=60)

def test_differs(instance):
    assert "one" == "two"
"""


def test_tracebacks_end_where_the_plugin_begins(debian: Project) -> None:
    debian.write("test_it.py", INTERNALS)
    result = debian.run("--dib-summary=summary.md")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [">   * wait_for_port(1, timeout=0.1)", "E   *PortTimeoutError: port 1 of dibctl-debian-*"]
    )
    for text in (result.stdout.str(), (debian.path / "summary.md").read_text()):
        assert "readiness.py" not in text
        assert "waiting.py" not in text
        assert "Last lines of the console" not in text


def test_a_failed_assertion_shows_the_console_of_a_guest_that_broke(debian: Project) -> None:
    debian.write("test_it.py", "def test_differs(instance): assert 'one' == 'two'")
    debian.faults(console="Kernel panic - not syncing: VFS: Unable to mount root fs")
    text = debian.run().stdout.str()
    assert text.index("'one' == 'two'") < text.index("Last lines of the console of debian")


def test_a_test_that_met_an_error_shows_the_end_of_the_console(debian: Project) -> None:
    debian.write("test_it.py", "def test_it(instance): raise ConnectionError('gone')")
    debian.run().stdout.fnmatch_lines(["*Last lines of the console of debian*", "dibctl-debian-* login:"])


def test_what_tests_get_is_shown_in_few_words(debian: Project) -> None:
    names = "image, dib_run, artifact, cloud_image, keypair, ssh_access, environment_variables"
    debian.write(
        "test_it.py",
        f"def test_it({names}, request):\n    target = request.node.callspec.params['image']\n    assert 0",
    )
    text = debian.run("-l", "-vv").stdout.str()
    for shown in (
        "image      = <debian of images.yaml>",
        "target     = debian@local",
        "dib_run    = <run of debian@local>",
    ):
        assert shown in text
    assert "Entry(" not in text
    assert max(map(len, text.splitlines())) < 400


def test_those_who_look_at_failures_see_one(debian: Project) -> None:
    """Such as --pdb, which would open a debugger for each test that is skipped."""
    hook = "def pytest_exception_interact(node): print(f'looked at {node.name}')"
    debian.write("watching.py", hook)
    debian.faults(boot=True)
    result = debian.run("-s", "-p", "watching")
    result.assert_outcomes(errors=1, skipped=2, passed=1)
    assert result.stdout.str().count("looked at") == 1
