"""What is left in the cloud when a run is ended in the middle: nothing, at once or after `dibctl cleanup`."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
import uuid

import pytest

from tests.openstack.site import Site, runs_left
from tests.support import leaks

MOMENTS = {
    "upload": "uploading micro.qcow2",
    "boot": "instance is ",
    "ready": "instance is ACTIVE",
    "test": "the test runs",
}
"""What a run says when it has come to a phase."""
IMAGE = r"dibctl-[0-9a-f]{8}-micro-[0-9a-f]{6}"
"""What a test image is called; its kernel and ramdisk have a further part."""


class Running:
    """A run whose output is read by a thread, so that it never blocks."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            self.lines.extend(output)

    def until(self, words: str) -> None:
        """Return once the run said ``words``; fail when it ends before, or after two minutes."""
        deadline = time.monotonic() + 120
        while not any(words in line for line in self.lines):
            if not self._reader.is_alive() or time.monotonic() > deadline:
                self.end(signal.SIGKILL)
                pytest.fail(f"the run did not say {words!r}:\n{''.join(self.lines)}")
            time.sleep(0.01)

    def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        try:
            return self.process.wait(90)
        finally:
            self.process.kill()
            self._reader.join(30)


def started(site: Site, moment: str, *options: str) -> Running:
    """Return a run that has come to ``moment``."""
    fixture = "ssh_access" if moment == "ready" else "instance"
    (site.path / "test_it.py").write_text(
        f"import sys, time\ndef test_it({fixture}):\n"
        "    print('the test runs', file=sys.__stderr__, flush=True)\n    time.sleep(120)\n"
    )
    site.write({"here": site.environment(wait=120)}, [{"pytest": "test_it.py"}])
    run = Running(site.start("pytest", "-p", "no:cacheprovider", "-s", "-v", "--dib-image=micro", *options))
    run.until(MOMENTS[moment])
    if moment == "ready":
        time.sleep(3)  # the addresses are looked up first; then nothing is said for half a minute
    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_ends_a_run_with_everything_removed(site: Site, moment: str, number: signal.Signals) -> None:
    run = started(site, moment)
    assert run.end(number) == pytest.ExitCode.INTERRUPTED, run.lines
    assert site.left_at_last() == set()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_guardian_removes_what_a_killed_run_left(site: Site, moment: str) -> None:
    run = started(site, moment)
    run.end(signal.SIGKILL)
    assert leaks.settled(lambda: site.left() | set(runs_left()), seconds=90) == set()


@pytest.mark.parametrize("moment", MOMENTS)
def test_cleanup_removes_what_a_killed_run_left(site: Site, moment: str) -> None:
    run = started(site, moment, "--dib-keep-on-kill")
    run.end(signal.SIGKILL)
    assert site.left() != set()
    foreseen = site.dibctl("cleanup", "--dry-run")
    assert "would be removed" in foreseen.stdout
    assert site.left() != set()
    removed = site.dibctl("cleanup")
    assert removed.returncode == 0, removed.stdout
    assert site.left_at_last() == set()


def test_cleanup_removes_nothing_that_is_only_named_alike(site: Site) -> None:
    """A foreign server and image with the run's own names, but without its marks."""
    run = started(site, "test", "--dib-keep-on-kill")
    run.end(signal.SIGKILL)
    with site.cloud.connected("demo") as demo:
        [server] = [one for one in demo.compute.servers() if one.name.startswith("dibctl-micro-")]
        [image] = [one for one in demo.image.images() if re.fullmatch(IMAGE, one.name)]
        foreign_image = demo.image.create_image(
            name=image.name, disk_format="raw", container_format="bare", data=b"0" * 1024
        )
        foreign_server = demo.compute.create_server(
            name=server.name,
            flavor_id=demo.compute.find_flavor(site.cloud.flavor_nano, ignore_missing=False).id,
            image_id=image.id,
            networks=[{"uuid": site.network()}],
            availability_zone=site.cloud.zone_fake,
        )
        try:
            removed = site.dibctl("cleanup")
            # It says that a server of the recorded name is not ours, and goes on with the rest.
            assert removed.returncode == 1, removed.stdout
            assert "does not bear this project's mark" in removed.stdout
            assert demo.image.get_image(foreign_image.id).status == "active"
            assert demo.compute.get_server(foreign_server.id).status in {"ACTIVE", "BUILD"}
            assert demo.compute.find_server(server.id, ignore_missing=True) is None
            assert demo.image.find_image(image.id, ignore_missing=True) is None
        finally:
            demo.compute.delete_server(foreign_server.id, ignore_missing=True)
            demo.compute.wait_for_delete(foreign_server, interval=0.3, wait=60)
            demo.image.delete_image(foreign_image.id, ignore_missing=True)
        assert site.dibctl("cleanup").returncode == 0


def test_two_projects_with_images_of_the_same_name(site: Site) -> None:
    run = started(site, "test", "--dib-keep-on-kill")
    run.end(signal.SIGKILL)
    with (
        site.cloud.connected("demo") as demo,
        site.cloud.connected("other") as other,
    ):
        [image] = [one for one in demo.image.images() if re.fullmatch(IMAGE, one.name)]
        theirs = other.image.create_image(
            name=image.name,
            tags=list(image.tags),
            disk_format="raw",
            container_format="bare",
            data=uuid.uuid4().bytes,
        )
        try:
            removed = site.dibctl("cleanup")
            assert removed.returncode == 0, removed.stdout
            assert other.image.get_image(theirs.id).status == "active"
        finally:
            other.image.delete_image(theirs.id)
