"""For all tests: signals as in a terminal, bytecode that is kept, the seed of sampled cases, CI's report."""

from __future__ import annotations

import gc
import os
import signal

import pytest

from tests.support import reporting, sampling

# Images of containers set it; every process that a test starts would compile all modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sampling.choose_seed()  # before the first module of tests is collected, and before a worker is started


def pytest_configure(config: pytest.Config) -> None:
    """Undo what a script does to commands in its background: they, and their children, ignore SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    reporting.register(config)


def pytest_collection_finish() -> None:
    """Have Python's collector leave the collected tests and all modules alone: they stay to the end."""
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str:
    """Name the seed."""
    return sampling.header()
