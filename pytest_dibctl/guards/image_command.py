"""Running one program of an image so that it can do this machine no harm.

Bubblewrap starts it in namespaces of its own, with the image as its root directory and the machine's own
root detached. It runs as users that own nothing on this machine (``namespace.users``), with privileges over
the image's files only, under a filter of system calls. This process stands between the two: it starts
bubblewrap, passes on what the program writes, and ends it at a limit.

``image_mount`` writes the program that starts it; ``namespace`` says what it may import.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import selectors
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from pytest_dibctl.errors import DibctlError
from pytest_dibctl.guards import namespace, syscall_filter
from pytest_dibctl.guards.mounts import mount
from pytest_dibctl.guards.namespace import MachineProc
from pytest_dibctl.system import process

MIB: Final = 1 << 20

MEMORY: Final = 2048 * MIB
"""Bytes that one process may ask for, and that all of a command may have in memory together."""
PROCESSES: Final = 128
FILES: Final = 256
"""Files that each process may have open."""
OUTPUT: Final = 64 * MIB
"""Bytes that a command may write to its output and errors together."""
TIME: Final = 1800.0
"""Seconds that a command may take."""
POLL: Final = 0.1
"""Seconds between two looks at the memory."""

AT_LIMIT: Final = 124
FAILED: Final = 125
NOT_FOUND: Final = 127
"""Exit codes: ended at a limit, could not be confined, no such program in the image."""

TOOL: Final = "bwrap"

CAPABILITIES: Final = ("CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH")
"""Capabilities of root in an image's own commands: it reads every file of the image, as in a guest."""

PASSED: Final = re.compile(r"LANG|LANGUAGE|LC_\w+|TZ|TERM|DIBCTL_\w+")
"""Environment variables that an image's programs get; others may hold this machine's secrets."""

OWN: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
}

SOURCE: Final = "/tmp"  # noqa: S108 -- a place to mount on, which bubblewrap needs to exist too
"""Where bubblewrap finds the tree: its user may not enter the guard's directory."""

_BLOCK: Final = 1 << 16
_NULL_DEVICE: Final = os.makedev(1, 3)
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class _LimitError(Exception):
    """The limit that the command exceeded."""


def command(tree: Path, *, proc: bool) -> list[str]:
    """Return the argv, up to the program of the image and its arguments, that runs one in ``tree``.

    ``proc`` says that the image has a plain directory /proc.
    """
    return [*process.isolated_python(__name__), f"--tree={tree}", *(["--proc"] if proc else []), "--"]


def main() -> NoReturn:
    """Run the program and exit as it does; with AT_LIMIT or FAILED, stderr says why."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tree", required=True)
    parser.add_argument("--proc", action="store_true")
    parser.add_argument("argv", nargs="+")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        users, rules = namespace.users(), syscall_filter.as_file()
        code = _run(options.argv, tree=options.tree, proc=options.proc, users=users, rules=rules)
    except _LimitError as limit:
        _tell(f"{options.argv[0]} was ended: {limit}")
        code = AT_LIMIT
    except BrokenPipeError:
        code = 128 + signal.SIGPIPE
    except (OSError, DibctlError) as error:
        _tell(f"{options.argv[0]} was not run, as it could not be confined: {error}")
        code = FAILED
    # os._exit: there is nothing to flush, and a closed stdout is no error.
    os._exit(code)


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"dibctl: {text}\n".encode(errors="replace"))


def _run(argv: Sequence[str], *, tree: str, proc: bool, users: int, rules: int) -> int:
    facts, told = os.pipe()
    namespace.unshare(namespace.NEW_MOUNTS)
    mount(tree, Path(SOURCE), options=("rbind",))
    confined = [
        *(TOOL, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
        *("--cap-drop", "ALL", *(word for name in CAPABILITIES for word in ("--cap-add", name))),
        *("--new-session", "--die-with-parent", "--as-pid-1", "--hostname", "image"),
        *("--seccomp", str(rules), "--info-fd", str(told)),
        *("--dev-bind", SOURCE, "/", *(("--proc", "/proc", "--remount-ro", "/proc") if proc else ())),
        *("--chdir", "/", "--", *argv),
    ]
    passed = {name: value for name, value in os.environ.items() if PASSED.fullmatch(name)}
    relay = _Relay()
    child = subprocess.Popen(
        confined,
        stdin=0 if _may_read(0) else subprocess.DEVNULL,
        stdout=relay.out,
        stderr=relay.err,
        # Its first process shows the environment that it was started with to all others in there.
        env={**passed, **OWN},
        pass_fds=(rules, told),
        preexec_fn=lambda: _confine(users),  # noqa: PLW1509 -- this process has one thread
    )
    try:
        for descriptor in (users, rules, told):
            os.close(descriptor)
        relay.close_writers()
        return _watch(child, relay, facts)
    finally:
        child.kill()
        child.wait()


def _may_read(descriptor: int) -> bool:
    """Whether the program may have a descriptor of the caller's: it must not be good for more than reading.

    A terminal could be written to, a directory leads to the files around it.
    """
    try:
        status = os.fstat(descriptor)
        flags = re.search(
            r"^flags:\s*(\d+)", Path(f"/proc/self/fdinfo/{descriptor}").read_text(), re.MULTILINE
        )
    except OSError:
        return False
    read_only = flags is not None and int(flags[1], 8) & os.O_ACCMODE == os.O_RDONLY
    plain = stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)
    return (read_only and plain) or (stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL_DEVICE)


def _confine(users: int) -> None:
    """Become root of the user namespace, within the limits of one process; runs in the child."""
    # Should memory run out, the kernel takes these processes first.
    Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_NPROC, (PROCESSES, PROCESSES))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (MIB, MIB))
    # 1 and not 0: with 0, a program of this machine that is fed core dumps would still get theirs (core(5)).
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    namespace.rejoin(users, namespace.NEW_USERS)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


class _Relay:
    """The program's output on its way to ours, through pipes, counted.

    The program gets no descriptor of the caller's: it could read, truncate or rewrite the file behind one.
    """

    def __init__(self) -> None:
        self._sinks: dict[int, int] = {}
        self.left = OUTPUT
        self.errors = b""
        self.out = self._pipe(1)
        # One pipe for both where the caller joined them, so that the order of lines stays.
        self.err = self.out if _same_file(1, 2) else self._pipe(2)

    def _pipe(self, sink: int) -> int:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self._sinks[reader] = sink
        return writer

    def close_writers(self) -> None:
        for writer in {self.out, self.err}:
            os.close(writer)

    @property
    def readers(self) -> list[int]:
        return list(self._sinks)

    def pass_on(self, reader: int) -> bool:
        """Pass on what is there now; return whether more may come."""
        try:
            block = os.read(reader, _BLOCK)
        except BlockingIOError:
            return True
        sink = self._sinks[reader]
        if not block:
            del self._sinks[reader]
            return False
        if len(self.errors) < _BLOCK:
            self.errors += block
        room = block[: self.left]
        self.left -= len(room)
        while room:
            room = room[os.write(sink, room) :]
        if self.left == 0:
            raise _LimitError(f"it wrote {OUTPUT // MIB} MiB, and no command may write more")
        return True

    def drain(self) -> None:
        """Pass on the rest; the program's end closed the pipes, as nothing outlives it."""
        for reader in self.readers:
            os.set_blocking(reader, True)
            while self.pass_on(reader):
                pass


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False


def _watch(child: subprocess.Popen[bytes], relay: _Relay, facts: int) -> int:
    """Pass output on until the program ends; return its exit code. Raises _LimitError at a limit."""
    ended = os.pidfd_open(child.pid)
    deadline = time.monotonic() + TIME
    in_memory = _memory_of(facts)
    with selectors.DefaultSelector() as selector:
        for descriptor in (ended, *relay.readers):
            selector.register(descriptor, selectors.EVENT_READ)
        looked = 0.0
        while True:
            ready = {key.fd for key, _ in selector.select(POLL)}
            for reader in ready & set(relay.readers):
                if not relay.pass_on(reader):
                    selector.unregister(reader)
            if ended in ready:
                break
            now = time.monotonic()
            if now >= deadline:
                raise _LimitError(f"it took {TIME:g} s, and no command may take longer")
            if now - looked >= POLL:
                looked = now
                if in_memory() > MEMORY:
                    raise _LimitError(f"it took more than {MEMORY // MIB} MiB of memory")
    code = child.wait()
    relay.drain()
    if code == 1 and relay.errors.startswith(b"bwrap: execvp "):
        return NOT_FOUND
    return code if code >= 0 else 128 - code


def _memory_of(facts: int) -> Callable[[], int]:
    """Return a function that tells how many bytes the command's processes have in memory."""
    proc = MachineProc()
    leader = 0
    told = b""
    os.set_blocking(facts, False)

    def in_memory() -> int:
        nonlocal leader, told
        if not leader:
            with contextlib.suppress(BlockingIOError):
                told += os.read(facts, _BLOCK)
            with contextlib.suppress(ValueError, KeyError, TypeError):
                leader = int(json.loads(told)["child-pid"])
            if not leader:
                return 0
        pids = [leader, *proc.companions(leader)]
        pages = [proc.read(f"{pid}/statm").split()[1:2] for pid in pids]
        return sum(int(resident[0]) for resident in pages if resident) * _PAGE

    return in_memory
