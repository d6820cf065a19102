"""Four images on four workers against one worker.

Without arguments the cloud is the in-memory one of the tests, with a boot that takes BOOT seconds, about
what Nova needs: what is measured is how the run's steps overlap. On a real OpenStack, that of the tests, with
Nova's fake virt driver, they share this machine's cores with all of its services; it is started if none runs,
and its start is not measured:

    python -m benchmarks workers -- openstack

Other arguments are passed on to pytest, for any cloud: ``-- --dib-env=LABEL --dib-test-config=FILE``.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import paired
from benchmarks.rows import Row
from tests.openstack.cloud import sessions
from tests.openstack.cloud.layout import Layout
from tests.openstack.site import Site

ROUNDS = 1
IMAGES = 4
BOOT = 12.0
OPENSTACK = "openstack"
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


def rows(*arguments: str) -> Iterator[Row]:
    """Compare the wall time of ``-n4`` with that of ``-n1``."""
    with contextlib.ExitStack() as stack:
        here = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        what = " ".join(arguments) or f"in memory, boot {BOOT:g} s"
        prepare(here, memory=not arguments)
        variables: dict[str, str] = {}
        if arguments == (OPENSTACK,):
            keep = os.environ.get("DIBCTL_TEST_CLOUD") == "keep"
            cloud = stack.enter_context(sessions.using(Layout.at(None), keep=keep))
            site = Site(path=here, cloud=cloud, image=here / "image0.qcow2")
            (here / "test.yaml").write_text(json.dumps({OPENSTACK: site.environment()}))
            variables = site.environ()
            arguments = (f"--dib-env={OPENSTACK}",)

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
                **variables,
                "PYTHONPATH": str(ROOT),
                "MEMORY_CLOUD_LOG": str(here / "log"),
                "MEMORY_CLOUD_FAULTS": json.dumps({"boot_seconds": BOOT}),
            }
            done = subprocess.run(
                [*argv, *arguments], cwd=here, env=environment, capture_output=True, text=True, check=False
            )
            if f"{IMAGES * 4} passed" not in done.stdout:
                raise SystemExit(done.stdout + done.stderr)

        pair = paired.measure(lambda: run(IMAGES), lambda: run(1), rounds=ROUNDS, warm_up=False)
    yield Row.of_pair(f"{IMAGES} images on {IMAGES} workers", pair, peer=f"1 worker ({what})")


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
