"""Which cases of a matrix a run takes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import sampling

CASES = [(letter, number) for letter in "abc" for number in range(4)]


@pytest.fixture(autouse=True)
def _seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sampling.SEED, "42")
    monkeypatch.delenv(sampling.FULL, raising=False)


def test_some_cases_are_taken_once_each_in_their_order() -> None:
    taken = sampling.sampled(CASES, 5)
    assert len(taken) == 5
    assert taken == [case for case in CASES if case in taken]


def test_another_process_takes_the_same_cases_with_the_same_seed() -> None:
    code = f"from tests.support import sampling; print(sampling.sampled({CASES!r}, 5))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == repr(sampling.sampled(CASES, 5))


def test_every_case_is_taken_with_some_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = set()
    for seed in range(100):
        monkeypatch.setenv(sampling.SEED, str(seed))
        taken |= set(sampling.sampled(CASES, 2))
    assert taken == set(CASES)


def test_a_full_run_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sampling.FULL, "1")
    assert sampling.sampled(CASES, 2) == CASES
    assert "whole" in sampling.header()


def test_more_than_there_are_is_all_of_them() -> None:
    assert sampling.sampled(CASES, 99) == CASES


def test_the_header_names_the_seed(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = pytestconfig.hook.pytest_report_header(config=pytestconfig, start_path=pytestconfig.rootpath)
    assert "matrices of cases: sampled, DIBCTL_TEST_SEED=42 (DIBCTL_TEST_FULL=1 runs all)" in lines


def test_a_seed_that_is_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    sampling.choose_seed()
    assert sampling.header().count("42") == 1
    monkeypatch.delenv(sampling.SEED)
    sampling.choose_seed()
    assert 0 <= int(sampling.header().split("SEED=")[1].split()[0]) < 1_000_000
