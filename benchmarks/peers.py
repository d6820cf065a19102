"""Builds of an image with the demo's packages by other tools: mmdebstrap by hand, and Debian's mkosi."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rows import seconds

SUITE = "bookworm"
SIZE = "4G"
LONGEST = 900.0
"""Seconds that a build may take."""
_NOT_PACKAGES = ("ii", "hi")


def packages(manifests: Path) -> list[str]:
    """Return the packages of a built image, of which its directory of manifests tells."""
    (manifest,) = manifests.glob("dib-manifest-dpkg-*")
    listed = json.loads(manifest.read_text())["packages"]
    return [one["package"] for one in listed if one["status"].strip() in _NOT_PACKAGES]


def by_hand(directory: Path, wanted: Sequence[str], sources: Sequence[str], compression: str) -> float:
    """Return the seconds of mmdebstrap, mke2fs and qemu-img in a row; ``sources`` are apt's lines.

    Raises SystemExit.
    """
    root, raw, image = directory / "root", directory / "image.raw", directory / "image.qcow2"
    convert = ["-c", "-O", "qcow2", "-o", f"compression_type={compression}"]
    steps = [
        ["mmdebstrap", "--variant=minbase", f"--include={','.join(wanted)}", SUITE, str(root), *sources],
        ["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(raw), SIZE],
        ["qemu-img", "convert", *convert, str(raw), str(image)],
    ]
    taken = sum(seconds(functools.partial(_run, step, directory)) for step in steps)
    shutil.rmtree(root)
    raw.unlink()
    return taken


def mkosi(directory: Path, wanted: Sequence[str], mirror: str) -> tuple[float, float]:
    """Return the seconds of a clean build to a directory, and of one from the cache; raises SystemExit.

    A directory, as images with partitions need devices that some machines do not have; the other tools'
    times have a filesystem and its compression besides.
    """
    options = ["-d", "debian", "-r", SUITE, "-t", "directory", "-o", "out", "--mirror", mirror]
    options += ["--with-network", "--nspawn-keep-unit", "--cache", "cache", "--incremental", "--force"]
    (directory / "cache").mkdir()
    argv = ["mkosi", *options, "-p", ",".join(wanted), "build"]
    clean, again = (seconds(lambda: _run(argv, directory)) for _ in range(2))
    return clean, again


def _run(argv: Sequence[str], directory: Path) -> None:
    if shutil.which(argv[0]) is None:
        raise SystemExit(f"{argv[0]} is not installed")
    run = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False, timeout=LONGEST)
    if run.returncode:
        last = ["it said nothing", *(run.stdout + run.stderr).strip().splitlines()][-1]
        raise SystemExit(f"{argv[0]} failed: {last}")
