"""A container boots while the image's files are looked at: what becomes of it, whatever they are like."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Project

CONTAINER = "--dib-env=container"
# The tree of an empty image cannot be opened; what image_tree begins before that is asked for by its name.
LOOKS = "def test_files(dib_early_boot): pass\n"
FAILS = "def test_files(dib_early_boot): assert 0\n"
BOOTS = "def test_a(instance): pass\ndef test_b(ssh_access): pass\n"


@pytest.fixture
def early(project: Project) -> Project:
    """An image with an entry of kind image, which passes, and two tests that need an instance."""
    project.write("test_files.py", LOOKS)
    project.write("test_guest.py", BOOTS)
    project.images({"debian": [{"pytest": "test_guest.py"}, {"image": "test_files.py"}]})
    return project


def order(project: Project) -> list[str]:
    """Return the operations on instances, in order."""
    names = [operation["operation"] for operation in project.operations()]
    return [name for name in names if name in {"boot", "ready", "delete_instance", "remove_instance"}]


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
def test_the_instance_is_taken_over_by_the_tests_that_need_it(early: Project, workers: str) -> None:
    result = early.run(CONTAINER, workers)
    result.assert_outcomes(passed=3)
    assert order(early) == ["boot", "ready", "delete_instance"]


@pytest.mark.parametrize(("option", "skipped"), [("-v", 2), ("-x", 0)])
def test_files_that_fail_end_it_unused(early: Project, option: str, skipped: int) -> None:
    early.write("test_files.py", FAILS)
    result = early.run(CONTAINER, option)
    result.assert_outcomes(failed=1, skipped=skipped)
    assert order(early) == ["boot", "delete_instance"]
    if skipped:
        told = "debian was booted in vain: the image's files failed test_files.py::test_files?debian?"
        result.stdout.fnmatch_lines([f"*2 tests were not run: {told}*"])
    assert not list(early.log_file.parent.glob("dibctl-*"))


def test_a_boot_that_fails_is_no_matter_of_the_files(early: Project) -> None:
    early.faults(boot=True)
    result = early.run(CONTAINER, "-v")
    result.assert_outcomes(passed=1, errors=1, skipped=1)
    result.stdout.fnmatch_lines(
        ["*no valid host*", "*the boot of debian in container failed, see test_guest.py::test_a?debian?"]
    )
    assert order(early) == ["boot", "remove_instance"]


def test_a_key_that_cannot_be_made_is_told_where_it_is_needed(early: Project) -> None:
    fixture = "import pytest\n@pytest.fixture(scope='session')\ndef keypair(): raise OSError('no room')\n"
    early.write("conftest.py", f"{(early.path / 'conftest.py').read_text()}\n{fixture}")
    early.run(CONTAINER).assert_outcomes(passed=1, errors=1, skipped=1)
    assert order(early) == []


def test_a_run_of_the_files_alone_boots_nothing(early: Project) -> None:
    early.write("test_files.py", "def test_files(image): pass\n")
    early.run(CONTAINER, "-k", "files").assert_outcomes(passed=1)
    assert order(early) == []
