"""Starting the QEMU of an instance: its descriptors, its sandbox, its network, its bounded logs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NoReturn

from pytest_dibctl.clouds import slirp
from pytest_dibctl.clouds.qemu import confinement, guest, machine
from pytest_dibctl.clouds.reaping import reap
from pytest_dibctl.errors import ArtifactError, InstanceError
from pytest_dibctl.guest.console import LIMIT
from pytest_dibctl.system import bounded_log, process, sockets
from pytest_dibctl.system.waiting import wait_until

CONSOLE_LIMIT: Final = LIMIT
"""Bytes of the serial console that are kept."""
SETTLE: Final = 1.0
"""Seconds in which bubblewrap ends, if that is why there is no network."""
LOG_LIMIT: Final = 1 << 20
"""Bytes of QEMU's own messages that are kept; some of them are at the guest's will."""


def start(
    spec: machine.Machine,
    image: Path,
    directory: Path,
    *,
    keepable: bool,
    host_loopback: bool,
    line: bool = False,
) -> guest.Child:
    """Start QEMU in its sandbox, in ``directory``, which holds the disk and the seed; return its process.

    With ``line`` the guest gets a second serial line. QEMU is not up yet when this returns. A guest that is
    not ``keepable`` dies with the thread that called this. The caller owns the process. Raises ArtifactError
    when ``image`` cannot be opened, CommandError when a program cannot be started and InstanceError when
    there is no sandbox or no network; nothing runs then.
    """
    with contextlib.ExitStack() as stack:
        console, console_copier = stack.enter_context(
            bounded_log.writer(directory / machine.CONSOLE, limit=CONSOLE_LIMIT)
        )
        log, log_copier = stack.enter_context(bounded_log.writer(directory / machine.LOG, limit=LOG_LIMIT))
        # QEMU gets the open socket, and so needs no directory that it can write to.
        control = stack.enter_context(sockets.listener(directory / machine.CONTROL))
        second = stack.enter_context(sockets.listener(directory / machine.LINE)) if line else None
        inherited = machine.Inherited(
            console=console,
            control=control.fileno(),
            image=stack.enter_context(_opened(image)),
            line=second.fileno() if second else None,
        )
        copied = {
            path: stack.enter_context(_opened(path)) for path in spec.boot_files if _is_closed_to_qemu(path)
        }
        helpers = [console_copier, log_copier]
        try:
            return _confined(
                spec,
                inherited,
                directory,
                copied=copied,
                log=log,
                helpers=helpers,
                keepable=keepable,
                host_loopback=host_loopback,
            )
        except BaseException:
            stack.close()  # the copiers end when no process can write any more
            reap(helpers)
            raise


def _confined(
    spec: machine.Machine,
    inherited: machine.Inherited,
    directory: Path,
    *,
    copied: Mapping[Path, int],
    log: int,
    helpers: list[subprocess.Popen[str]],
    keepable: bool,
    host_loopback: bool,
) -> guest.Child:
    if not host_loopback:
        confinement.write_resolver(directory)
    info, info_end = os.pipe()
    block, block_end = os.pipe()
    end, alive = os.pipe()
    ours = {info, info_end, block, block_end, end, alive}

    def close(*descriptors: int) -> None:
        for descriptor in ours.intersection(descriptors):
            ours.remove(descriptor)
            os.close(descriptor)

    started = None
    try:
        argv = confinement.argv(
            spec.argv(inherited),
            spec,
            directory,
            host_loopback=host_loopback,
            keepable=keepable,
            copied=copied,
            info=info_end,
            block=block,
        )
        # Without the run's mark, a sweep of the run's processes spares QEMU: the instance may be kept.
        # Its record leads to it.
        with os.fdopen(log, "w", closefd=False) as sink:
            started = process.start(
                argv if keepable else process.die_with_parent(argv),
                cwd=directory,
                stdout=sink,
                stderr=sink,
                env={process.RUN: ""},
                pass_fds=(info_end, block, alive, *copied.values(), *inherited.all()),
            )
        close(info_end, block, alive)
        pid = confinement.inner_process(info, started) or _refuse(spec, started, directory)
        if not host_loopback:
            try:
                helpers.extend(slirp.connect(pid, directory, end=end, section="qemu"))
            except InstanceError:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    started.wait(SETTLE)
                    _refuse(spec, started, directory)
                raise
        os.write(block_end, b"x")
        return guest.Child(started, uuid=spec.uuid, pid=pid, helpers=helpers)
    except BaseException:
        if started is not None:
            process.stop(started, grace=0)
        raise
    finally:
        close(*ours)


def _refuse(spec: machine.Machine, started: subprocess.Popen[str], directory: Path) -> NoReturn:
    """Raise InstanceError: bubblewrap has ended without a sandbox."""

    def lines() -> list[str]:
        with contextlib.suppress(OSError):
            return (directory / machine.LOG).read_text(errors="replace").splitlines()[-5:]
        return []

    # Another process copies into the log, in several pieces.
    if wait_until(lines, timeout=SETTLE, poll=0.01):
        time.sleep(SETTLE / 4)
    raise InstanceError(
        f"{spec.name}: QEMU's sandbox could not be made: bubblewrap "
        f"{process.describe_exit(started.wait())}" + "".join(f"\n  {line}" for line in lines()),
        hint="run `dibctl doctor` to see what is missing",
    )


def _is_closed_to_qemu(path: Path) -> bool:
    """Whether QEMU cannot read a file that this process can: root without capabilities is a mere user."""
    try:
        status = path.stat()
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}") from None
    return status.st_uid != os.geteuid() and not status.st_mode & 0o004


@contextlib.contextmanager
def _opened(image: Path) -> Iterator[int]:
    # Read access is decided here: in its sandbox, root may not read the files of other users.
    try:
        descriptor = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ArtifactError(f"{image}: {error.strerror}") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)
