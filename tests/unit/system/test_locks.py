"""Locks between processes: taken, shared, waited for, and free as soon as their holder has ended."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from pytest_dibctl.system import locks, process

HOLDER = """
import sys, time
from pathlib import Path
from pytest_dibctl.system import locks
with locks.{kind}(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_a_lock_is_private_and_its_file_stays(path: Path) -> None:
    with locks.exclusive(path):
        pass
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_exclusive_lock_keeps_all_others_out(path: Path) -> None:
    with locks.exclusive(path), locks.exclusive_if_free(path) as other, locks.opened(path) as third:
        assert other is None
        assert not locks.try_hold(third, shared=True)
    with locks.exclusive_if_free(path) as other:
        assert other is not None


def test_a_shared_lock_is_shared(path: Path) -> None:
    with locks.shared(path), locks.shared(path), locks.exclusive_if_free(path) as other:
        assert other is None


def test_a_lock_that_is_not_free_in_time_is_an_os_error(path: Path) -> None:
    looks: list[None] = []
    with (
        locks.exclusive(path),
        pytest.raises(TimeoutError, match=r"another process has held .*lock for 0\.1 s"),
        locks.exclusive(path, timeout=0.1, poll=0.02, while_waiting=lambda: looks.append(None)),
    ):
        pytest.fail("two hold one lock")
    assert len(looks) > 1


def test_what_is_raised_while_waiting_ends_the_wait(path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with (
        locks.exclusive(path),
        pytest.raises(KeyboardInterrupt),
        locks.exclusive(path, while_waiting=stop),
    ):
        pytest.fail("two hold one lock")


def test_a_lock_is_taken_when_its_holder_lets_go(path: Path) -> None:
    with locks.opened(path) as holder, locks.opened(path) as waiter:
        locks.hold(holder)
        waiting = threading.Event()

        def let_go() -> None:
            waiting.wait(10)
            fcntl.flock(holder, fcntl.LOCK_UN)

        letting_go = threading.Thread(target=let_go)
        letting_go.start()
        assert locks.hold_by_looking(waiter, timeout=10, poll=0.01, while_waiting=waiting.set)
        letting_go.join()


def test_the_lock_of_a_directory_needs_no_file(tmp_path: Path) -> None:
    with locks.exclusive(tmp_path), locks.exclusive_if_free(tmp_path) as other:
        assert other is None
    assert list(tmp_path.iterdir()) == []


def test_a_look_makes_no_file(path: Path) -> None:
    assert not locks.is_held(path)
    assert not path.exists()
    with locks.shared(path):
        assert locks.is_held(path)
    assert not locks.is_held(path)


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_the_lock_of_a_killed_process_is_free(path: Path, kind: str) -> None:
    argv = [process.interpreter(), "-c", HOLDER.format(kind=kind), str(path)]
    with process.spawn(argv, stdout=-1) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert locks.is_held(path)
        holder.kill()
        holder.wait()
    assert not locks.is_held(path)
