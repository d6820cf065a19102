"""Four images on four workers against one worker.

Without arguments the cloud is the in-memory one of the tests, with a boot that takes BOOT seconds, about
what Nova needs: what is measured is how the run's steps overlap. Arguments are passed on to pytest, so that
a real cloud can be measured in the same way:

    python -m benchmarks workers -- --dib-env=LABEL --dib-test-config=FILE
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import paired

ROUNDS = 2
IMAGES = 4
BOOT = 12.0
OTHERS = ("-p", "no:randomly", "-p", "no:hypothesispytest")
"""Plugins that happen to be installed; hypothesis alone takes seconds to start and to end."""
ROOT = Path(__file__).parents[1]

CONFTEST = """
def pytest_configure(config):
    from tests.support import memory

    memory.install()
"""
TESTS = """
import pytest, time

@pytest.mark.parametrize("number", range(4))
def test_it(instance, number):
    time.sleep(0.25)
"""


def main(*arguments: str) -> None:
    """Compare the wall time of ``-n4`` with that of ``-n1``."""
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        prepare(here, memory=not arguments)

        def run(workers: int) -> None:
            argv = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                *OTHERS,
                "--dib-image=all",
                f"-n{workers}",
            ]
            environment = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "MEMORY_CLOUD_LOG": str(here / "log"),
                "MEMORY_CLOUD_FAULTS": json.dumps({"boot_seconds": BOOT}),
            }
            done = subprocess.run(
                [*argv, *arguments], cwd=here, env=environment, capture_output=True, text=True, check=False
            )
            if f"{IMAGES * 4} passed" not in done.stdout:
                raise SystemExit(done.stdout + done.stderr)

        pair = paired.measure(lambda: run(IMAGES), lambda: run(1), rounds=ROUNDS)
    what = " ".join(arguments) or f"in memory, boot {BOOT:g} s"
    paired.report(f"{IMAGES} images ({what})", pair, ours=f"{IMAGES} workers", theirs="1 worker")


def prepare(here: Path, *, memory: bool) -> None:
    """Write images that need no build, and four tests of a quarter of a second for each."""
    images = {}
    for number in range(IMAGES):
        file = here / f"image{number}.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", file, "1M"], check=True)
        tests = {"ssh": {"username": "debian"}, "tests_list": [{"pytest": "test_it.py"}]}
        images[f"image{number}"] = {"filename": file.name, "tests": tests}
    (here / "images.yaml").write_text(json.dumps(images))
    (here / "test_it.py").write_text(TESTS)
    if memory:
        (here / "conftest.py").write_text(CONFTEST)
