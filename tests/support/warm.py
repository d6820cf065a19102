"""Runs of pytest that are forked from a process which has imported pytest and this project before.

Such a run is a process of its own, in the state that its imports leave an interpreter in; it saves the time
of the imports, which is half of a short run's. ``DIBCTL_TEST_FULL=1`` starts an interpreter for every run.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import pytest
from _pytest.config import default_plugins

from pytest_dibctl.config.models.section import Section

ROOT = Path(__file__).parents[2]
LARGEST = 1 << 17
"""Bytes of one message; an environment has some thousand."""

MODULES = (
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

PLUGINS = frozenset({"platformdirs", "pytest_dibctl", "pytest_timeout", "testinfra", "xdist"})
"""Packages among them that are plugins of pytest, which rewrites the asserts of these."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warm:
    """The process that runs are forked from, as its starter sees it."""

    process: subprocess.Popen[bytes]
    connection: socket.socket

    @classmethod
    def start(cls) -> Warm:
        """Start it; the caller has to ``close`` it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.warm", str(theirs.fileno())],
                cwd=ROOT,
                env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        return cls(process=process, connection=ours)

    def run(self, arguments: Sequence[str], *, stdout: int, stderr: int) -> int:
        """Run pytest here and now, with this process's environment; return its exit code, as Popen does."""
        directory = str(Path.cwd())
        path = [directory, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        request = {"arguments": arguments, "path": [directory, *path], "environment": environment}
        socket.send_fds(self.connection, [json.dumps(request).encode()], [stdout, stderr])
        pid = self._answer()
        try:
            return self._answer()
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            self._answer()
            raise

    def popen(self, pytester: pytest.Pytester) -> Callable[..., Any]:
        """Return what can stand for ``pytester.popen``: runs of pytest are forked, other commands started."""
        usual = pytester.popen

        def popen(argv: Sequence[str], *, stdout: TextIO, stderr: TextIO, **others: Any) -> Any:
            if argv[:2] != (sys.executable, "-mpytest"):
                return usual(argv, stdout=stdout, stderr=stderr, **others)
            return _Run(warm=self, arguments=argv[2:], stdout=stdout.fileno(), stderr=stderr.fileno())

        return popen

    def _answer(self) -> int:
        answer = self.connection.recv(LARGEST)
        if not answer:
            raise RuntimeError("the process that runs are forked from has ended")
        return int(answer)

    def close(self) -> None:
        """End it."""
        self.connection.close()
        self.process.wait()


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


def prepare() -> None:
    """Import what a run imports."""
    for name in MODULES:
        importlib.import_module(name)
    for model in _descendants(Section):
        model.model_rebuild()
    for name, module in sys.modules.items():
        if name.split(".")[0] in PLUGINS:
            # pytest's word for modules that it takes as they are: else it warns that it comes too late.
            module.__doc__ = f"{module.__doc__ or ''} PYTEST_DONT_REWRITE"
    gc.freeze()


def become(arguments: Sequence[str], path: Sequence[str], environment: Mapping[str, str]) -> None:
    """Take on what a new interpreter would have got from its command line and environment."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(path[0])
    sys.path[:1] = path
    sys.argv[1:] = arguments
    tempfile.tempdir = None
    importlib.invalidate_caches()
    runpy.run_module("pytest", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    prepare()
    asked = serve(socket.socket(fileno=int(sys.argv[1])))
    if asked is not None:
        become(**asked)
