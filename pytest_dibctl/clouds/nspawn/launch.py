"""Starting the guard of a container: its descriptors, its network, its bounded logs."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pytest_dibctl.clouds import slirp
from pytest_dibctl.clouds.nspawn import guard
from pytest_dibctl.clouds.reaping import reap
from pytest_dibctl.errors import ArtifactError, InstanceError
from pytest_dibctl.guards import container
from pytest_dibctl.guest.console import LIMIT
from pytest_dibctl.system import bounded_log, files, process, sockets

CONSOLE: Final = "console.log"
LOG: Final = "nspawn.log"
LOG_LIMIT: Final = 1 << 20
"""Bytes of the messages of systemd-nspawn and of the guard that are kept."""
OPENING: Final = 120.0
"""Seconds that the guard may take to open the image; it takes 0.3."""


class Starting:
    """The guard of the instance ``name``, just started, and the parts for its network.

    ``spec`` is the description that the guard reads. It dies with the thread that made this, unless it is
    ``keepable``. Nothing is waited for here; ``finish``, which waits, may be called once and in any thread.
    Raises CommandError when a program cannot be started; nothing runs then.
    """

    def __init__(self, name: str, spec: Mapping[str, Any], directory: Path, *, keepable: bool) -> None:
        self._name = name
        self._directory = directory
        self._helpers: list[subprocess.Popen[str]] = []
        self._started: subprocess.Popen[str] | None = None
        files.write_atomically(directory / container.SPEC, json.dumps(spec), mode=0o600)
        (directory / "tree").mkdir(mode=0o700)
        with contextlib.ExitStack() as stack, self._ended_on_failure(stack):
            console = stack.enter_context(_log(directory / CONSOLE, LIMIT, self._helpers))
            log = stack.enter_context(_log(directory / LOG, LOG_LIMIT, self._helpers))
            listener = stack.enter_context(sockets.listener(directory / guard.CONTROL))
            self._end, alive = (stack.enter_context(_closing(each)) for each in os.pipe())
            told = container.Sockets(control=listener.fileno(), console=console, log=log)
            argv = container.command(directory, name, told)
            with os.fdopen(log, "w", closefd=False) as sink:
                self._started = process.start(
                    argv if keepable else process.die_with_parent(argv),
                    stdout=subprocess.PIPE,
                    stderr=sink,
                    # Without the run's mark, a sweep of the run's processes spares what may be kept.
                    env={process.RUN: ""},
                    pass_fds=(listener.fileno(), console, log, alive),
                )
            self._stack = stack.pop_all()

    def finish(self, *, host_loopback: bool) -> guard.Guard:
        """Wait until the guard has opened the image, and give it a network; the container is not started yet.

        The caller owns it. Raises ArtifactError for an image that cannot be opened, InstanceError when there
        is no network; nothing runs then.
        """
        assert self._started is not None
        with self._stack as stack, self._ended_on_failure(stack):
            pid, notes = _opened(self._started, self._name, self._directory)
            self._helpers.extend(
                slirp.connect(
                    pid, self._directory, end=self._end, section="nspawn", host_loopback=host_loopback
                )
            )
        return guard.Guard(
            self._name, self._directory, pid, started=self._started, helpers=self._helpers, notes=notes
        )

    @contextlib.contextmanager
    def _ended_on_failure(self, stack: contextlib.ExitStack) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if self._started is not None:
                guard.end(self._name)
                process.stop(self._started, grace=0)
                assert self._started.stdout is not None
                self._started.stdout.close()
            stack.close()  # the copiers end when no process can write any more
            reap(self._helpers)
            raise


@contextlib.contextmanager
def _log(path: Path, limit: int, helpers: list[subprocess.Popen[str]]) -> Iterator[int]:
    with bounded_log.writer(path, limit=limit) as (sink, copier):
        helpers.append(copier)
        yield sink


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _opened(started: subprocess.Popen[str], name: str, directory: Path) -> tuple[int, list[str]]:
    """Wait until the guard has opened the image; return its process id, and the image's missing parts."""
    assert started.stdout is not None
    ready, _, _ = select.select([started.stdout], [], [], OPENING)
    line = started.stdout.readline() if ready else ""
    if not line:
        ended = started.poll()
        why = f"no answer within {OPENING:g} s" if ended is None else process.describe_exit(ended)
        lines = last_lines(directory)
        raise InstanceError(
            f"{name}: its guard did not start: {why}" + "".join(f"\n  {line}" for line in lines),
            hint="run `dibctl doctor` to see what is missing",
        )
    answer = json.loads(line)
    if "error" in answer:
        raise ArtifactError(answer["error"], hint=answer["hint"])
    return int(answer["pid"]), list(answer["notes"])


def last_lines(directory: Path, count: int = 10) -> list[str]:
    """Return the last messages of systemd-nspawn and of the guard."""
    try:
        return (directory / LOG).read_text(errors="replace").splitlines()[-count:]
    except OSError:
        return []
