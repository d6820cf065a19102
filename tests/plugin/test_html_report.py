"""When --dib-report's file is written, and what of a run is in it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.conftest import Project
from tests.support import waiting
from tests.support.plugins import without

TESTS = """
def test_it(ssh_access, image): assert image.label != "beta", "wrong <b>colour</b>"
def test_more(instance): pass
"""


@pytest.fixture
def two(project: Project) -> Project:
    """Two images of which one fails a test."""
    project.write("test_it.py", TESTS)
    project.images({"alpha": [{"pytest": "test_it.py"}], "beta": [{"pytest": "test_it.py"}]})
    project.faults(console="Kernel panic - not syncing: no init")
    return project


def page(project: Project) -> str:
    """Return the report."""
    return (project.path / "r.html").read_text()


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_the_report_has_each_image_with_its_tests_timeline_and_console(two: Project, workers: str) -> None:
    two.run(workers, "--dib-report=r.html").assert_outcomes(passed=3, failed=1)
    text = page(two)
    assert "<h1>2 images: 1 failed, 1 passed</h1>" in text
    assert "AssertionError: wrong &lt;b&gt;colour&lt;/b&gt;" in text
    assert ">passed 2</a>" in text
    assert ">failed 1 of 2</a>" in text
    assert text.count("Timeline: ") == 2
    assert text.count(">boot</span>") == 2
    assert text.count("<mark>Kernel panic - not syncing: no init</mark>") >= 2
    assert "sha512" in text
    assert {path.suffix for path in (two.path / "r.logs").iterdir()} == {".log"}


def test_the_crash_of_a_worker_is_in_the_report(two: Project) -> None:
    dies = "def test_dies(image):\n    if image.label == 'beta': __import__('os')._exit(9)\n"
    two.write("test_it.py", TESTS + dies)
    two.run("-n2", "--dib-report=r.html").assert_outcomes(passed=4, failed=2)
    text = page(two)
    assert "crashed while running" in text
    assert ">failed 2 of 3</a>" in text


def test_the_cause_of_one_guest_is_not_that_of_the_next(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import os, pytest
        from pytest_dibctl.plugin.session import KEY
        @pytest.mark.parametrize("number", [0, 1])
        def test_it(image, number, request):
            [target_run] = request.config.stash[KEY].target_runs.values()
            is_bad = number == int(os.environ["BAD"])
            target_run.guest.cause = "kernel-panic" if is_bad else None
            assert not is_bad
        """,
    )
    project.images({"alpha": [{"pytest": "test_it.py"}]})
    for bad, shown in (("1", True), ("0", False)):
        project.monkeypatch.setenv("BAD", bad)
        project.run("--dib-report=r.html").assert_outcomes(passed=1, failed=1)
        assert ('class="cause"' in page(project)) is shown


def test_an_interrupted_run_has_a_report(two: Project) -> None:
    sleeps = "    pathlib.Path('runs').touch(); time.sleep(60)\n"
    two.write("test_it.py", f"import pathlib, time\ndef test_it(instance):\n{sleeps}")
    argv = [sys.executable, "-m", "pytest", "--dib-image=all", "--dib-report=r.html", *without(set())]
    running = subprocess.Popen(argv, cwd=two.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        waiting.until((two.path / "runs").exists)
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) == pytest.ExitCode.INTERRUPTED
    finally:
        running.kill()
        running.wait()
    text = page(two)
    assert "The run was interrupted, or stopped early." in text
    assert ">not run 0</a>" in text


def test_a_report_that_cannot_be_written_changes_the_status(two: Project) -> None:
    two.write("test_it.py", "def test_it(image): pass")
    (two.path / "r.html").mkdir()
    result = two.run("--dib-report=r.html")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["--dib-report: *r.html: cannot be written: *"])


def test_a_boot_that_fails_leads_the_report(two: Project) -> None:
    two.faults(boot=True, boot_seconds=1)
    two.run("--dib-report=r.html", images="alpha").assert_outcomes(errors=1, skipped=1)
    text = page(two)
    assert "1 test was not run: the boot of alpha in local failed" in text
    assert "hint: use a smaller flavor" in text
    # The time of the boot is the step's, and not that of the test which met its failure.
    assert ">boot</span>" in text
    assert ">tests</span>" not in text
    assert text.count(">0.0 s</td>") == 2
    assert Path(two.path / "r.html").stat().st_mode & 0o777 == 0o644
