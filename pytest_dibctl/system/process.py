"""The only gate for external commands: an argv, its own process group, a deadline, a log, no shell."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import pytest_dibctl
from pytest_dibctl.errors import CommandError, CommandTimeoutError
from pytest_dibctl.system import output

log = logging.getLogger(__name__)

KILL_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL for a command that is being stopped."""
STOP_POLL = 0.2
"""Seconds between two looks at whether a command that may be stopped has ended."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """How a command ended; ``output`` is stdout, with stderr in it where the two were joined."""

    argv: tuple[str, ...]
    returncode: int
    output: str
    errors: str = ""
    seconds: float = 0.0


def tool_path() -> str:
    """Return a PATH on which the programs of this Python environment and of ``/sbin`` are found.

    ``.venv/bin/pytest`` is often run without activating the environment, and root's PATH under sudo or
    cron lacks ``/sbin``; disk-image-create needs both.
    """
    known = os.environ.get("PATH", os.defpath).split(os.pathsep)
    scripts = sysconfig.get_path("scripts")
    wanted = [scripts, *known, "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"]
    return os.pathsep.join(dict.fromkeys(part for part in wanted if part))


RUN = "DIBCTL_RUN"
"""The environment variable by which a process shows which run started it; empty for a process that may stay.
"""
_SECRET = re.compile(r"OS_(.*_)?(PASSWORD|SECRET|TOKEN|PASSCODE)")
_marks: dict[str, str] = {}


def environment(extra: Mapping[str, str] | None = None, *, credentials: bool = False) -> dict[str, str]:
    """Return this process's environment with ``tool_path`` and ``extra`` laid over it.

    Secrets of OpenStack's ``OS_*`` are in it only with ``credentials``.
    """
    ours = {name: value for name, value in os.environ.items() if credentials or not _SECRET.fullmatch(name)}
    return {**ours, "PATH": tool_path(), **_marks, **(extra or {})}


@contextlib.contextmanager
def marked(run_id: str) -> Iterator[None]:
    """Have all processes that are started inside of the block show that they belong to the run."""
    _marks[RUN] = run_id
    try:
        yield
    finally:
        _marks.clear()


def isolated_python(module: str) -> list[str]:
    """Return the argv that runs ``main`` of a module of ours; nothing but our package is added to the path.

    For processes that outlive or guard others, and must not depend on where and how those run.
    """
    bootstrap = f"import sys; sys.path.append(sys.argv.pop(1)); from {module} import main; main()"
    package = Path(pytest_dibctl.__file__).resolve().parent
    return [interpreter(), "-I", "-c", bootstrap, str(package.parent)]


def own_python(module: str) -> list[str]:
    """Return the argv that runs ``main`` of a module of ours with all libraries that this process has.

    For a process that outlives this one. Neither the working directory nor a folder of tests is on its path,
    and modules of $PYTHONPATH come last, so that none takes the place of Python's or of a library's.
    """
    late = [
        *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)),
        *filter(_has_packages, sys.path),
    ]
    late.append(str(Path(pytest_dibctl.__file__).parent.parent))
    bootstrap = (
        f"import sys; late = sys.argv.pop(1).split({os.pathsep!r}); "
        "sys.path[:] = [*(place for place in sys.path if place not in late), *late]; "
        f"from {module} import main; sys.exit(main())"
    )
    places = dict.fromkeys(os.path.abspath(place) for place in late if not _is_python_s(place))  # noqa: PTH100
    return [interpreter(), "-P", "-c", bootstrap, os.pathsep.join(places)]


def _has_packages(place: str) -> bool:
    """Whether packages are installed in an entry of the path, by pip's --target for one."""
    try:
        return any(name.endswith((".dist-info", ".egg-info")) for name in os.listdir(place or "."))  # noqa: PTH208
    except OSError:
        return False


def _is_python_s(place: str) -> bool:
    """Whether Python itself puts an entry on the path, without being told."""
    known = sysconfig.get_paths()
    own = {known[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return os.path.abspath(place) in own  # noqa: PTH100


def command_line(argv: Sequence[str]) -> str:
    """Return ``argv`` as a line that can be pasted into a shell."""
    return shlex.join(argv)


def die_with_parent(argv: Sequence[str]) -> list[str]:
    """Return ``argv`` so that the kernel kills the command when the thread that starts it dies.

    To be started by this process, not by another one.
    """
    # A parent that died before the signal was asked for sends none: hence the look at the parent now.
    # 0 is what a parent outside a new pid namespace looks like from inside.
    orphan_check = 'case "$PPID" in 0 | "$0") exec "$@" ;; *) exit 143 ;; esac'
    return ["setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", orphan_check, str(os.getpid()), *argv]


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | IO[bytes] | None = None,
    timeout: float | None = None,
    check: bool = True,
    join_stderr: bool = False,
    on_line: Callable[[str], None] | None = None,
    log_file: Path | None = None,
    grace: float = KILL_GRACE,
    credentials: bool = False,
    stopped: threading.Event | None = None,
) -> Result:
    """Run a command to its end and return how it ended.

    ``env`` is laid over this process's environment, which has secrets of OpenStack only with
    ``credentials``; ``stdin`` is a text, or a file to read from; ``timeout`` and ``grace`` are seconds. With
    ``on_line`` or ``log_file`` the joined output is streamed line by line, with ``log_file`` it is not
    kept in memory. Of other output the first ``output.KEPT`` characters are kept, and a line says so. The
    command gets a process group of its own, which is gone when this returns or raises, Ctrl-C included.
    ``stopped`` ends it early, for threads, which Ctrl-C does not reach.

    Raises CommandError when the program is missing, when it does not end in time, and, with ``check``,
    when it exits with anything but 0.
    """
    stream = on_line is not None or log_file is not None
    log.debug("run: %s", command_line(argv))
    started = time.monotonic()
    written, source = (stdin, None) if isinstance(stdin, str) else (None, stdin)
    with spawn(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.PIPE if written is not None else source or subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if stream or join_stderr else subprocess.PIPE,
        grace=grace,
        credentials=credentials,
    ) as process:
        if stopped is not None:
            threading.Thread(target=_stop_when, args=(process, stopped), daemon=True).start()
        try:
            if stream:
                text, errors = output.stream(process, written, timeout, on_line, log_file), ""
            else:
                text, errors = output.collect(process, written, timeout)
        except subprocess.TimeoutExpired:
            raise CommandTimeoutError(
                f"{argv[0]} did not end within {timeout:g} s: {command_line(argv)}",
            ) from None
        returncode = process.wait()
    result = Result(
        argv=tuple(argv),
        returncode=returncode,
        output=text,
        errors=errors,
        seconds=time.monotonic() - started,
    )
    if check and returncode != 0:
        last_lines = (errors or text).strip().splitlines()[-10:]
        raise CommandError(
            f"{argv[0]} {describe_exit(returncode)}: {command_line(argv)}"
            + "".join(f"\n  {line}" for line in last_lines),
        )
    return result


def _stop_when(process: subprocess.Popen[str], stopped: threading.Event) -> None:
    while process.poll() is None:
        if stopped.wait(STOP_POLL):
            _signal_group(process, signal.SIGTERM)
            return


def describe_exit(returncode: int) -> str:
    """Return "exited with 3" or "was killed by SIGKILL"."""
    if returncode >= 0:
        return f"exited with {returncode}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"was killed by signal {-returncode}"


@contextlib.contextmanager
def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int | IO[str] | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[str] | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[str] | IO[bytes] = subprocess.DEVNULL,
    grace: float = KILL_GRACE,
    pass_fds: Sequence[int] = (),
    credentials: bool = False,
) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a session of its own; its whole process group is stopped on leaving.

    The process belongs to the caller inside the block and is gone after it. Raises CommandError when it
    cannot be started.
    """
    process = start(
        argv,
        env=env,
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        credentials=credentials,
    )
    try:
        yield process
    finally:
        stop(process, grace=grace)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int | IO[str] | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[str] | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[str] | IO[bytes] = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    credentials: bool = False,
) -> subprocess.Popen[str]:
    """Start a command in a session of its own and return it; the caller must ``stop`` it.

    Raises CommandError when it cannot be started.
    """
    try:
        return subprocess.Popen(
            list(argv),
            env=environment(env, credentials=credentials),
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )
    except FileNotFoundError as error:
        missing = error.filename if cwd is not None and error.filename == str(cwd) else argv[0]
        raise CommandError(
            f"{missing}: not found", hint="run `dibctl doctor` to see what is missing"
        ) from None
    except OSError as error:
        raise CommandError(f"{argv[0]}: cannot be started: {error.strerror}") from None


def stop(process: subprocess.Popen[str], *, grace: float = KILL_GRACE) -> None:
    """Stop a command and everything in its process group: SIGTERM, ``grace`` seconds, SIGKILL."""
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    # The leader may be gone while its children live on; a group stays killable until its last member ends.
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def interpreter() -> str:
    """Return the Python that runs this, for child processes that must see the same packages."""
    return sys.executable
