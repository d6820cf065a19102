"""The gate for external commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_dibctl.errors import CommandError
from pytest_dibctl.system import process


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in {"Z", "X"}


def wait_gone(pid: int) -> bool:
    """Wait up to a minute for a process to end."""
    deadline = time.monotonic() + 60
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


def test_an_isolated_python_finds_the_package_where_it_is_not_installed() -> None:
    executable, *options = process.isolated_python("pytest_dibctl.guards.build_steps")
    # -S: without the packages of the environment, of which this one may be.
    result = process.run([executable, "-S", *options, "--help"])
    assert "--building" in result.output


def test_output_and_errors_are_kept_apart() -> None:
    result = process.run(["sh", "-c", "echo out; echo err >&2"])
    assert (result.output, result.errors, result.returncode) == ("out\n", "err\n", 0)


def test_a_failure_says_command_code_and_last_words() -> None:
    with pytest.raises(CommandError, match=r"sh exited with 3: sh -c 'echo why >&2; exit 3'\n  why"):
        process.run(["sh", "-c", "echo why >&2; exit 3"])


def test_a_missing_program_is_named_with_a_hint() -> None:
    with pytest.raises(CommandError, match="no-such-program: not found") as caught:
        process.run(["no-such-program"])
    assert caught.value.hint


def test_a_command_without_the_right_to_run_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    with pytest.raises(CommandError, match="cannot be started: Permission denied"):
        process.run([str(tmp_path / "plain")])


def test_a_deadline_ends_the_whole_process_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 100 & echo $! > {pids}; echo $$ >> {pids}; wait"
    with pytest.raises(CommandError, match="sh did not end within 3 s"):
        process.run(["sh", "-c", script], timeout=3)
    assert all(wait_gone(int(pid)) for pid in pids.read_text().split())


def test_children_that_ignore_sigterm_are_killed_after_the_grace(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"trap '' TERM; echo $$ > {pids}; sleep 100 & wait; sleep 100"
    started = time.monotonic()
    with pytest.raises(CommandError):
        process.run(["sh", "-c", script], timeout=3, grace=0.5)
    assert wait_gone(int(pids.read_text()))
    assert time.monotonic() - started < 60


def test_lines_are_handed_over_while_the_command_runs(tmp_path: Path) -> None:
    heard: list[str] = []

    def hear(line: str) -> None:
        heard.append(line)
        (tmp_path / "heard").touch()

    script = "echo a; until test -e heard; do sleep 0.1; done; echo b"
    process.run(["sh", "-c", script], cwd=tmp_path, on_line=hear, timeout=60)
    assert heard == ["a", "b"]


def test_an_error_in_the_line_handler_reaches_the_caller() -> None:
    def refuse(line: str) -> None:
        raise ValueError(line)

    with pytest.raises(ValueError, match="a"):
        process.run(["echo", "a"], on_line=refuse)


def test_a_log_file_gets_both_streams(tmp_path: Path) -> None:
    result = process.run(["sh", "-c", "echo out; echo err >&2"], log_file=tmp_path / "log")
    assert sorted((tmp_path / "log").read_text().split()) == ["err", "out"]
    assert result.output == ""


def test_a_daemon_that_holds_stdout_does_not_hang_the_caller() -> None:
    heard: list[str] = []
    started = time.monotonic()
    process.run(["sh", "-c", "setsid sleep 100 & echo $!"], on_line=heard.append)
    assert time.monotonic() - started < 60
    os.kill(int(heard[0]), signal.SIGKILL)  # there still


def test_stdin_is_closed_unless_given() -> None:
    assert process.run(["cat"], timeout=60).output == ""
    assert process.run(["cat"], stdin="hello", timeout=60).output == "hello"
    assert process.run(["cat"], stdin="hello", timeout=60, join_stderr=True).output == "hello"


def test_programs_beside_the_interpreter_are_found_without_an_activated_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    parts = process.tool_path().split(os.pathsep)
    assert "/usr/sbin" in parts
    assert str(Path(sys.executable).parent) in parts


def test_a_command_with_parent_dies_with_it(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time\n"
        "from pytest_dibctl.system import process\n"
        "child = process.start(process.die_with_parent(['sleep', '100']))\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    assert wait_gone(pid)


@pytest.mark.parametrize(
    ("returncode", "words"),
    [
        (0, "exited with 0"),
        (100, "exited with 100"),
        (-9, "was killed by SIGKILL"),
        (-99, "was killed by signal 99"),
    ],
)
def test_how_a_command_ended_in_words(returncode: int, words: str) -> None:
    assert process.describe_exit(returncode) == words
