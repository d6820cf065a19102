"""Control groups of the second version, on a machine that has no other: a guest with the micro image."""

from __future__ import annotations

import json
import sys
import sysconfig
from pathlib import Path

import pytest

from pytest_dibctl.system import process
from tests.support import guest

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
LEFT_OUT = (
    "test",
    "idlelib",
    "ensurepip",
    "lib2to3",
    "tkinter",
    "site-packages",
    "dist-packages",
    "__pycache__",
)
"""Folders of Python's library that are of no use there."""
PACK = """
set -eu
mkdir "$1/micro"
mount -o loop,ro "$0" "$1/micro"
mkdir "$1/tree"
cp -a "$1/micro/." "$1/tree/"
shift
tar -C / -c --dereference --exclude-from="$1/excluded" -T "$1/included" |
    tar -C "$1/tree" -x --keep-directory-symlink
mke2fs -q -t ext4 -d "$1/tree" "$1/disk.raw" 400M
"""
RUN = """#!/bin/sh
mkdir -p /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup || exit 9
cd {root} && exec {python} -B -m tests.support.unified 2>&1
"""


def with_python(micro_files: Path, directory: Path) -> Path:
    """Return the micro image with this Python and this project in it."""
    python = Path(sys.executable).resolve()
    programs = [python, *Path(sysconfig.get_path("platstdlib"), "lib-dynload").glob("*.so")]
    linked = process.run(["ldd", *map(str, programs)]).output.split()
    libraries = {word for word in linked if word.startswith("/") and not word.endswith(":")}
    needed = {str(python), sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *libraries}
    needed |= {str(ROOT / "pytest_dibctl"), *(str(ROOT / f"tests/{n}") for n in ("__init__.py", "support"))}
    (directory / "included").write_text("".join(f"{name.lstrip('/')}\n" for name in sorted(needed)))
    (directory / "excluded").write_text("".join(f"{name}\n" for name in LEFT_OUT))
    source = directory / "micro.raw"
    process.run(["qemu-img", "convert", "-O", "raw", str(micro_files / "micro.qcow2"), str(source)])
    argv = ["unshare", "--mount", "--fork", "sh", "-c", PACK, str(source), str(directory), str(directory)]
    process.run(argv, join_stderr=True, timeout=120)
    return directory / "disk.raw"


def test_looking_changes_nothing_and_making_limits(micro_files: Path, tmp_path: Path) -> None:
    disk = with_python(micro_files, tmp_path)
    script = RUN.format(root=ROOT, python=Path(sys.executable).resolve())
    files = {"meta-data": json.dumps({"instance-id": "i-1"}), "vendor-data": "", "user-data": script}
    seed = guest.iso(tmp_path / "seed.iso", label="cidata", files=files)
    with guest.running(
        tmp_path,
        disk=disk,
        seed=seed,
        kernel=micro_files / "micro.vmlinuz",
        initrd=micro_files / "micro.initrd",
    ) as running:
        running.wait_for_console("user data exited with", timeout=180)
        assert "user data exited with 0" in running.console, running.console[-3000:]
