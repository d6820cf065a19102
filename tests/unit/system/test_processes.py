"""Which processes live, and what tells them apart; zombies are dead."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_dibctl.system import process, processes
from pytest_dibctl.system.waiting import wait_until

ARGUMENT = f"--directory=/run/of test-{os.getpid()}"


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    argv = ["sh", "-c", "while :; do sleep 600; done", "sh", ARGUMENT]
    with process.spawn(argv, cwd=tmp_path, env={"DIBCTL_TEST": ARGUMENT}) as started:
        assert wait_until(lambda: processes.has_argument(started.pid, ARGUMENT), timeout=10)
        yield started


def kill_unreaped(started: subprocess.Popen[str]) -> None:
    """Leave a zombie: nobody has waited for it yet."""
    os.kill(started.pid, signal.SIGKILL)
    os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)


def test_a_child_is_known_until_it_is_dead(sleeper: subprocess.Popen[str]) -> None:
    assert processes.parent(sleeper.pid) == os.getpid()
    assert processes.is_child(sleeper.pid)
    assert not processes.is_child(os.getpid())
    kill_unreaped(sleeper)
    assert processes.parent(sleeper.pid) is None
    assert not processes.is_alive(sleeper.pid)
    assert not processes.is_child(sleeper.pid)


def test_a_process_is_found_by_what_it_was_started_with(
    sleeper: subprocess.Popen[str], tmp_path: Path
) -> None:
    def found() -> list[tuple[int, ...]]:
        ways = (
            processes.with_argument(ARGUMENT),
            processes.with_variable("DIBCTL_TEST", ARGUMENT),
            processes.working_in(tmp_path, program="sh"),
        )
        return [tuple(one.pid for one in way if one.pid == sleeper.pid) for way in ways]

    assert found() == [(sleeper.pid,)] * 3
    assert not processes.has_argument(sleeper.pid, ARGUMENT[:-1])
    assert not processes.with_argument(ARGUMENT[:-1])
    assert not processes.with_variable("DIBCTL_TEST", ARGUMENT[:-1])
    assert not processes.working_in(tmp_path, program="qemu-")
    kill_unreaped(sleeper)
    assert found() == [()] * 3
    assert not processes.has_argument(sleeper.pid, ARGUMENT)


def test_a_signal_reaches_living_processes_and_passes_over_dead_ones(
    sleeper: subprocess.Popen[str],
) -> None:
    found = processes.with_argument(ARGUMENT)
    processes.send(signal.SIGKILL, found)
    assert sleeper.wait(10) == -signal.SIGKILL
    processes.send(signal.SIGKILL, found)


def test_what_a_dead_run_started_is_ended_by_force_if_it_must_be() -> None:
    run_id = f"test{os.getpid()}"
    deaf = "trap : TERM; echo ready; while :; do sleep 0.1; done"
    with (
        process.spawn(["sh", "-c", deaf], env={process.RUN: run_id}, stdout=subprocess.PIPE) as stubborn,
        process.spawn(["sleep", "600"], env={process.RUN: "another"}) as other,
    ):
        assert stubborn.stdout is not None
        assert stubborn.stdout.readline() == "ready\n"
        ended = processes.end_marked(run_id, grace=0.5)
        assert stubborn.pid in ended
        assert stubborn.wait(10) == -signal.SIGKILL
        assert other.poll() is None
