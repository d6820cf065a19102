"""The demo's list of tests in a container against the same list in a QEMU guest, of an image that is built.

The image is ``images/debian.qcow2``, as the README's first line leaves it. Each round is a whole command:
interpreter, collection, boot, tests, removal. Not usual: a round takes minutes where there is no KVM.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import paired

ROUNDS = 1
IMAGE = Path("images/debian.qcow2")


def main(rounds: str = str(ROUNDS)) -> None:
    """Compare the two engines ``rounds`` times, without a round to warm up, and a container's first test."""
    if not IMAGE.exists():
        raise SystemExit(f"{IMAGE} is not there: run `pytest --dib-image=debian` first")
    containers: list[float] = []
    guests: list[float] = []
    counts: dict[str, str] = {}
    firsts: list[float] = []
    for _ in range(int(rounds)):
        for environment, seconds in (("container", containers), ("local", guests)):
            taken, counts[environment], first = _run(environment)
            seconds.append(taken)
            if environment == "container":
                firsts.append(first)
    pair = paired.Pair(ours=tuple(containers), theirs=tuple(guests))
    paired.report("the demo's tests", pair, ours="container", theirs="local guest")
    for environment, said in counts.items():
        print(f"  {environment}: {said}")
    print(f"first test in a container: {statistics.median(firsts):.1f} s after the command began")


def _run(environment: str) -> tuple[float, str, float]:
    """Return the seconds of a run, its last line, and the seconds until its first test in the instance."""
    argv = [sys.executable, "-m", "pytest", "--dib-image=debian", f"--dib-env={environment}"]
    options = ["--dib-build=never", "-v", "-p", "no:cacheprovider"]
    started = time.perf_counter()
    first = 0.0
    last = ""
    with subprocess.Popen(
        [*argv, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            last = line.strip() or last
            if not first and re.match(r"image_tests/test_\w+\.py::\S+ PASSED", line):
                first = time.perf_counter() - started
    if run.returncode:
        raise SystemExit(f"{environment}: {last}")
    return time.perf_counter() - started, last.strip("= "), first
