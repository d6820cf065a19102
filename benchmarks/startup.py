"""What the plugin costs a pytest run that has nothing to do with images; the aim is at most 5 ms."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import paired

ROUNDS = 30


def main() -> None:
    """Compare ``pytest --collect-only`` on an empty file with and without the plugin."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "test_empty.py").touch()
        base = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider"]

        def collect(*extra: str) -> None:
            subprocess.run(
                [*base, *extra, "test_empty.py"], cwd=directory, stdout=subprocess.DEVNULL, check=False
            )

        pair = paired.measure(collect, lambda: collect("-p", "no:dibctl"), rounds=ROUNDS)
    paired.report("start-up", pair, ours="with the plugin", theirs="without")
