"""A run with a prebuilt image and one test, against a bare script that does the same with the micro image."""

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

ROUNDS = 3
TEST = """
def test_it(ssh_access):
    assert ssh_access.run("true").returncode == 0
"""


def prepared(directory: Path, files: Path, username: str) -> Path:
    """Have an image and one test of it in ``directory``; return the image without its suffix.

    ``files`` is the image's file without its suffix; kernel and initrd lie beside it.
    """
    for suffix in ("qcow2", "vmlinuz", "initrd"):
        shutil.copy2(files.with_suffix(f".{suffix}"), directory / f"it.{suffix}")
    tests = [{"pytest": "test_it.py"}]
    (directory / "images.yaml").write_text(
        micro.images_yaml(filename="it.qcow2", label="it", tests=tests, username=username)
    )
    (directory / "test_it.py").write_text(TEST)
    return directory / "it"


def run(directory: Path) -> None:
    """Run pytest there, as a user does; raises SystemExit when it fails."""
    argv = [sys.executable, "-m", "pytest", "-q", "--dib-image=it", "--dib-build=never"]
    done = subprocess.run(
        [*argv, "-p", "no:hypothesispytest", "-p", "no:cacheprovider"],
        cwd=directory,
        env={name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def rows(rounds: str = str(ROUNDS)) -> Iterator[Row]:
    """Compare the two in turn."""
    with tempfile.TemporaryDirectory(prefix="session-") as name:
        directory = Path(name)
        image = prepared(directory, micro.cached() / "micro", "root")
        pair = paired.measure(
            lambda: run(directory), lambda: bare.boot_once(image, directory), rounds=int(rounds)
        )
    yield Row.of_pair("session, prebuilt micro image", pair, peer="a bare QEMU script")
