"""A run with a prebuilt micro image and one test, against a bare script that does the same with QEMU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import bare, paired
from benchmarks.rows import Row
from tests.support import micro

ROUNDS = 5
TEST = """
def test_it(ssh_access):
    assert ssh_access.run("true").returncode == 0
"""


def prepared(directory: Path) -> Path:
    """Have the micro image and one test of it in ``directory``; return the image without its suffix."""
    for path in micro.cached().glob("micro.*"):
        shutil.copy2(path, directory)
    (directory / "images.yaml").write_text(
        micro.images_yaml(filename="micro.qcow2", tests=[{"pytest": "test_it.py"}])
    )
    (directory / "test_it.py").write_text(TEST)
    return directory / "micro"


def rows(rounds: str = str(ROUNDS)) -> Iterator[Row]:
    """Compare the two in turn."""
    with tempfile.TemporaryDirectory(prefix="session-") as name:
        directory = Path(name)
        image = prepared(directory)
        argv = [sys.executable, "-m", "pytest", "-q", "--dib-image=micro", "--dib-build=never"]
        others = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

        def ours() -> None:
            run = subprocess.run(
                [*argv, "-p", "no:hypothesispytest", "-p", "no:cacheprovider"],
                cwd=directory,
                env=others,
                capture_output=True,
                text=True,
                check=False,
            )
            if run.returncode:
                raise SystemExit(run.stdout + run.stderr)

        pair = paired.measure(ours, lambda: bare.boot_once(image, directory), rounds=int(rounds))
    yield Row.of_pair("session, prebuilt micro image", pair, peer="a bare QEMU script")
