"""Images spoiled on purpose: copies of a good one, changed without mounting anything."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_dibctl.system import process

PATIENCE = 30.0
"""Seconds an export may take to appear."""


def make(
    base: Path, path: Path, *, files: Mapping[str, str] | None = None, commands: Sequence[str] = ()
) -> Path:
    """Make ``path``, a copy of the ext4 filesystem image ``base`` in qcow2, and change what is in it.

    ``files`` are written, name in the image to content; ``commands`` are debugfs's, which takes names for
    new files in its current directory only, at first the root. Companions of the image,
    kernel and initial ramdisk, are linked beside it.
    """
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(path)])
    for suffix in (".vmlinuz", ".initrd"):
        path.with_suffix(suffix).symlink_to(base.with_suffix(suffix))
    source = path.with_suffix(".new")
    for name, content in (files or {}).items():
        source.write_text(content)
        folder, _, last = name.rpartition("/")
        _change(path, [f"cd {folder or '/'}", f"rm {last}", f"write {source} {last}"])
        source.unlink()
    _change(path, commands)
    # An overlay is no image by itself, and refused.
    whole = path.with_suffix(".whole")
    process.run(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", str(path), str(whole)])
    whole.replace(path)
    return path


def _change(overlay: Path, commands: Sequence[str]) -> None:
    disk = overlay.with_suffix(".disk")
    script = overlay.with_suffix(".debugfs")
    disk.touch()
    script.write_text("\n".join(commands) + "\n")
    export = {"type": "fuse", "id": "e", "node-name": "image", "mountpoint": str(disk), "writable": True}
    node = {"driver": "qcow2", "node-name": "image", "file": {"driver": "file", "filename": str(overlay)}}
    argv = ["qemu-storage-daemon", f"--blockdev={json.dumps(node)}", f"--export={json.dumps(export)}"]
    with subprocess.Popen(argv) as daemon:
        try:
            deadline = time.monotonic() + PATIENCE
            while not disk.stat().st_size and time.monotonic() < deadline:
                time.sleep(0.02)
            said = process.run(["debugfs", "-w", "-f", str(script), str(disk)], join_stderr=True).output
        finally:
            daemon.terminate()  # it unmounts, and writes what it has not yet
    usual = ("debugfs", "Allocated", "rm: File not found", "Filesystem features")
    complaints = [line for line in said.splitlines() if line and not line.startswith(usual)]
    assert not complaints, said
    disk.unlink()
    script.unlink()
