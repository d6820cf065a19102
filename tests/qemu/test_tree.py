"""An image's files without a guest: read-only, and gone whatever happens."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dibctl import artifact, process, tree
from tests.support import leaks

pytestmark = pytest.mark.real


def test_files_are_read_and_nothing_can_be_written(micro_files: Path, tmp_path: Path) -> None:
    image = micro_files / "micro.qcow2"
    before = hashlib.sha256(image.read_bytes()).hexdigest()
    with tree.opened(artifact.inspect(image), tmp_path / "tree") as opened:
        assert "ID=micro" in opened.read("/etc/os-release")
        assert opened.path("/../../bin/sh").name == "busybox"
        assert "/bin/busybox" in {item.name for item in opened.walk()}
        command = (
            "touch /x; echo 1 >/proc/sys/kernel/panic; mknod /tmp/n b 7 0; mount -t tmpfs x /mnt; echo $$"
        )
        said = process.run(opened.command(["/bin/sh", "-c", command]), join_stderr=True).output
        assert said.count("Read-only file system") == 2
        assert "Operation not permitted" in said
        with pytest.raises(OSError, match="Read-only"):
            (opened.root / "x").touch()
    assert hashlib.sha256(image.read_bytes()).hexdigest() == before
    assert not leaks.loop_devices(tmp_path)
    assert not (tmp_path / "tree").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from pytest_dibctl import artifact, tree
with tree.opened(artifact.inspect(Path(sys.argv[1])), Path(sys.argv[2])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_tool_leaves_no_process_and_no_loop_device(micro_files: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", KILLED, str(micro_files / "micro.qcow2"), str(tmp_path / "tree")]
    assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
    session = os.environ[leaks.MARKER]
    assert leaks.settled(lambda: set(leaks.processes(session).values())) == set()
    assert leaks.settled(lambda: leaks.loop_devices(tmp_path)) == set()
    tree.remove(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
