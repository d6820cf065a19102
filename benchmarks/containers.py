"""The demo's list of tests in a container against the same list in a QEMU guest, of an image that is built.

Each round is a whole command: interpreter, collection, boot, tests, removal. Not usual: a round takes minutes
where there is no KVM.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks import demo, paired
from benchmarks.rows import Row

ROUNDS = 1


def rows(rounds: str = str(ROUNDS)) -> Iterator[Row]:
    """Compare the two engines ``rounds`` times, without a round to warm up."""
    demo.image()
    pair = paired.measure(lambda: _run("container"), lambda: _run("local"), rounds=int(rounds), warm_up=False)
    yield Row.of_pair("demo list in a container", pair, peer="in a QEMU guest")


def _run(environment: str) -> None:
    argv = [sys.executable, "-m", "pytest", "-q", "--dib-image=debian", f"--dib-env={environment}"]
    run = subprocess.run(
        [*argv, "--dib-build=never", "-p", "no:cacheprovider"],
        cwd=demo.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise SystemExit(f"{environment}: {run.stdout[-2000:]}")
