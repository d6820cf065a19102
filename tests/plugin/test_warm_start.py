"""``--dib-warm``: which instances may be resumed, who gets a first boot, and what such runs vouch for."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_dibctl.image import statements
from tests.plugin.conftest import Project

TESTS = """
    import pytest
    from tests.support.memory import log

    @pytest.mark.parametrize("number", range(4))
    def test_any(instance, ssh_access, number):
        log("ran", test=f"any-{number}", resumed=instance.resumed)
"""
FIRST = """
    import pytest
    from tests.support.memory import log

    @pytest.mark.dib_first_boot
    @pytest.mark.parametrize("number", range(2))
    def test_first(instance, ssh_access, number):
        log("ran", test=f"first-{number}", resumed=instance.resumed)
"""

STAGING = "staging:\n  keystone: {auth_url: http://cloud.example:5000}\n  nova: {flavor: m1.small}\n"


@pytest.fixture
def both(project: Project) -> Project:
    """An image with tests that do and tests that do not need a first boot, the latter listed first."""
    project.write("test_any.py", TESTS)
    project.write("test_first.py", FIRST)
    project.images({"debian": [{"pytest": "test_any.py"}, {"pytest": "test_first.py"}]})
    return project


def starts(project: Project) -> list[Any]:
    return [
        operation.get("start", "no") for operation in project.operations() if operation["operation"] == "boot"
    ]


def resumed(project: Project) -> dict[str, bool]:
    """Return whether the instance of each test had been resumed."""
    return {
        operation["test"]: operation["resumed"]
        for operation in project.operations()
        if operation["operation"] == "ran"
    }


def statement(project: Project) -> statements.Statement:
    return statements.read(project.path / "debian.qcow2")[-1]


def test_a_run_boots_unless_it_is_asked_to_resume(both: Project) -> None:
    both.run("-k", "any").assert_outcomes(passed=4, deselected=2)
    assert starts(both) == ["no"]


@pytest.mark.parametrize("given", [["--dib-warm"], ["-o", "dibctl_warm=true"]], ids=["option", "ini"])
def test_without_a_test_that_needs_a_first_boot_the_instance_is_resumed(
    both: Project, given: list[str]
) -> None:
    both.run(*given, "-k", "any").assert_outcomes(passed=4, deselected=2)
    assert starts(both) == ["resume"]
    assert all(resumed(both).values())


def test_one_selected_test_that_needs_a_first_boot_has_the_instance_boot(both: Project) -> None:
    both.run("--dib-warm").assert_outcomes(passed=6)
    assert starts(both) == ["leave"]
    assert list(resumed(both)) == ["any-0", "any-1", "any-2", "any-3", "first-0", "first-1"]
    assert not any(resumed(both).values())


def test_an_entry_says_it_for_all_its_tests(both: Project) -> None:
    both.images({"debian": [{"pytest": "test_any.py", "first_boot": True}]})
    both.run("--dib-warm").assert_outcomes(passed=4)
    assert starts(both) == ["leave"]


def test_image_entries_see_no_boot_at_all(both: Project) -> None:
    both.images({"debian": [{"image": "test_any.py", "first_boot": True}]})
    result = both.run("--dib-warm")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*tests_list[[]0].first_boot*image entries look at files*"])


def test_of_several_instances_one_boots_and_has_the_tests_that_need_it(both: Project) -> None:
    both.run("--dib-warm", "-n2", "--dib-instances=2").assert_outcomes(passed=6)
    assert sorted(starts(both)) in (["leave"], ["leave", "resume"])
    ran = resumed(both)
    assert (ran["first-0"], ran["first-1"]) == (False, False)
    assert list(ran)[:2] == ["first-0", "first-1"]
    assert both.counts().get("rebuild", 0) == 0


def test_a_resumed_instance_boots_before_a_test_that_needs_it(both: Project) -> None:
    """As when the worker dies whose instance has booted."""
    both.write(
        "conftest.py",
        both.path.joinpath("conftest.py").read_text()
        + """
import pytest

@pytest.fixture(scope="session")
def dib_run(dib_run):
    dib_run.guest.first_boot_wanted = False
    return dib_run
""",
    )
    both.run("--dib-warm").assert_outcomes(passed=6)
    assert starts(both) == ["resume"]
    ran = resumed(both)
    assert [ran[f"any-{number}"] for number in range(4)] == [True] * 4
    assert (ran["first-0"], ran["first-1"]) == (False, False)
    assert both.counts()["rebuild"] == 1


def test_a_run_in_which_nothing_booted_vouches_for_nothing(both: Project) -> None:
    both.images({"debian": [{"pytest": "test_any.py"}]})
    result = both.run("--dib-warm")
    assert not statement(both).vouches
    assert statement(both).passed_all
    result.stdout.fnmatch_lines(["*debian: passed on resumed instances only*"])


def test_a_run_in_which_an_instance_booted_vouches(both: Project) -> None:
    both.run("--dib-warm").assert_outcomes(passed=6)
    assert statement(both).vouches


def test_a_resumed_run_takes_back_only_what_it_saw_fail(both: Project) -> None:
    file = both.path / "debian.qcow2"
    both.images({"debian": [{"pytest": "test_any.py"}]})
    both.run().assert_outcomes(passed=4)
    both.run("--dib-warm").assert_outcomes(passed=4)
    kept = statements.read(file)
    assert [one.vouches for one in kept] == [True, False]

    both.write("test_any.py", "def test_any(instance): assert not instance.resumed")
    both.run("--dib-warm").assert_outcomes(failed=1)
    assert not any(one.vouches for one in statements.read(file) if one.finished >= kept[-1].finished)


def test_a_first_boot_test_needs_no_login(both: Project) -> None:
    """It may be about a guest that lets nobody in."""
    both.write("test_first.py", FIRST.replace("instance, ssh_access, number", "instance, number"))
    both.faults(port=True)
    both.run("--dib-warm", "-k", "first").assert_outcomes(passed=2, deselected=4)


def test_where_nothing_is_resumed_tests_keep_their_order(both: Project) -> None:
    both.write("test.yaml", STAGING)
    result = both.run("--dib-warm", "--dib-env=staging", "-n2", "--dib-instances=2")
    result.assert_outcomes(passed=6)
    ran = (operation["test"] for operation in both.operations() if operation["operation"] == "ran")
    assert next(ran).startswith("any")
