"""What the log of a build tells: phases, costly scripts, and the lines that say why it failed."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_dibctl.build.log import KEPT, Watcher

TABLE = """\
dib-run-parts ----------------------- PROFILING -----------------------
dib-run-parts
dib-run-parts Target: {phase}
dib-run-parts
dib-run-parts Script                                     Seconds
dib-run-parts ---------------------------------------  ----------
dib-run-parts
{rows}
dib-run-parts
dib-run-parts --------------------- END PROFILING ---------------------
"""


def table(phase: str, **scripts: float) -> str:
    rows = "\n".join(f"dib-run-parts {name:<40} {seconds:>10.3f}" for name, seconds in scripts.items())
    return TABLE.format(phase=phase, rows=rows)


@dataclasses.dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Log:
    """A watcher, a clock to set and what it told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.told: list[str] = []
        self.watcher = Watcher(self.told.append, self.clock)

    def feed(self, text: str, *, after: float = 0.0, stamped: bool = True) -> None:
        self.clock.now += after
        for line in text.splitlines():
            self.watcher.feed(f"2026-01-31 23:59:59.123 | {line}\n" if stamped else f"{line}\n")


@pytest.mark.parametrize("stamped", [True, False])
def test_phases_are_told_when_they_change_with_the_seconds_of_the_last(stamped: bool) -> None:
    log = Log()
    log.feed("dibctl step: prepare", stamped=stamped)
    log.feed("dib-run-parts Running /build/dib_build.x/hooks/root.d/08-bootstrap", after=2, stamped=stamped)
    log.feed("dib-run-parts 08-bootstrap completed", after=30, stamped=stamped)
    log.feed("dib-run-parts Running /build/dib_build.x/hooks/root.d/20-more", stamped=stamped)
    log.feed("dib-run-parts Running /tmp/in_target.d/install.d/01-packages", after=7, stamped=stamped)
    log.feed("Converting image using qemu-img convert", after=60, stamped=stamped)
    log.clock.now += 3
    log.watcher.finish()
    assert log.told == [
        "prepare",
        "root.d (prepare took 2 s)",
        "install.d (root.d took 37 s)",
        "convert (install.d took 60 s)",
    ]
    assert log.watcher.phases == {"prepare": 2.0, "root.d": 37.0, "install.d": 60.0, "convert": 3.0}


def test_the_costliest_scripts_come_from_the_profiling_tables() -> None:
    log = Log()
    log.feed(table("root.d", **{"08-bootstrap": 23.916, "09-keyring": 0.003}))
    log.feed(table("install.d", **{"01-package-installs": 56.329, "20-stty": 0.006}))
    assert log.watcher.expensive(2) == {
        "install.d/01-package-installs": 56.329,
        "root.d/08-bootstrap": 23.916,
    }


def test_a_long_silence_is_broken_every_ten_seconds() -> None:
    log = Log()
    log.feed("dib-run-parts Running /tmp/in_target.d/install.d/01-packages")
    for _ in range(25):
        log.feed("Get:1 a package", after=1)
        log.watcher.tick()
    assert log.told == [
        "install.d",
        "install.d/01-packages, 10 s so far",
        "install.d/01-packages, 20 s so far",
    ]


FAILED_SCRIPT = """\
dib-run-parts Running /tmp/in_target.d/install.d/04-before
an error in the script before, which went well after all
dib-run-parts 04-before completed
dib-run-parts Running /tmp/in_target.d/install.d/05-sources
+ set -eu
+ [ -z ]
+ echo SOURCES must be set
SOURCES must be set
+ exit 1
++ diskimage_builder/lib/img-functions:run_in_target:58      :   check_break after-error run_in_target bash
+ diskimage_builder/lib/img-functions:trap_cleanup:35        :   exitval=1
Unmount /build/mnt/sys
INFO diskimage_builder.block_device.blockdevice [-] State already cleaned
sudo: a complaint of the cleanup
"""


def test_a_failing_script_is_named_with_what_it_said() -> None:
    log = Log()
    log.feed(FAILED_SCRIPT)
    failure = log.watcher.failure()
    assert failure.where == "install.d/05-sources"
    assert failure.lines == ("SOURCES must be set",)


def test_without_tracing_the_cleanup_is_known_by_its_unmounting() -> None:
    log = Log()
    log.feed(
        "dib-run-parts Running /b/hooks/root.d/10-root\ncp: cannot stat '/x'\nUnmount /b/mnt/dev\nrm: busy"
    )
    assert log.watcher.failure().lines == ("cp: cannot stat '/x'",)


FAILED_DEVICE = """\
INFO diskimage_builder.block_device.blockdevice [-] create() called
something of no interest
ERROR diskimage_builder.block_device.blockdevice [-] Create failed; rollback initiated
Traceback (most recent call last):
  File "/x/blockdevice.py", line 421, in cmd_create
    node.create()
diskimage_builder.block_device.exception.BlockDeviceSetupException: exec_sudo failed:
Total journal size too big for filesystem.
ERROR diskimage_builder.block_device.blockdevice [-] Rollback complete, exiting
Traceback (most recent call last):
  File "/x/blockdevice.py", line 421, in cmd_create
diskimage_builder.block_device.exception.BlockDeviceSetupException: exec_sudo failed:
Total journal size too big for filesystem.
"""


def test_a_failing_block_device_is_told_once_and_without_tracebacks() -> None:
    log = Log()
    log.feed(FAILED_DEVICE)
    failure = log.watcher.failure()
    assert failure.where == "image"
    assert failure.lines == (
        "Create failed; rollback initiated",
        "diskimage_builder.block_device.exception.BlockDeviceSetupException: exec_sudo failed:",
        "Total journal size too big for filesystem.",
    )


def test_a_complaint_that_lies_far_back_in_a_script_is_found() -> None:
    log = Log()
    log.feed("dib-run-parts Running /tmp/in_target.d/install.d/01-packages")
    log.feed("E: Unable to locate package nonesuch")
    log.feed("\n".join(f"line {number}" for number in range(50)))
    lines = log.watcher.failure().lines
    assert lines[:2] == ("E: Unable to locate package nonesuch", "[...]")
    assert lines[-1] == "line 49"


def test_a_flood_of_lines_is_not_kept() -> None:
    log = Log()
    log.feed("dib-run-parts Running /tmp/in_target.d/install.d/01-packages")
    log.feed("\n".join(f"line {number}" for number in range(10 * KEPT)))
    assert len(log.watcher._said) == KEPT


def test_the_time_that_is_left_is_what_the_rest_took_last_time() -> None:
    log = Log()
    log.watcher = Watcher(log.told.append, log.clock, expected={"root.d": 30, "install.d": 60, "convert": 10})
    log.feed("dib-run-parts Running /x/hooks/root.d/08-a")
    log.feed("dib-run-parts Running /x/hooks/install.d/10-b", after=25)
    log.clock.now += 15
    log.watcher.tick()
    log.feed("dib-run-parts Running /x/hooks/post-install.d/10-c")
    log.feed("Converting image using qemu-img convert")
    log.clock.now += 20
    log.watcher.tick()
    assert log.told == [
        "root.d (about 100 s left)",
        "install.d (root.d took 25 s, about 70 s left)",
        "install.d/10-b, 15 s so far, about 55 s left",
        "post-install.d (install.d took 15 s)",
        "convert (post-install.d took 0 s, about 10 s left)",
        "convert, 20 s so far",
    ]
