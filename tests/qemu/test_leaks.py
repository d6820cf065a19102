"""The check for leftovers sees what is left, names it, and is not misled by what others do."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_dibctl.system import process
from tests.support import leaks


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[str]]:
    with process.spawn(["sleep", "600"], env={leaks.MARKER: "theirs"}) as started:
        yield started


def test_process_is_told_by_its_mark(sleeper: subprocess.Popen[str]) -> None:
    leaks.settled(lambda: set() if sleeper.pid in leaks.processes("theirs") else {"not yet"})
    assert leaks.processes("theirs") == {sleeper.pid: "sleep 600"}
    assert leaks.processes("ours") == {}


def test_zombie_is_no_process(sleeper: subprocess.Popen[str]) -> None:
    sleeper.kill()
    assert leaks.settled(lambda: {str(pid) for pid in leaks.processes("theirs")}) == set()
    assert Path(f"/proc/{sleeper.pid}").exists()


@pytest.mark.real
def test_mount_and_loop_device(tmp_path: Path) -> None:
    image, point = tmp_path / "image", tmp_path / "point"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(4 * 1024 * 1024)
    process.run(["mkfs.ext4", "-q", str(image)])
    device = process.run(["losetup", "--find", "--show", str(image)]).output.strip()
    try:
        process.run(["mount", device, str(point)])
        try:
            assert leaks.mounts(tmp_path) == {str(point)}
            assert leaks.loop_devices(tmp_path) == {f"{device}: {image}"}
            assert leaks.mounts(point / "deeper") == set()
        finally:
            process.run(["umount", str(point)])
    finally:
        process.run(["losetup", "--detach", device])
    assert leaks.mounts(tmp_path) == set()
    assert leaks.settled(lambda: leaks.loop_devices(tmp_path)) == set()


def test_leaking_test_fails_and_the_next_one_passes(pytester: pytest.Pytester) -> None:
    root = Path(__file__).resolve().parents[2]
    pytester.makeconftest(
        f"import sys; sys.path.insert(0, {str(root)!r})\nfrom tests.qemu.conftest import *\n"
        "from tests.qemu.conftest import _no_leftovers, _test_leaves_nothing\n"
        "from tests.support import leaks\nleaks.PATIENCE = 2.0\n"  # what is left here stays
    )
    pytester.makepyfile(
        """
        import subprocess, tempfile

        started = []

        def test_leaks():
            tempfile.mkdtemp(prefix="dibctl-")
            started.append(subprocess.Popen(["sleep", "601"]))

        def test_is_clean():
            started[0].kill()
            started[0].wait()
        """
    )
    result = pytester.runpytest_subprocess(
        *("-p", "no:cacheprovider", "-p", "no:dibctl"),
        *("-p", "no:randomly"),  # its second test needs the first
    )
    # The file is there to the end: it is the session's leftover too.
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(["the test left behind:", "file */dibctl-*", "process *: sleep 601"])
    result.stdout.fnmatch_lines(["the session left behind:", "file */dibctl-*"])
