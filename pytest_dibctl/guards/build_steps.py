"""The process between this tool and a build: however the tool ends, the build leaves nothing.

disk-image-create mounts filesystems, attaches loop devices and starts processes as root. The guard runs in a
mount namespace of its own and holds a pipe to the tool. When the tool closes the pipe, dies or sends SIGTERM,
the guard asks disk-image-create to clean up, kills it after a grace period, releases what it left and removes
its directory. When the guard itself is killed, the kernel kills the build with it, and the mounts end with
the namespaces. A loop device that is left is named in ``LOOPS``, for the next build.

``namespace`` starts it, and says what it may import.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pytest_dibctl.errors import CommandError
from pytest_dibctl.guards import namespace, unsynced
from pytest_dibctl.guards.namespace import MachineProc
from pytest_dibctl.system import process

GRACE = 15.0
"""Seconds that disk-image-create has to release its mounts and devices after SIGTERM."""

POLL = 0.5
"""Seconds between two looks at the loop devices; the end of the build is noticed at once."""

LOOPS = "loops.json"
"""Name of the file, in the building directory, that tells which loop devices the build attached."""

TMP = "tmp"
"""Name of disk-image-create's own temporary directory in the building directory."""

STEP = "dibctl step: "
"""The beginning of the log's line when a step begins."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Stop(Exception):  # noqa: N818 -- a request, not an error
    """The tool is gone, or wants the build to end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
    """A loop device and the file behind it; ``device`` and ``inode`` are the file's."""

    name: str
    file: str
    device: int
    inode: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One command of a build; ``name`` is what the log calls it.

    ``isolate`` gives it a namespace of process ids: nothing that it starts outlives it, and as the first
    process there it is deaf to most signals. It needs root.
    """

    name: str
    argv: tuple[str, ...]
    isolate: bool = False


def command(steps: Sequence[Step], *, building: Path, grace: float = GRACE) -> list[str]:
    """Return the argv that runs ``steps`` in their order under one guard, up to the first that fails.

    ``grace`` is seconds. With a step to isolate, only the steps see what any of them mounts.
    """
    isolate = any(step.isolate for step in steps)
    options = [f"--building={building}", f"--grace={grace:g}"]
    coded = [json.dumps(dataclasses.asdict(step)) for step in steps]
    return namespace.command(__name__, [*options, "--", *coded], namespaces=["--mount"] if isolate else [])


def main() -> NoReturn:
    """Run steps under guard and exit as the last that ran does; 128 + n after signal n."""
    parser = namespace.parser(required=False)
    parser.add_argument("--building", type=Path, required=True)
    parser.add_argument("--grace", type=float, required=True)
    parser.add_argument("steps", nargs="+", type=lambda text: Step(**json.loads(text)))
    options = parser.parse_args()
    if namespace.is_missing(options):
        # A step would mount its /proc over that of the whole machine.
        _say("the guard has no mount namespace of its own; nothing was started")
        sys.exit(127)
    guard = _Guard(options.building, apart=namespace.is_asked_for(options), grace=options.grace)
    sys.exit(guard.run(options.steps))


class _Guard:
    def __init__(self, building: Path, *, apart: bool, grace: float) -> None:
        self.building = building
        self.apart = apart
        self.grace = grace
        # A step mounts a /proc of its own over this one: the real one is asked through this.
        self.proc = MachineProc()

    def run(self, steps: Sequence[Step]) -> int:
        """Run ``steps``; a signal or the end of the tool ends them, and removes what they made."""
        for number in _SIGNALS:
            signal.signal(number, _stop)
        child: subprocess.Popen[str] | None = None
        code = 0
        try:
            for step in steps:
                _say(f"{STEP}{step.name}")
                child = self._start(step)
                _wait(child, self.building)
                code = self._end(child)
                if code != 0:
                    break
        except CommandError as error:
            _say(str(error))
            return 127
        except _Stop:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            code = self._interrupt(child)
        return code

    def _start(self, step: Step) -> subprocess.Popen[str]:
        if step.isolate:
            return _start_isolated(step.argv, self.proc)
        return process.start(process.die_with_parent(step.argv), stdout=1, stderr=2)

    def _interrupt(self, child: subprocess.Popen[str] | None) -> int:
        code = 128 + signal.SIGTERM
        if child is not None:
            _terminate(child, self.proc, grace=self.grace)
            code = self._end(child) or code
        if not self.proc.mount_points(self.building):
            remove(self.building)
        return code

    def _end(self, child: subprocess.Popen[str]) -> int:
        """Kill what is left of a step, release what it left mounted or attached, return its exit code."""
        process.stop(child, grace=0)
        if self.apart:
            _release(self.building, self.proc)
        return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _Stop


def _start_isolated(argv: Sequence[str], proc: MachineProc) -> subprocess.Popen[str]:
    """Start ``argv`` as the first process of a namespace of process ids, so that nothing outlives it.

    Mounts it shares with the guard, which can so release what a killed build left. ``unshare --fork`` would
    stand between the two and, in util-linux 2.38, loses the number of a signal that killed its child. The
    output of a step counts only when it is whole, so the step waits for no disk.
    """
    own = proc.open("self/ns/pid")
    try:
        try:
            namespace.unshare(namespace.NEW_PIDS)
        except OSError as error:
            raise CommandError(f"no namespace for the build: {error.strerror}") from None
        mounted = 'mount -t proc proc /proc && exec "$0" "$@"'
        return process.start(
            process.die_with_parent(["sh", "-c", mounted, *unsynced.command(argv)]), stdout=1, stderr=2
        )
    finally:
        # Without this, no command could be started any more once the build has ended; the next start says so.
        with contextlib.suppress(OSError):
            namespace.rejoin(own, namespace.NEW_PIDS)
        os.close(own)


def _wait(child: subprocess.Popen[str], building: Path) -> None:
    seen: dict[str, Loop] = {}
    ended = os.pidfd_open(child.pid)
    try:
        _wait_for(ended, building, seen)
    finally:
        os.close(ended)


def _wait_for(ended: int, building: Path, seen: dict[str, Loop]) -> None:
    while True:
        ready, _, _ = select.select([0, ended], [], [], POLL)
        if ended in ready:
            return
        if 0 in ready and not os.read(0, 4096):
            raise _Stop
        new = {loop.name: loop for loop in loops(building)}
        if not new.keys() <= seen.keys():
            seen |= new
            with contextlib.suppress(OSError):  # a full disk; only needed should this process be killed
                text = json.dumps([dataclasses.asdict(loop) for loop in seen.values()])
                (building / LOOPS).write_text(text)


def _say(text: str) -> None:
    """Write a line to the build's log; a full disk is no error."""
    with contextlib.suppress(OSError):
        os.write(1, f"{text}\n".encode(errors="replace"))


def _terminate(child: subprocess.Popen[str], proc: MachineProc, *, grace: float) -> None:
    """End a step so that it can clean up after itself.

    disk-image-create's shell gets SIGTERM, which runs its exit trap; what the shell had started by then
    gets it too, or the trap would wait for it in vain. The process that filters the log is spared:
    without it the trap's first ``echo`` fails, and the trap with it.
    """
    if not proc.is_apart(child.pid):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace)
        return
    if not proc.heeds(child.pid, signal.SIGTERM):
        return  # it has set no trap yet, and would go on building: it is killed, and released by the caller
    helpers = [pid for pid in proc.companions(child.pid) if "outfilter" not in proc.read(f"{pid}/cmdline")]
    _send(signal.SIGTERM, [child.pid, *helpers])
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(min(2.0, grace))
    _send(signal.SIGKILL, helpers)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(max(0.0, grace - 2.0))


def _send(number: signal.Signals, pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _release(building: Path, proc: MachineProc) -> None:
    with contextlib.suppress(CommandError):
        if _is_dead("/proc"):
            process.run(["umount", "--lazy", "/proc"], check=False)
    attached = list(loops(building))
    for point in proc.mount_points(building):
        with contextlib.suppress(CommandError):
            process.run(["umount", "--lazy", point], check=False)
    for loop in attached:
        detach(loop.name)


def _is_dead(proc: str) -> bool:
    """Tell whether ``proc`` is that of a namespace that is gone: no process has a self there."""
    try:
        Path(proc, "self").readlink()
    except OSError:
        return True
    return False


def loops(directory: Path) -> Iterator[Loop]:
    """Yield the loop devices whose file lies below ``directory``."""
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            file = entry.read_text().strip()
            if file.startswith(f"{directory}/"):
                stat = Path(file).stat()
                yield Loop(name=entry.parts[3], file=file, device=stat.st_dev, inode=stat.st_ino)


def detach(name: str) -> None:
    """Release the loop device ``name`` and the device-mapper partitions on it; failures are only logged."""
    with contextlib.suppress(CommandError):
        if any(Path(f"/sys/block/{name}/holders").glob("*")):
            process.run(["kpartx", "-d", f"/dev/{name}"], check=False)
        # A mount that has just gone may hold the device for a moment more.
        for _ in range(20):
            if process.run(["losetup", "--detach", f"/dev/{name}"], check=False).returncode == 0:
                return
            time.sleep(0.1)


def remove(building: Path) -> None:
    """Remove a building directory, with the loop devices that a build which was killed left attached."""
    for loop in _recorded(building):
        if _still(loop):
            detach(loop.name)
    if building.is_dir():
        # One file system: should a mount be left after all, its files are not ours to delete.
        process.run(["rm", "-rf", "--one-file-system", "--", str(building)], check=False)


def _recorded(building: Path) -> list[Loop]:
    try:
        if building.lstat().st_uid != os.geteuid():
            # In a folder such as /tmp, any user could make root detach the devices of others.
            return []
        return [Loop(**entry) for entry in json.loads((building / LOOPS).read_text())]
    except (OSError, ValueError, TypeError):
        return []


def _still(loop: Loop) -> bool:
    """Tell whether the device still has that very file behind it; its path may be gone with its mount."""
    columns = "BACK-MAJ:MIN,BACK-INO,BACK-FILE"
    try:
        listed = process.run(
            ["losetup", "--list", "--json", "--output", columns, f"/dev/{loop.name}"], check=False
        )
        [device] = json.loads(listed.output)["loopdevices"]
    except (CommandError, ValueError, KeyError):
        return False
    numbers = f"{os.major(loop.device)}:{os.minor(loop.device)}"
    return (
        str(device["back-maj:min"]).strip() == numbers
        and int(device["back-ino"]) == loop.inode
        and Path(device["back-file"]).name == Path(loop.file).name
    )
