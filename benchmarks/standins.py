"""The tests' fake cloud, in a process of its own, so that its work is not charged to anybody."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.fake_openstack import FakeCloud

ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def served(module: str, *arguments: str) -> Iterator[str]:
    """Run a module that calls ``serve``; yields the address of its Keystone."""
    argv = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def serve(cloud: FakeCloud) -> None:
    """Serve a cloud until stdin ends, having said where."""
    from tests.support.fake_openstack import serving

    with serving(cloud):
        print(cloud.url, flush=True)
        sys.stdin.read()


def login(url: str, user: str) -> dict[str, str]:
    """Return a keystone section for a user of the fake cloud, in the project of that name."""
    return {"auth_url": url, "username": user, "password": "secret", "project_name": user}
