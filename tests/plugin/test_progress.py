"""What a person sees while steps take their time: live lines at a terminal, few elsewhere, none with -q."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pyte
import pytest

from tests.plugin.conftest import Project
from tests.support import terminals
from tests.support.plugins import without

COLUMNS, LINES = 80, 40


@pytest.fixture
def two(project: Project) -> Project:
    """Two images whose boots take a second and a half."""
    project.write("test_it.py", "def test_it(ssh_access): pass\ndef test_more(image): pass")
    project.images({"alpha": [{"pytest": "test_it.py"}], "beta": [{"pytest": "test_it.py"}]})
    project.faults(boot_seconds=1.5)
    return project


def at_terminal(project: Project, *options: str, errors: Path | None = None) -> tuple[str, list[str]]:
    """Run pytest at a terminal; return all it wrote, and what the screen shows in the end.

    With ``errors`` its second output goes to that file.
    """
    argv = [sys.executable, "-m", "pytest", "--dib-image=all", "-p", "no:hypothesispytest", *without(set())]

    def start(end: int) -> subprocess.Popen[str]:
        ioctl(end, TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        environ = {**os.environ, "TERM": "xterm"}
        with contextlib.ExitStack() as stack:
            error = stack.enter_context(errors.open("w")) if errors else end
            return subprocess.Popen(
                [*argv, *options],
                cwd=project.path,
                env=environ,
                stdin=end,
                stdout=end,
                stderr=error,
                text=True,
            )

    with terminals.at_terminal(start) as (ours, child):
        written = terminals.read_until(ours, None)
        assert child.wait() == 0, written
    screen = pyte.Screen(COLUMNS, LINES)
    pyte.Stream(screen).feed(written)
    return written, [line.rstrip() for line in screen.display if line.strip()]


@pytest.mark.parametrize("workers", [(), ("-v", "-n2")])
def test_live_lines_show_the_step_and_leave_nothing(two: Project, workers: tuple[str, ...]) -> None:
    written, screen = at_terminal(two, *workers)
    for image in ("alpha", "beta"):
        assert f"  {image}: booting (1 s)" in written
    shown = "\n".join(screen)
    assert "booting" not in shown
    # pytest's own lines are whole: all results stand in one line, or each behind its test.
    if "-v" in workers:
        assert sum(line.count("PASSED") for line in screen) == 4
        assert all(line.startswith(("test_it.py::", "[gw")) for line in screen if "PASSED" in line)
    else:
        [dots] = [line for line in screen if line.endswith("[100%]")]
        assert dots.split()[-2] == "...."
    assert all(len(line) <= COLUMNS for line in screen)


def test_nothing_lives_at_a_terminal_that_others_write_to(two: Project) -> None:
    written, _ = at_terminal(two, "-s")
    assert "(1 s)" not in written
    assert "alpha: booting" in written


def test_a_test_whose_name_fills_more_than_a_row_has_live_lines(project: Project) -> None:
    name = f"test_{'x' * COLUMNS}"
    project.write("test_it.py", f"def {name}(ssh_access): pass")
    project.images({"alpha": [{"pytest": "test_it.py"}]})
    project.faults(boot_seconds=1.5)
    written, screen = at_terminal(project, "-v")
    assert "  alpha: booting (1 s)" in written
    whole = "".join(screen)
    assert f"test_it.py::{name}[alpha] PASSED" in whole
    assert "booting" not in whole


def test_a_warning_stands_alone_at_a_terminal_that_errors_do_not_go_to(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        from pytest_dibctl.plugin.session import KEY
        def test_it(image, request):
            request.config.stash[KEY].progress.announce("warning: look here")
        """,
    )
    project.images({"alpha": [{"pytest": "test_it.py"}]})
    _, screen = at_terminal(project, "-v", errors=project.path / "errors")
    assert "warning: look here" in screen


def test_pytest_may_be_without_its_debugger(two: Project) -> None:
    two.faults()
    two.run("-p", "no:debugging").assert_outcomes(passed=4)


def test_the_terminal_may_be_written_by_a_class_of_a_plugin(two: Project) -> None:
    two.faults()
    two.write(
        "writers.py",
        """
        import pytest
        @pytest.hookimpl(trylast=True)
        def pytest_configure(config):
            writer = config.get_terminal_writer()
            file = vars(writer).pop("_file")
            own = {"_file": property(lambda self: file)}
            writer.__class__ = type("Writer", (type(writer),), own)
        """,
    )
    two.run("-p", "writers").assert_outcomes(passed=4)


def merged(project: Project, *options: str) -> list[str]:
    """Run pytest with both outputs in one pipe, as CI has them; return the lines."""
    argv = [sys.executable, "-m", "pytest", "--dib-image=all", "-p", "no:hypothesispytest", *without(set())]
    done = subprocess.run(
        [*argv, *options],
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("workers", [(), ("-n2",)])
def test_without_a_terminal_lines_stand_alone_and_are_few(two: Project, workers: tuple[str, ...]) -> None:
    lines = merged(two, *workers)
    for image in ("alpha", "beta"):
        told = [line for line in lines if f"{image}: " in line and not line.startswith("dib-image ")]
        told = [line for line in told if "booted in" not in line]  # the summary's
        assert told == [f"{image}: uploaded", f"{image}: booting"]


def test_quiet_is_quiet(two: Project) -> None:
    lines = [line for line in merged(two, "-q", "-n2") if line and "bringing up nodes" not in line]
    assert len(lines) == 2, lines
    assert lines[0].startswith("....")
    assert lines[1].startswith("4 passed in ")


def test_quiet_tells_what_has_to_be_known(two: Project) -> None:
    two.write("test_it.py", "def test_it(ssh_access): assert 0")
    result = two.run("-q", "--dib-keep-failed-instance")
    result.stdout.fnmatch_lines(["alpha  failed 1 of 1 *", "alpha: kept instance *"])


def test_why_guests_are_slow_is_said_once(two: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    two.write(
        "conftest.py",
        "from pytest_dibctl.clouds.qemu import accel\nfrom pathlib import Path\n"
        "accel.DEVICE = Path('/nowhere/kvm')\n" + (two.path / "conftest.py").read_text(),
    )
    text = "\n".join(merged(two))
    assert text.count("guests are emulated, which is slow; KVM does not work here: ") == 1
