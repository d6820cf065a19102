"""Waiting by looking."""

from __future__ import annotations

import itertools
import time

import pytest

from pytest_dibctl.system.waiting import Every, growing, wait_until, wait_while


class Clock:
    """Time that passes only in sleep."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.slept: list[float] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_what_holds_is_not_waited_for(clock: Clock) -> None:
    assert wait_until(lambda: "found", timeout=0) == "found"
    assert clock.slept == []


def test_the_value_that_ends_the_wait_is_returned(clock: Clock) -> None:
    values = iter(["", None, "found"])
    assert wait_until(lambda: next(values), poll=2) == "found"
    assert clock.slept == [2, 2]


def test_there_is_a_last_look_when_the_time_is_over(clock: Clock) -> None:
    looks: list[float] = []
    assert wait_until(lambda: looks.append(clock.now), timeout=2.5, poll=1) is None
    assert looks == [100, 101, 102, 102.5]


def test_what_is_still_there_when_the_time_is_over_is_returned(clock: Clock) -> None:
    found = iter([[1, 2], [2], []])
    assert wait_while(lambda: next(found), poll=2) == []
    assert clock.slept == [2, 2]
    assert wait_while(lambda: [clock.now], timeout=1) == [105]


def test_pauses_may_grow(clock: Clock) -> None:
    pauses = growing(1, factor=2, longest=5)
    assert not wait_until(lambda: False, timeout=10, poll=pauses)
    assert clock.slept == [1, 2, 4, 3]
    assert list(itertools.islice(growing(1, factor=3, longest=5), 4)) == [1, 3, 5, 5]


def test_what_the_condition_raises_ends_the_wait() -> None:
    started = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 // 0, timeout=60)
    assert time.monotonic() - started < 30


def test_progress_is_due_at_once_and_then_every_so_often(clock: Clock) -> None:
    heartbeat = Every(30)
    told = []
    for _ in range(7):
        if heartbeat.is_due():
            told.append(clock.now)
        clock.now += 10
    assert told == [100, 130, 160]
