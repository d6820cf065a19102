"""Signals become one KeyboardInterrupt."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from pytest_dibctl.system import signals


@pytest.mark.parametrize("number", signals.STOPPING)
def test_a_stopping_signal_is_a_keyboard_interrupt(number: signal.Signals) -> None:
    with signals.as_keyboard_interrupt(), pytest.raises(KeyboardInterrupt, match=number.name):
        os.kill(os.getpid(), number)


def test_the_second_signal_lets_the_removal_go_on_and_the_third_does_not(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with signals.as_keyboard_interrupt() as heard:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard.received == 2
        with pytest.raises(KeyboardInterrupt, match="abandoned"):
            os.kill(os.getpid(), signal.SIGINT)
    assert "still removing" in capfd.readouterr().err


@pytest.mark.parametrize("guarded", [False, True])
def test_a_guardian_is_named_only_where_there_is_one(
    capfd: pytest.CaptureFixture[str], *, guarded: bool
) -> None:
    with signals.as_keyboard_interrupt():
        if guarded:
            signals.guarded()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    said = capfd.readouterr().err
    assert ("guardian" in said, "`dibctl cleanup`" in said) == (guarded, not guarded)


def test_former_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in signals.STOPPING]
    with signals.as_keyboard_interrupt():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in signals.STOPPING] == before


def test_an_ignored_sighup_stays_ignored() -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.as_keyboard_interrupt():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def test_other_threads_change_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with signals.as_keyboard_interrupt():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
