"""When the first test begins after ``pytest --dib-env=container``, and when the first one in the instance.

Interpreter, collection and boot are in it; the image is built. The whole list is collected, as a user does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import demo
from benchmarks.rows import Row

ROUNDS = 5
LAST = "login"
"""The test in the instance that is waited for; later ones say nothing about the start."""


def rows(rounds: str = str(ROUNDS)) -> Iterator[Row]:
    """Yield both after one round to warm up."""
    demo.image()
    found = [_run() for _ in range(int(rounds) + 1)][1:]
    first, inside = zip(*found, strict=True)
    yield Row(figure="first test, container", ours=first, peer="the command's start")
    yield Row(figure="first test in the instance, container", ours=inside, peer="the command's start")


def _run() -> tuple[float, float]:
    """Return the seconds until the first test of any kind began, and the first one in the instance."""
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory, "clock")
        # Bytecode is kept: some images of containers set this.
        others = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env = {**others, "BENCH_CLOCK": str(log), "PYTHONPATH": str(demo.ROOT)}
        argv = [sys.executable, "-m", "pytest", "-q", "--dib-image=debian", "--dib-env=container"]
        options = ["--dib-build=never", "-p", "benchmarks.clock", "-p", "no:cacheprovider", "-p", OTHERS]
        selection = ["-k", f"tree or {LAST} or resolver"]
        started = time.time()
        run = subprocess.run(
            [*argv, *options, *selection], cwd=demo.ROOT, env=env, capture_output=True, text=True, check=False
        )
        if run.returncode:
            raise SystemExit(run.stdout[-2000:])
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    inside = next(line["time"] for line in lines if line["view"] == "instance")
    return lines[0]["time"] - started, inside - started


OTHERS = "no:hypothesispytest"
"""A plugin of this project's tests, not of a user's: it takes half a second to import."""
