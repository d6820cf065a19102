"""A command whose waits for the disk are none: fsync and its like succeed at once, in all that it starts.

A build is worth nothing until it is whole. dpkg, apt and mkfs wait for the disk after each step nevertheless,
and ``sync`` waits for all that the machine writes. A filter of system calls answers in the kernel's place; it
holds in any image, also for programs that are linked statically.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

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
        library = ctypes.CDLL(syscall_filter.LIBRARY, use_errno=True)
    except OSError:
        return False
    library.seccomp_init.restype = ctypes.c_void_p
    set_attribute = library.seccomp_attr_set
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(syscall_filter.ALLOW)))
    try:
        for architecture in syscall_filter.other_architectures():
            library.seccomp_arch_add(context, ctypes.c_uint32(architecture))
        # Without privileges to gain, sudo would refuse to work.
        if set_attribute(context, syscall_filter.NO_NEW_PRIVILEGES, ctypes.c_uint32(0)) < 0:
            return False
        # The filter keeps nothing from programs, so it need not cost them anything either.
        set_attribute(context, syscall_filter.BAD_ARCHITECTURE, ctypes.c_uint32(syscall_filter.ALLOW))
        set_attribute(context, syscall_filter.SPECULATION_ALLOWED, ctypes.c_uint32(1))
        for name in CALLS:
            number = library.seccomp_syscall_resolve_name(name.encode())
            library.seccomp_rule_add_array(
                context, ctypes.c_uint32(syscall_filter.ERRNO), number, ctypes.c_uint(0), None
            )
        return int(library.seccomp_load(context)) == 0
    finally:
        library.seccomp_release(context)
