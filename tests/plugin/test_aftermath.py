"""What is said, and what fails, after the tests of an image have passed."""

from __future__ import annotations

import json

import pytest

from tests.plugin.conftest import Project

WARNING = "[    1.0] WARNING: CPU: 0 PID: 1 at kernel/foo.c:12 bar+0x1/0x2"
TESTS = "def test_one(instance, ssh_access): pass\ndef test_two(ssh_access): pass\n"


def write(project: Project, **tests: object) -> None:
    project.write("test_it.py", TESTS)
    project.images({"web": {"tests": {"tests_list": [{"pytest": "test_it.py"}], **tests}}})


def test_trouble_of_a_passing_image_is_shown(project: Project) -> None:
    write(project)
    project.faults(console=WARNING)
    result = project.run()
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines([f"web: kernel WARNING in the console: {WARNING}".replace("[", "[[]")])
    assert result.ret == 0


def test_strict_fails_the_last_test_of_the_image(project: Project) -> None:
    write(project, console={"strict": True})
    project.faults(console=WARNING)
    result = project.run()
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_two*",
            "web: something went wrong in the guest although its tests passed",
            "hint: *images.yaml:*strict is true*",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    assert project.counts()["delete_instance"] == 1


def test_an_allowed_line_fails_nothing_and_shows_its_reason(project: Project) -> None:
    write(
        project,
        console={"strict": True, "allow": [{"pattern": "foo\\.c:12", "reason": "upstream knows of it"}]},
    )
    project.faults(console=WARNING)
    result = project.run()
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["web: kernel WARNING*allowed: upstream knows of it*"])


def test_each_image_is_judged_by_itself_under_xdist(project: Project) -> None:
    project.write("test_it.py", TESTS)
    entry = {"tests_list": [{"pytest": "test_it.py"}]}
    project.images({"web": {"tests": {**entry, "console": {"strict": True}}}, "db": {"tests": entry}})
    project.faults(console=WARNING)
    result = project.run("-n2")
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(["web: kernel WARNING*"])
    result.stdout.fnmatch_lines(["db: kernel WARNING*"])
    result.stdout.fnmatch_lines(["ERROR test_it.py::test_two[[]web]*"])


def test_a_slow_boot_fails_where_there_is_a_budget(project: Project) -> None:
    write(project, max_boot_time=0.05)
    project.faults(boot_seconds=0.2)
    result = project.run()
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["web: the boot took 0.* s, which is more than 0.05 s"])


def test_the_change_against_the_last_boot_is_shown(project: Project) -> None:
    write(project)
    project.faults(boot_seconds=0.4)
    first = project.run()
    first.stdout.re_match_lines([r"web: booted in 0\.\d s$"])
    project.faults(boot_seconds=1.5)
    second = project.run()
    second.stdout.re_match_lines([r"web: booted in 1\.\d s, 1\.\d s more than last time \(0\.\d s\)$"])
    history = json.loads((project.path / "web.qcow2.boots.json").read_text())
    assert len(history["local"]) == 2


@pytest.mark.parametrize(
    "content", ["no JSON", "[]", '{"local": [{}]}', '{"local": 3}', '{"local": [{"total": "x"}]}']
)
def test_a_history_that_is_none_is_passed_over(project: Project, content: str) -> None:
    write(project)
    (project.path / "web.qcow2.boots.json").write_text(content)
    project.run().assert_outcomes(passed=2)


def test_wrong_patterns_are_told_with_their_place(project: Project) -> None:
    write(project, console={"allow": [{"pattern": "(", "reason": "x"}]})
    result = project.run()
    result.stderr.fnmatch_lines(["*images.yaml:*'(' is no regular expression*"])


def test_a_guest_that_let_nobody_in_is_not_looked_at(project: Project) -> None:
    write(project, console={"strict": True}, max_boot_time=0.01)
    project.faults(console=WARNING, port=True)
    result = project.run()
    result.assert_outcomes(errors=1, skipped=1)
    result.stdout.no_fnmatch_line("*booted in*")
    result.stdout.no_fnmatch_line("*something went wrong*")


def test_a_failed_image_is_not_said_to_have_passed(project: Project) -> None:
    write(project, console={"strict": True})
    project.write("test_it.py", "def test_one(ssh_access): assert False\ndef test_two(ssh_access): pass\n")
    project.faults(console=WARNING)
    result = project.run()
    result.assert_outcomes(failed=1, passed=1, errors=1)
    result.stdout.fnmatch_lines(["web: something went wrong in the guest"])


def test_trouble_and_a_slow_boot_are_told_together(project: Project) -> None:
    write(project, console={"strict": True}, max_boot_time=0.05)
    project.faults(console=WARNING, boot_seconds=0.2)
    result = project.run()
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["web: something went wrong*", "web: the boot took*"])


def test_a_mark_of_the_last_test_excuses_no_trouble(project: Project) -> None:
    write(project, console={"strict": True})
    marked = "import pytest\ndef test_one(ssh_access): pass\n@pytest.mark.xfail\ndef test_two(ssh_access): "
    project.write("test_it.py", marked + "assert False\n")
    project.faults(console=WARNING)
    result = project.run()
    result.assert_outcomes(passed=1, xfailed=1, errors=1)
    assert result.ret == 1
