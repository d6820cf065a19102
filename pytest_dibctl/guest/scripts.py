"""Running a script of ``tests_list`` or a command of ``external_tests``, here or in the guest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pytest_dibctl.errors import CommandError, CommandTimeoutError
from pytest_dibctl.guest import guest_script
from pytest_dibctl.guest.guest_script import GuestScript
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.image.tree import ImageTree
from pytest_dibctl.system import process


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """Whether a script passed, and how it ended: "exited with 3 after 1.2 s"."""

    passed: bool
    ended: str


class Runner(Protocol):
    """Runs one script."""

    def __call__(self, *, limit: float | None, on_line: Callable[[str], None]) -> Outcome:
        """Run the script to its end, or stop it after ``limit`` seconds; None means no limit.

        ``on_line`` gets each line that the script writes. A CommandError, such as a broken connection, is not
        raised: the outcome says so.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Here:
    """A command that runs on this machine in ``cwd``; with ``tree``, in the namespace where it is mounted."""

    argv: Sequence[str]
    variables: Mapping[str, str]
    cwd: Path
    tree: ImageTree | None = None

    def __repr__(self) -> str:
        """Short, and without the variables."""
        return f"<{process.command_line(self.argv)} on this machine>"

    def __call__(self, *, limit: float | None, on_line: Callable[[str], None]) -> Outcome:
        """Run the command; after ``limit`` seconds, stop it and its process group."""
        argv = self.tree.inside(self.argv, cwd=self.cwd) if self.tree else self.argv
        try:
            result = process.run(
                argv,
                env=self.variables,
                cwd=self.cwd,
                check=False,
                timeout=limit,
                on_line=on_line,
                credentials=True,
            )
        except CommandTimeoutError:
            assert limit is not None  # without a limit, this error is not raised
            return _stopped(limit)
        except CommandError as error:
            return Outcome(passed=False, ended=str(error))
        return _ended(result.returncode, result.seconds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InGuest:
    """A script that is copied into the guest and runs there as the user of ``access``."""

    script: GuestScript
    access: SshAccess
    variables: Mapping[str, str]

    def __repr__(self) -> str:
        """Short, and without the variables."""
        return f"<{self.script.path.name} in the guest>"

    def __call__(self, *, limit: float | None, on_line: Callable[[str], None]) -> Outcome:
        """Run the script; after ``limit`` seconds, the guest stops it and all processes that it started."""
        try:
            ended = guest_script.run(
                self.access, self.script, variables=self.variables, limit=limit, on_line=on_line
            )
        except CommandError as error:
            return Outcome(passed=False, ended=f"failed: {error}")
        if ended.code is None:
            assert limit is not None
            return _stopped(limit)
        return _ended(ended.code, ended.seconds)


def _ended(code: int, seconds: float) -> Outcome:
    return Outcome(passed=code == 0, ended=f"{process.describe_exit(code)} after {seconds:.1f} s")


def _stopped(limit: float) -> Outcome:
    return Outcome(passed=False, ended=f"was stopped after {limit:g} s")


SHELLS = frozenset({"sh", "bash", "dash", "ash", "ksh", "mksh", "zsh"})
"""The interpreters that ``-x`` makes show each command."""


def interpreter(path: Path, *, trace: bool = False) -> tuple[str, ...]:
    """Return the command that runs ``path``: ``/bin/sh`` for a script without ``#!``, as shells do it.

    It is empty for a file that the kernel can run itself. With ``trace`` a shell script is run by the shell
    of its first line, which shows each command before it runs it. Raises OSError when the file cannot be
    read.
    """
    with path.open("rb") as file:
        start = file.readline(256)
    if start.startswith(b"\x7fELF"):
        return ()
    if not start.startswith(b"#!"):
        return ("/bin/sh", "-x") if trace else ("/bin/sh",)
    words = start[2:].decode(errors="replace").split()
    shells = [word for word in words[:3] if word.rpartition("/")[2] in SHELLS]
    if not (trace and shells):
        return ()
    # `env -S` splits one argument into several, which is done here; `-` and `--` end a shell's options.
    return (*(word for word in words if word not in ("-S", "-", "--")), "-x")
