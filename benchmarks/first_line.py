"""The README's first line on a fresh clone: its last command, which builds, boots and tests the demo image.

The peer is what that took when the aim was set: build 78 s, ready 37 s, tests 115 s, the rest 34 s. The clone
and the installation of packages before it are not in either.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import demo
from benchmarks.rows import Row, seconds

THEN = 264.0


def rows(rounds: str = "1") -> Iterator[Row]:
    """Yield the row; each round begins with an empty cache."""
    taken: list[float] = []
    for _ in range(int(rounds)):
        with tempfile.TemporaryDirectory(prefix="clone-", dir="/var/tmp") as name:
            clone = Path(name, "clone")
            subprocess.run(["git", "clone", "-q", str(demo.ROOT), str(clone)], check=True)
            taken.append(seconds(lambda: _run(clone)))  # noqa: B023 -- called at once
    yield Row(
        figure="first line of the README",
        ours=tuple(taken),
        peer="when the aim was set",
        theirs=(THEN,) * len(taken),
    )


def _run(clone: Path) -> None:
    others = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env = {**others, "XDG_CACHE_HOME": str(clone.parent / "cache"), "PYTHONPATH": str(clone)}
    argv = [sys.executable, "-m", "pytest", "--dib-image=debian", "--junit-xml=junit.xml"]
    run = subprocess.run(
        [*argv, "-p", "no:hypothesispytest"], cwd=clone, env=env, capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(run.stdout[-2000:])
