"""Time limits: an entry's tests share its seconds, and nobody pays for a boot."""

from __future__ import annotations

from tests.plugin.conftest import Project


def test_tests_of_an_entry_share_its_timeout_and_the_rest_is_skipped(project: Project) -> None:
    project.write(
        "test_slow.py",
        """
        import time

        def test_first():
            time.sleep(2)

        def test_second():
            time.sleep(7)  # it would fit, alone

        def test_third():
            pass
        """,
    )
    project.write("test_next.py", "def test_it(): pass")
    project.images({"debian": [{"pytest": "test_slow.py", "timeout": 8}, {"pytest": "test_next.py"}]})
    result = project.run("-v", "-rs")
    result.assert_outcomes(passed=2, failed=1, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "test_slow.py::test_first?debian? PASSED*",
            "test_slow.py::test_second?debian? FAILED*",
            "test_slow.py::test_third?debian? SKIPPED*",
            "test_next.py::test_it?debian? PASSED*",
            "*the tests of test_slow.py share 8 s, which are spent now*",
            "SKIPPED*the 8 s that the tests of test_slow.py share are spent*",
        ],
    )


def test_a_test_s_own_smaller_timeout_holds(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import time
        import pytest

        @pytest.mark.timeout(1)
        def test_own():
            time.sleep(20)

        def test_after():
            pass
        """,
    )
    project.images({"debian": [{"pytest": "test_it.py", "timeout": 60}]})
    project.run().assert_outcomes(failed=1, passed=1)


def test_a_slow_boot_is_charged_to_no_test(project: Project) -> None:
    project.write(
        "test_it.py",
        "import pytest\n@pytest.mark.timeout(4)\ndef test_it(instance): pass\ndef test_b(instance): pass",
    )
    project.images({"debian": [{"pytest": "test_it.py", "timeout": 4}]})
    project.faults(boot_seconds=6)
    project.run("--timeout=4").assert_outcomes(passed=2)


def test_timeout_zero_means_no_limit(project: Project) -> None:
    project.write("test_it.py", "import time\ndef test_it(): time.sleep(0.3)")
    project.images({"debian": [{"pytest": "test_it.py", "timeout": 0}]})
    project.run().assert_outcomes(passed=1)


def test_stop_on_fail_skips_the_image_s_later_entries_only(project: Project) -> None:
    project.write("test_bad.py", "def test_bad(): assert 0\ndef test_same_entry(): pass")
    project.write("test_good.py", "def test_it(): pass")
    both = [{"pytest": "test_bad.py"}, {"pytest": "test_good.py"}]
    project.images({"alpha": both, "beta": [{"pytest": "test_good.py"}]})
    result = project.run("--dib-stop-on-fail", "-rs")
    result.assert_outcomes(failed=1, passed=2, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*test_bad.py failed before*"])


def test_by_default_everything_is_run(project: Project) -> None:
    project.write("test_bad.py", "def test_bad(): assert 0")
    project.write("test_good.py", "def test_it(): pass")
    project.images({"alpha": [{"pytest": "test_bad.py"}, {"pytest": "test_good.py"}]})
    project.run().assert_outcomes(failed=1, passed=1)
    project.run("--dib-stop-on-fail", "--dib-continue-on-fail").assert_outcomes(failed=1, passed=1)
