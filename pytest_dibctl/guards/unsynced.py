"""A command whose waits for the disk are none: fsync and its like succeed at once, in all that it starts.

A build is worth nothing until it is whole. dpkg, apt and mkfs wait for the disk after each step nevertheless,
and ``sync`` waits for all that the machine writes. A filter of system calls answers in the kernel's place; it
holds in any image, also for programs that are linked statically.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from pytest_dibctl.errors import ArtifactError
from pytest_dibctl.guards import syscall_filter
from pytest_dibctl.system import process

CALLS = ("fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "msync")


def command(argv: Sequence[str]) -> list[str]:
    """Return the argv that runs ``argv`` so; it needs root, and without libseccomp only runs ``argv``."""
    return [*process.isolated_python(__name__), *argv]


def main() -> NoReturn:
    """Replace this process by the command that its arguments are."""
    argv = sys.argv[1:]
    if not is_filtered():
        os.write(2, b"dibctl: libseccomp2 is missing or refused: the build waits for the disk\n")
    try:
        os.execvp(argv[0], argv)  # noqa: S606 -- an argv, no shell
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        sys.exit(127)


def is_filtered() -> bool:
    """Have this process and its children wait for no disk any more; return whether the kernel agreed."""
    try:
        with syscall_filter.Filter() as rules:
            rules.spare_programs()
            for name in CALLS:
                rules.answer(name, error=0)
            rules.load()
    except ArtifactError:
        return False
    return True
