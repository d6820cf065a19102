"""Runs of a program that are forked from a process which has imported the program's modules before.

Such a run is a process of its own, in the state that its imports leave an interpreter in; it saves the time
of the imports, which is half of a short run's. ``DIBCTL_TEST_FULL=1`` starts an interpreter for every run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

import pytest
from _pytest.config import default_plugins

from pytest_dibctl.config.models.section import Section
from tests.support import sampling

ROOT = Path(__file__).parents[2]
LARGEST = 1 << 17
"""Bytes of one message; an environment has some thousand."""

Program = Literal["pytest", "pytest_dibctl.cli"]
"""What is run, as by ``python -m``."""

PYTEST = (
    *(f"_pytest.{name}" for name in default_plugins),
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "cryptography.hazmat.primitives.serialization",
    "pytest_dibctl.plugin.fixtures",
    "pytest_dibctl.plugin.host",
    "pytest_dibctl.plugin.session",
    "testinfra.backend.ssh",
    "testinfra.plugin",
    "tests.support.memory",
    "xdist.dsession",
    "xdist.looponfail",
    "xdist.plugin",
)
DIBCTL = (
    "openstack.block_storage.v3._proxy",
    "openstack.compute.v2._proxy",
    "openstack.image.v2._proxy",
    "pytest_dibctl.cli.main",
    "pytest_dibctl.clouds.openstack.login",
    "pytest_dibctl.clouds.openstack.regions",
    "pytest_dibctl.publish.rotate",
    "pytest_dibctl.publish.transfer",
    "pytest_dibctl.publish.upload",
)
MODULES: Mapping[Program, Sequence[str]] = {"pytest": PYTEST, "pytest_dibctl.cli": DIBCTL}

PLUGINS = frozenset({"platformdirs", "pytest_dibctl", "pytest_timeout", "testinfra", "xdist"})
"""Packages among them that are plugins of pytest, which rewrites the asserts of these."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warm:
    """The process that runs are forked from, as its starter sees it."""

    process: subprocess.Popen[bytes]
    connection: socket.socket

    @classmethod
    def start(cls, program: Program = "pytest") -> Warm:
        """Start it; the caller has to ``close`` it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.warm", program, str(theirs.fileno())],
                cwd=ROOT,
                env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        return cls(process=process, connection=ours)

    def run(self, arguments: Sequence[str], *, stdout: int, stderr: int) -> int:
        """Run the program to its end; return its exit code, as Popen does."""
        begun = self.begin(arguments, stdout=stdout, stderr=stderr)
        try:
            return begun.wait()
        except BaseException:
            begun.kill()
            begun.wait()
            raise

    def begin(self, arguments: Sequence[str], *, stdout: int, stderr: int) -> Begun:
        """Start the program here, with this process's environment; one run at a time."""
        directory = str(Path.cwd())
        path = [directory, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        request = {"arguments": arguments, "path": [directory, *path], "environment": environment}
        socket.send_fds(self.connection, [json.dumps(request).encode()], [stdout, stderr])
        return Begun(warm=self, pid=self.answer())

    def popen(self, pytester: pytest.Pytester) -> Callable[..., Any]:
        """Return what can stand for ``pytester.popen``: runs of pytest are forked, other commands started."""
        usual = pytester.popen

        def popen(argv: Sequence[str], *, stdout: TextIO, stderr: TextIO, **others: Any) -> Any:
            if argv[:2] != (sys.executable, "-mpytest"):
                return usual(argv, stdout=stdout, stderr=stderr, **others)
            return _Run(warm=self, arguments=argv[2:], stdout=stdout.fileno(), stderr=stderr.fileno())

        return popen

    def answer(self, timeout: float | None = None) -> int:
        """Return the next number that the process tells; raises TimeoutExpired after ``timeout`` seconds."""
        if timeout is not None and not select.select([self.connection], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.process.args, timeout)
        answer = self.connection.recv(LARGEST)
        if not answer:
            raise RuntimeError("the process that runs are forked from has ended")
        return int(answer)

    def close(self) -> None:
        """End it."""
        self.connection.close()
        self.process.wait()


@contextlib.contextmanager
def on_demand(program: Program) -> Iterator[Callable[[], Warm | None]]:
    """Yield what returns a process, which it starts when it is called first; None where none is used."""

    @functools.cache
    def get() -> Warm | None:
        return None if sampling.is_full() else Warm.start(program)

    yield get
    if get.cache_info().currsize and (process := get()) is not None:
        process.close()


@dataclasses.dataclass(kw_only=True)
class Begun:
    """A run that was started: as much of a Popen as tests of signals use."""

    warm: Warm
    pid: int
    returncode: int | None = None
    _waiting: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens to a run that has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it by force."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit code; raises TimeoutExpired after ``timeout`` seconds."""
        with self._waiting:  # of two threads the second finds what the first has been told
            if self.returncode is None:
                self.returncode = self.warm.answer(timeout)
            return self.returncode


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """As much of a Popen as pytester uses."""

    warm: Warm
    arguments: Sequence[str]
    stdout: int
    stderr: int
    stdin: None = None

    def wait(self) -> int:
        return self.warm.run(self.arguments, stdout=self.stdout, stderr=self.stderr)


def serve(connection: socket.socket) -> dict[str, Any] | None:
    """Fork for every request until the other side closes: None then; the request in the forked process."""
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(connection, LARGEST, 2)
        except KeyboardInterrupt:  # from the terminal: to its starter as well
            return None
        if not message:
            return None
        pid = os.fork()
        if pid == 0:
            connection.close()
            for standard, descriptor in zip((1, 2), descriptors, strict=True):
                os.dup2(descriptor, standard)
                os.close(descriptor)
            request: dict[str, Any] = json.loads(message)
            return request
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def _descendants(model: type[Section]) -> Iterator[type[Section]]:
    yield model
    for child in model.__subclasses__():
        yield from _descendants(child)


def prepare(program: Program) -> None:
    """Import what a run imports."""
    for name in MODULES[program]:
        importlib.import_module(name)
    for model in _descendants(Section):
        model.model_rebuild()
    for name, module in sys.modules.items():
        if name.split(".")[0] in PLUGINS:
            # pytest's word for modules that it takes as they are: else it warns that it comes too late.
            module.__doc__ = f"{module.__doc__ or ''} PYTEST_DONT_REWRITE"
    gc.freeze()


def become(
    program: Program, arguments: Sequence[str], path: Sequence[str], environment: Mapping[str, str]
) -> None:
    """Take on what a new interpreter would have got from its command line and environment."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(path[0])
    sys.path[:1] = path
    sys.argv[1:] = arguments
    tempfile.tempdir = None
    importlib.invalidate_caches()
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    known: dict[str, Program] = {"pytest": "pytest", "pytest_dibctl.cli": "pytest_dibctl.cli"}
    wanted = known[sys.argv[1]]
    prepare(wanted)
    asked = serve(socket.socket(fileno=int(sys.argv[2])))
    if asked is not None:
        become(wanted, **asked)
