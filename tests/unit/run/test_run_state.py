"""Steps that several processes share: done once, whoever crashes."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl.errors import BuildError, DibctlError
from pytest_dibctl.run.run_state import RunState

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def run_state(tmp_path: Path) -> RunState:
    return RunState(directory=tmp_path)


def in_children(number: int, work: Callable[[], object]) -> list[int]:
    """Run ``work`` in as many processes at once; return their exit codes."""
    children = [FORK.Process(target=work) for _ in range(number)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    return [child.exitcode if child.exitcode is not None else -1 for child in children]


def noted(file: Path) -> dict[str, Any]:
    """Take some time, and leave a note of it."""
    time.sleep(0.2)
    with file.open("a") as notes:
        notes.write("x")
    return {"number": 42}


def test_a_step_is_done_once_by_several_processes(run_state: RunState, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    assert in_children(4, lambda: run_state.once("build a", lambda: noted(notes))) == [0] * 4
    outcome = run_state.once("build a", lambda: noted(notes))
    assert (outcome.value, outcome.mine) == ({"number": 42}, False)
    assert notes.read_text() == "x"


def test_steps_whose_names_differ_in_odd_characters_are_different(run_state: RunState) -> None:
    assert run_state.once("build a/b", lambda: {"of": 1}).mine
    assert run_state.once("build a b", lambda: {"of": 2}).mine


def test_an_error_is_an_outcome_with_all_that_it_says(run_state: RunState) -> None:
    def fail() -> dict[str, Any]:
        raise BuildError("it broke", hint="mend it", exit_code=100)

    for make in (fail, dict):
        with pytest.raises(BuildError, match="it broke") as caught:
            run_state.once("build a", make)
        assert (caught.value.hint, caught.value.exit_code) == ("mend it", 100)
        assert caught.value.origin == "build a"


def test_who_dies_in_the_middle_or_is_interrupted_leaves_the_step_to_the_next(run_state: RunState) -> None:
    assert in_children(1, lambda: run_state.once("build a", lambda: os._exit(9))) == [9]

    def interrupted() -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_state.once("build a", interrupted)
    assert run_state.once("build a", dict).mine


def test_what_is_in_use_cannot_be_taken_away(run_state: RunState) -> None:
    run_state.once("upload a", lambda: {"id": "x"})
    with run_state.in_use("upload a"), run_state.claim("upload a") as found:
        assert found is None
    with run_state.claim("upload a") as found:
        assert found == {"id": "x"}
    assert run_state.once("upload a", dict).mine


def test_a_user_that_dies_lets_go(run_state: RunState) -> None:
    run_state.once("upload a", lambda: {"id": "x"})

    def die() -> None:
        with run_state.in_use("upload a"):
            os._exit(0)

    in_children(1, die)
    with run_state.claim("upload a") as found:
        assert found == {"id": "x"}


def test_a_failed_step_leaves_nothing_to_take_away(run_state: RunState) -> None:
    def fail() -> dict[str, Any]:
        raise DibctlError("full")

    with pytest.raises(DibctlError):
        run_state.once("upload a", fail)
    with run_state.claim("upload a") as found:
        assert found == {}


def test_turns_are_limited(run_state: RunState, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def work() -> None:
        with run_state.turn("build", 2):
            for sign in ("+", "-"):
                with log.open("a") as file:
                    file.write(sign)
                time.sleep(0.2)

    assert in_children(5, work) == [0] * 5
    at_once = 0
    for sign in log.read_text():
        at_once += 1 if sign == "+" else -1
        assert at_once <= 2
    assert log.read_text().count("+") == 5


def test_the_first_name_given_for_a_matter_stays(run_state: RunState) -> None:
    assert [run_state.first("error", name) for name in ("a", "b")] == ["a", "a"]


def test_sums_are_the_run_s(run_state: RunState) -> None:
    in_children(4, lambda: run_state.add("spent", 0.5))
    assert run_state.total("spent") == 2.0
    assert run_state.total("other") == 0.0


def test_what_is_said_is_heard(run_state: RunState) -> None:
    assert run_state.get("items") is None
    run_state.put("items", {"pid": 1})
    assert run_state.get("items") == {"pid": 1}
