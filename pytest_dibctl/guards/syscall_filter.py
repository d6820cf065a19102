"""The system calls that an image's programs may not make, as a filter for the kernel (seccomp).

Namespaces and missing privileges already make most of these fail. The filter also keeps flaws in them out of
reach, and what no namespace holds: keyrings, vsock, a terminal's input queue. libseccomp knows the numbers on
each architecture.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Final, Self

from pytest_dibctl.errors import ArtifactError

LIBRARY: Final = "libseccomp.so.2"

REFUSED: Final = (
    # The tree of mounts, and other namespaces.
    *("mount", "umount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsconfig"),
    *("fsmount", "fspick", "mount_setattr", "unshare", "setns"),
    # Other processes, and files without a path.
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd"),
    *("open_by_handle_at", "name_to_handle_at", "lookup_dcookie"),
    # The kernel itself, and large parts of it that are rarely needed.
    *("bpf", "perf_event_open", "userfaultfd", "init_module", "finit_module", "delete_module", "kexec_load"),
    *("kexec_file_load", "io_uring_setup", "io_uring_enter", "io_uring_register", "vmsplice", "personality"),
    *("add_key", "request_key", "keyctl", "quotactl", "quotactl_fd", "nfsservctl", "uselib", "ustat"),
    # The machine.
    *("reboot", "swapon", "swapoff", "syslog", "acct", "vhangup", "iopl", "ioperm", "sethostname"),
    *("setdomainname", "settimeofday", "clock_settime", "clock_settime64", "clock_adjtime", "adjtimex"),
    *("stime", "mbind", "migrate_pages", "move_pages", "set_mempolicy", "fanotify_init"),
    # Memory that belongs to no process, so that no limit would see it.
    *("memfd_create", "memfd_secret", "shmget", "msgget", "mq_open", "remap_file_pages"),
)
"""They fail with EPERM."""

NEW_NAMESPACES: Final = (
    *(0x00000080, 0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000),
)
"""Flags of clone that make a namespace of some kind."""

TERMINAL_INPUT: Final = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX, which type into a terminal."""

SOCKET_FAMILIES: Final = (1, 2, 10, 16)
"""AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK: a network namespace holds these. It does not hold AF_VSOCK."""

_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
"""Actions of a filter for a call: let it pass; answer with the error whose number is added, 0 for success."""
_BAD_ARCHITECTURE: Final = 2
_NO_NEW_PRIVILEGES: Final = 3
_SPECULATION_ALLOWED: Final = 7
"""Attributes of a filter.

They are the action for calls of an unknown architecture, the ban on new privileges, and whether older kernels
leave out the slow mitigation that comes with a filter.
"""
_EQUAL, _GREATER, _MASKED_EQUAL = 4, 6, 7
_UNKNOWN: Final = -1
_OTHER_ARCHITECTURES: Final = {"x86_64": (0x40000003,), "aarch64": (0x40000028,)}
"""The 32-bit architecture whose programs the machine runs too: i386, arm."""


class Comparison(ctypes.Structure):
    """When a rule holds: an argument's number, libseccomp's operator, and what it is compared with."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def as_file() -> int:
    """Return a descriptor, which the caller closes, of a file that holds the filter for ``bwrap --seccomp``.

    Raises ArtifactError where libseccomp is missing or refuses a rule.
    """
    with Filter() as rules:
        for name in REFUSED:
            rules.answer(name, error=errno.EPERM)
        for flag in NEW_NAMESPACES:
            rules.answer("clone", Comparison(0, _MASKED_EQUAL, flag, flag), error=errno.EPERM)
        # Its flags are in memory, where no filter can look; programs fall back to clone.
        rules.answer("clone3", error=errno.ENOSYS)
        for command in TERMINAL_INPUT:
            # The kernel looks at the lower half only.
            typed = Comparison(1, _MASKED_EQUAL, 0xFFFFFFFF, command)
            rules.answer("ioctl", typed, error=errno.EPERM)
        for family in range(max(SOCKET_FAMILIES)):
            if family not in SOCKET_FAMILIES:
                rules.answer("socket", Comparison(0, _EQUAL, family), error=errno.EAFNOSUPPORT)
        largest = Comparison(0, _GREATER, max(SOCKET_FAMILIES))
        rules.answer("socket", largest, error=errno.EAFNOSUPPORT)
        return rules.written()


class Filter:
    """A filter that lets each call pass but those that ``answer`` names, on all architectures that run here.

    Raises ArtifactError where libseccomp is missing or refuses something.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError:
            raise ArtifactError(f"{LIBRARY}: not found", hint="apt-get install libseccomp2") from None
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(_ALLOW)))

    def __enter__(self) -> Self:
        for architecture in _OTHER_ARCHITECTURES.get(platform.machine(), ()):
            self._done(self._library.seccomp_arch_add(self._context, ctypes.c_uint32(architecture)))
        return self

    def __exit__(self, *_exception: object) -> None:
        self._library.seccomp_release(self._context)

    def answer(self, name: str, *comparisons: Comparison, error: int) -> None:
        """Have a call fail with an error; 0 is success. A call that the library does not know passes."""
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number == _UNKNOWN:
            # An older library; the call needs a privilege that the programs lack.
            return
        listed = (Comparison * len(comparisons))(*comparisons)
        action = ctypes.c_uint32(_ERRNO | error)
        add = self._library.seccomp_rule_add_array
        self._done(add(self._context, action, number, ctypes.c_uint(len(comparisons)), listed))

    def spare_programs(self) -> None:
        """Let programs gain privileges, and do not slow them down: for a filter that keeps nothing from them.

        Without privileges to gain, sudo would refuse to work. Older kernels let a program that makes a call
        of an unknown architecture die, and add a slow mitigation, where the library can prevent it.
        """
        self._done(self._set(_NO_NEW_PRIVILEGES, 0))
        self._set(_BAD_ARCHITECTURE, _ALLOW)
        self._set(_SPECULATION_ALLOWED, 1)

    def _set(self, attribute: int, value: int) -> int:
        return int(self._library.seccomp_attr_set(self._context, attribute, ctypes.c_uint32(value)))

    def load(self) -> None:
        """Filter the calls of this process and its children from now on."""
        self._done(self._library.seccomp_load(self._context))

    def written(self) -> int:
        """Return a descriptor, which the caller closes, of a file that holds the filter."""
        file = os.memfd_create("dibctl-seccomp")
        self._done(self._library.seccomp_export_bpf(self._context, file))
        os.lseek(file, 0, os.SEEK_SET)
        return file

    @staticmethod
    def _done(result: int) -> None:
        if result < 0:
            raise ArtifactError(f"{LIBRARY} refuses the filter: {os.strerror(-result)}")
