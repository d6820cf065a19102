"""Up, down and what lies between, seen from outside of the cloud."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

from pytest_dibctl.errors import PreflightError
from pytest_dibctl.system import process
from tests.openstack.cloud import environment, loops, network, packages, services
from tests.openstack.cloud import layout as ports
from tests.openstack.cloud.devcloud import DevCloud
from tests.openstack.cloud.layout import REPOSITORY, Layout
from tests.openstack.cloud.services import CloudError

STOP_GRACE = 10.0
"""Seconds for the cloud to end in order, before it is killed."""

HTTP_PORTS = (
    ports.PORT_KEYSTONE,
    ports.PORT_GLANCE,
    ports.PORT_GLANCE_TWO,
    ports.PORT_NEUTRON,
    ports.PORT_NOVA,
    ports.PORT_PLACEMENT,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Process:
    """A process that is told from a later one with the same id by when it started."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Return the living process with that id."""
        stat = _stat(pid)
        return None if stat is None else cls(pid=pid, started=int(stat[19]))

    def is_alive(self) -> bool:
        """Tell whether it still runs; a zombie does not."""
        stat = _stat(self.pid)
        return stat is not None and int(stat[19]) == self.started and stat[0] not in "ZX"

    def kill(self, number: signal.Signals) -> None:
        """Send a signal, to nobody else."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _stat(pid: int) -> list[str] | None:
    """Return /proc/PID/stat from the state on, the third field."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def status(layout: Layout) -> str:
    """Return "up", "down", or what is wrong."""
    alive = [one.is_alive() for one in _processes(layout)]
    if not layout.run.exists():
        return "down"
    if layout.broken.exists():
        return f"broken: {layout.broken.read_text().splitlines()[0]}"
    if not alive or not all(alive):
        return "broken: its processes are gone"
    if not layout.ready.exists():
        return "starting"
    silent = [str(port) for port in HTTP_PORTS if not services.http_answers(port)]
    return f"broken: no answer on ports {', '.join(silent)}" if silent else "up"


def up(layout: Layout, progress: Callable[[str], None]) -> DevCloud:
    """Return a cloud that answers: the living one, or a new one in place of what is left of another.

    Raises PreflightError when this machine cannot run it, CommandError when its Python environment cannot
    be made, CloudError when it does not start; then nothing but the logs is left.
    """
    packages.require()
    with _locked(layout):
        found = status(layout)
        if found == "up":
            progress("the cloud is up already")
        else:
            if found != "down":
                progress(f"the cloud is {found}: removing it")
            _remove(layout)
            environment.ensure(layout, progress)
            _start(layout, progress)
    return DevCloud(directory=layout.base, clouds_yaml=layout.clouds_yaml)


def down(layout: Layout) -> None:
    """Remove the cloud, however much of it is there; the caches and the logs of a failure stay."""
    if layout.base.exists():
        with _locked(layout):
            _remove(layout)


def keep_logs(layout: Layout) -> Path:
    """Copy the logs to where they outlive the cloud, and return where that is."""
    shutil.rmtree(layout.failed, ignore_errors=True)
    shutil.copytree(layout.log, layout.failed / "log")
    if layout.broken.exists():
        shutil.copy(layout.broken, layout.failed)
    return layout.failed


@contextlib.contextmanager
def _locked(layout: Layout) -> Iterator[None]:
    layout.base.mkdir(parents=True, exist_ok=True)
    # What is kept between runs is thrown away by age.
    os.utime(layout.base)
    with FileLock(layout.lock):
        yield


def _start(layout: Layout, progress: Callable[[str], None]) -> None:
    _refuse_strangers(layout)
    layout.log.mkdir(parents=True)
    cloud = _spawn(layout)
    assert cloud.stdout is not None
    try:
        # Not to its end: the process that made the namespaces has that pipe too.
        while not layout.ready.exists() and (line := cloud.stdout.readline()):
            progress(line.rstrip("\n"))
        _refuse_broken(layout)
    except BaseException:
        # Ctrl-C and SIGTERM too: nobody would know of half a cloud.
        _remove(layout)
        cloud.wait()
        raise


def _refuse_strangers(layout: Layout) -> None:
    """Raise PreflightError when somebody else has what the cloud needs."""
    owner = network.owner()
    if owner is not None and owner != layout.base and status(Layout(base=owner)) != "down":
        raise PreflightError(
            f"a cloud runs in {owner}, and there can be only one",
            hint=f"python -m tests.openstack.cloud down --directory {owner}",
        )
    network.remove()
    if taken := [str(port) for port in ports.PORTS if services.port_is_open(port)]:
        raise PreflightError(f"the cloud's ports are in use by others: {', '.join(taken)}")


def _spawn(layout: Layout) -> subprocess.Popen[str]:
    """Start the cloud's process and note who it is; its stdout is its progress."""
    namespaces = [
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount",
        "--mount-proc",
        "--propagation",
        "private",
    ]
    with (layout.log / "cloud.out").open("w") as errors:
        started = process.start(
            [*namespaces, sys.executable, "-m", "tests.openstack.cloud.serve", str(layout.base)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    unshare = Process.of(started.pid)
    chain = [one for one in (unshare, _child(started.pid)) if one is not None]
    layout.state.write_text(json.dumps([dataclasses.asdict(one) for one in chain]))
    return started


def _child(pid: int) -> Process | None:
    """Return the only child of a process, once it has one; None when it has ended."""
    while Process.of(pid) is not None:
        if children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            return Process.of(int(children[0]))
        time.sleep(0.01)
    return None


def _processes(layout: Layout) -> list[Process]:
    """Return the cloud's noted processes: the one that made its namespaces, and the first one in them."""
    try:
        return [Process(**one) for one in json.loads(layout.state.read_text())]
    except (OSError, ValueError):
        return []


def _remove(layout: Layout) -> None:
    chain = _processes(layout)
    for one in chain[1:]:
        one.kill(signal.SIGTERM)
    _wait_for_end(chain, STOP_GRACE)
    for one in chain:
        # With the first process of a pid namespace the kernel kills all the others.
        one.kill(signal.SIGKILL)
    _wait_for_end(chain, STOP_GRACE)
    if network.owner() in {layout.base, None}:
        network.remove()
    loops.detach(layout)
    shutil.rmtree(layout.run, ignore_errors=True)
    if layout.run.exists():
        raise CloudError(f"{layout.run} cannot be removed")


def _wait_for_end(chain: list[Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(one.is_alive() for one in chain) and time.monotonic() < deadline:
        time.sleep(0.02)


def _refuse_broken(layout: Layout) -> None:
    if not layout.ready.exists():
        why = layout.broken.read_text().rstrip() if layout.broken.exists() else "it ended without a word"
        raise CloudError(
            f"the cloud did not start: {why}", hint=f"the services' logs are in {keep_logs(layout)}"
        )
