"""Broken images, booted for real: the cause that is named, how soon, and what is not believed."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import pytest

from pytest_dibctl.clouds.qemu import life, qmp
from pytest_dibctl.guest.boot_causes import Proof
from pytest_dibctl.image import artifact
from tests.qemu.test_qemu_cloud import Bench
from tests.support import boot_corpus
from tests.support.broken_images import CASES, Case
from tests.support.sampling import is_full, sampled

pytestmark = pytest.mark.real

QUICK = 20.0
"""Seconds after which a case is left to a full run."""
ON_QEMU = [case for case in CASES if case.engine == "qemu"]
KNOWN = [case for case in ON_QEMU if is_full() or boot_corpus.read(case.name).seconds < QUICK]


def case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@pytest.mark.parametrize("broken", sampled(KNOWN, 1), ids=lambda broken: str(broken.name))
def test_cause_of_a_broken_image_is_named(broken: Case, tmp_path: Path, micro_files: Path) -> None:
    record = boot_corpus.boot(dataclasses.replace(broken, wait=broken.wait * 2), tmp_path)
    assert record.cause == broken.cause
    assert f"[{broken.cause}]" in record.message.splitlines()[0]
    assert record.hint


def test_a_panic_is_reported_within_two_seconds_of_its_line(tmp_path: Path, micro_files: Path) -> None:
    """And not at the end of the wait; the time begins when the line is in the file that QEMU writes."""
    seen: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for console in Path(tmp_path).parent.glob("**/console.log"):
                if b"Kernel panic - not syncing" in console.read_bytes():
                    seen.append(time.monotonic())
                    return

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path))
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            record = boot_corpus.boot(dataclasses.replace(case("init-exits"), wait=120.0), tmp_path)
            reported = record.at
        finally:
            over.set()
            watcher.join()
    assert record.cause == "kernel-panic"
    assert reported - seen[0] < 2.0


@pytest.fixture
def imitation(tmp_path: Path, micro_files: Path) -> artifact.Artifact:
    """An image that prints a panic, is silent for some seconds, and then lets us in."""
    words = "[    5.0] Kernel panic - not syncing: an imitation"
    at_boot = f"echo '{words}' > /dev/console\nsleep 5"
    liar = Case(name="liar", broken="", cause="", at_boot=at_boot)
    return artifact.inspect(boot_corpus.make(liar, tmp_path))


def test_a_guest_that_imitates_a_panic_is_let_in(imitation: artifact.Artifact, tmp_path: Path) -> None:
    made = Bench(tmp_path / "run")
    with made.stack:
        instance = made.boot(imitation)
        access = made.ready(instance)
        assert "an imitation" in instance.console_output()
        assert access.run("true").returncode == 0
        control = instance.directory / "qmp.sock"
        assert not life.bears_out(control, "x86_64", Proof.KERNEL)
        assert not life.bears_out(control, "x86_64", Proof.FIRMWARE)
        assert life.in_long_mode(qmp.monitor(control, "info registers -a"))
        picture = instance.screenshot()
        assert picture.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(picture) > 1000
        assert not (instance.directory / "screen").exists()


def test_the_screen_of_a_failed_boot_is_kept_beside_the_logs(tmp_path: Path, micro_files: Path) -> None:
    logs = tmp_path / "logs"
    record = boot_corpus.boot(case("no-boot-loader"), tmp_path, logs=logs)
    assert record.cause == "no-bootable-device"
    (picture,) = logs.glob("*.screen.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert list(logs.glob("*.console.log"))
