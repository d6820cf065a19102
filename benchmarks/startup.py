"""What the plugin costs a pytest run that has nothing to do with images."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import paired
from benchmarks.rows import Row

ROUNDS = 20


def rows() -> Iterator[Row]:
    """Compare ``pytest --collect-only`` on an empty file with and without the plugin."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "test_empty.py").touch()
        base = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider"]

        def collect(*extra: str) -> None:
            subprocess.run(
                [*base, *extra, "test_empty.py"], cwd=directory, stdout=subprocess.DEVNULL, check=False
            )

        pair = paired.measure(collect, lambda: collect("-p", "no:dibctl"), rounds=ROUNDS)
    yield Row.of_pair("plugin in a run without images", pair, peer="pytest without it")
