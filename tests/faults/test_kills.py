"""A run is ended in every phase, by every signal, in every one of its processes; nothing stays.

The services are in memory, behind a real server; the run, its workers and its guardian are real processes.
A call that a phase hangs in is answered only after the signal: what it asked for is made all the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from tests.faults.conftest import Table
from tests.faults.stage import LABEL, PASSWORD, fake_cloud, write
from tests.plugin.conftest import ROOT
from tests.support import leaks
from tests.support.fake_openstack import FakeCloud
from tests.support.fake_openstack.messages import TOKEN, Answer, Request
from tests.support.fake_openstack.server import Server, serving_backend
from tests.support.plugins import without

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
MODES = ("single", "controller", "worker", "all")
"""Who gets the signal; all of a run's processes get it from a terminal, or from a job's end."""
HELD: Mapping[str, tuple[str, str]] = {
    "upload": ("PUT", "/file"),
    "keypair": ("POST", "/os-keypairs"),
    "create": ("POST", "/servers"),
    "teardown": ("DELETE", "/servers/"),
}
"""The calls in which a run hangs when its phase is to be the one it dies in."""
PHASES = ("build", "upload", "keypair", "create", "active", "ssh", "test", "teardown")
PATIENCE = 90.0
"""Seconds in which a run on a busy machine comes to its phase, or to its end."""
SWEPT = 40.0
"""Seconds that a guardian has."""
TEST = """
import os, sys, time
from pathlib import Path

def test_it({fixture}):
    Path("started").write_text(str(os.getpid()))
    time.sleep({seconds})
"""


@dataclasses.dataclass(kw_only=True)
class Site:
    """A project whose environment lies in the services in memory."""

    path: Path
    temporary: Path
    cloud: FakeCloud
    server: Server
    marker: str
    held: threading.Event = dataclasses.field(default_factory=threading.Event)
    released: threading.Event = dataclasses.field(default_factory=threading.Event)

    def hold(self, method: str, path: str) -> None:
        """Have the first such call wait until it is released."""
        usual = self.server.backend

        def backend(request: Request) -> Answer:
            if request.method == method and path in request.path and not self.held.is_set():
                request.receive()
                self.held.set()
                self.released.wait(PATIENCE)
            return usual(request)

        self.server.backend = backend

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        """Start a Python module with arguments."""
        with (self.path / "output").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", *argv],
                cwd=self.path,
                env=self.environ(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )

    def environ(self) -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        return {
            **plain,
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": f"{ROOT / 'tests/support/site'}{os.pathsep}{ROOT}",
            "PYTEST_ADDOPTS": " ".join(without()),
            "FAULTS_IN_FLIGHT": "4",
            leaks.MARKER: self.marker,
        }

    def said(self) -> str:
        return (self.path / "output").read_text(errors="replace")

    def left(self) -> set[str]:
        """Return everything that a run may not leave."""
        processes = leaks.processes(self.marker).items()
        return {
            *self.cloud.left(),
            *(f"process {pid}: {line}" for pid, line in processes),
            *(f"mount {point}" for point in leaks.mounts(self.path)),
            # pytest itself keeps the directories of its last runs.
            *(f"file {path}" for path in leaks.files(self.temporary) if "/pytest-of-" not in path),
            *(f"loop device {device}" for device in leaks.loop_devices(self.path)),
        }


@contextlib.contextmanager
def site_in(place: Path, marker: str) -> Iterator[Site]:
    """An empty project below ``place``, and services of its own."""
    path, temporary = place / "project", place / "t"
    path.mkdir()
    temporary.mkdir()
    cloud = fake_cloud()
    with serving_backend(cloud.handle) as server:
        yield Site(path=path, temporary=temporary, cloud=cloud, server=server, marker=marker)


@pytest.fixture
def site(place: Path) -> Iterator[Site]:
    with site_in(place, uuid.uuid4().hex) as made:
        try:
            yield made
        finally:
            made.released.set()
            for pid in leaks.processes(made.marker):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def add_foreign(cloud: FakeCloud) -> set[str]:
    """Put things there that look like ours and are not; return what is there then."""
    image = cloud.add_image("dibctl-01234567-image-abcdef", tags=("dibctl-test",))
    server = cloud.add_server("dibctl-image-01234567", {"dibctl": "mine"}, image={"id": image})
    cloud.add_snapshot(server, "dibctl-image-01234567-before")
    return cloud.left()


def until(holds: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def configure(site: Site, phase: str) -> Callable[[], object]:
    """Write a project that hangs in a phase; return what tells that it does."""
    fixture = "ssh_access" if phase == "ssh" else "instance"
    seconds = 0 if phase == "teardown" else 300
    (site.path / "test_it.py").write_text(TEST.format(fixture=fixture, seconds=seconds))
    write(site.path, site.server.url, tests=[{"pytest": "test_it.py"}], active_timeout=120)
    if phase in HELD:
        site.hold(*HELD[phase])
        return site.held.is_set
    if phase == "build":
        _hang_in_the_build(site)
        return (site.path / "building").exists
    if phase == "active":
        site.cloud.builds = 300.0
        return lambda: "instance is BUILD" in site.said()
    if phase == "ssh":
        since: list[float] = []
        return lambda: _has_waited(site, since)
    return (site.path / "started").exists


def _has_waited(site: Site, since: list[float]) -> bool:
    """Whether the instance has had its last address for a second: then its ssh server is waited for."""
    if site.cloud.floating and not since:
        since.append(time.monotonic())
    return bool(since) and time.monotonic() - since[0] > 1.0


def _hang_in_the_build(site: Site) -> None:
    (site.path / "image.qcow2").rename(site.path / "blank.qcow2")
    document = yaml.safe_load((site.path / "images.yaml").read_text())
    (site.path / "hang.sh").write_text("echo $$ > building\nsleep 300\n")
    document[LABEL]["external_build"] = [{"cmdline": "sh hang.sh"}]
    (site.path / "images.yaml").write_text(yaml.safe_dump(document))


def send(run: subprocess.Popen[bytes], mode: str, number: signal.Signals) -> None:
    """Send a signal to those processes of a run that shall get it."""
    if mode == "all":
        os.killpg(run.pid, number)
    elif mode == "worker":
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        lines = {}
        for pid in children:
            with contextlib.suppress(OSError):  # it has just ended
                lines[int(pid)] = Path(f"/proc/{pid}/cmdline").read_bytes()
        [worker] = [pid for pid, line in lines.items() if b"sys.stdin.readline" in line]
        os.kill(worker, number)
    else:
        run.send_signal(number)


@pytest.mark.one_in(7)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("phase", PHASES)
def test_nothing_stays(site: Site, table: Table, phase: str, number: signal.Signals, mode: str) -> None:
    started = time.monotonic()
    foreign = add_foreign(site.cloud)
    reached = configure(site, phase)
    workers = {"single": (), "all": ("-n2",)}.get(mode, ("-n1",))
    run = site.start("pytest", "-p", "no:cacheprovider", "--dib-image=all", "-v", *workers)
    try:
        until(lambda: reached() or run.poll() is not None, PATIENCE)
        assert reached(), f"{phase} was never reached:\n{site.said()}"
        send(run, mode, number)
        time.sleep(0.3)  # what hangs is answered when its caller is on its way out, or gone
        site.released.set()
        run.wait(PATIENCE)
    finally:
        run.kill()
        run.wait()
    until(lambda: site.left() == foreign, SWEPT if site.cloud.left() != foreign else 10.0)
    cleaned = ""
    if site.left() != foreign:
        cleaned = "cleaned up by hand"
        assert site.start("pytest_dibctl.cli.main", "cleanup").wait(PATIENCE) == 0, site.said()
    left = site.left() - foreign
    lost = foreign - site.left()
    table.add(f"{number.name} {mode}", started=started, left=len(left), foreign=len(lost))
    assert (left, lost) == (set(), set()), f"{cleaned}\n{site.said()}"
    assert "Traceback" not in site.said(), site.said()
    for secret in (PASSWORD, TOKEN, "planted-admin-pass"):
        assert secret not in site.said()
