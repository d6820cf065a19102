"""Images whose programs mean harm: a small tree with perl, which can make any system call."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from pytest_dibctl.system import process

PROGRAMS = ("/usr/bin/perl", "/bin/sh", "/bin/cat", "/bin/ls", "/bin/id", "/bin/sleep", "/usr/bin/env")

NUMBERS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "x86_64": MappingProxyType(
            {
                "ptrace": 101,
                "chroot": 161,
                "mount": 165,
                "mknodat": 259,
                "unshare": 272,
                "setns": 308,
                "name_to_handle_at": 303,
                "open_by_handle_at": 304,
                "add_key": 248,
                "keyctl": 250,
                "process_vm_readv": 310,
                "bpf": 321,
                "memfd_create": 319,
                "ioctl": 16,
                "socket": 41,
                "clone": 56,
                "kexec_load": 246,
                "reboot": 169,
                "init_module": 175,
                "pivot_root": 155,
                "swapon": 167,
                "syslog": 103,
                "setuid": 105,
                "userfaultfd": 323,
                "perf_event_open": 298,
            }
        ),
        "aarch64": MappingProxyType(
            {
                "ptrace": 117,
                "chroot": 51,
                "mount": 40,
                "mknodat": 33,
                "unshare": 97,
                "setns": 268,
                "name_to_handle_at": 264,
                "open_by_handle_at": 265,
                "add_key": 217,
                "keyctl": 219,
                "process_vm_readv": 270,
                "bpf": 280,
                "memfd_create": 279,
                "ioctl": 29,
                "socket": 198,
                "clone": 220,
                "kexec_load": 104,
                "reboot": 142,
                "init_module": 105,
                "pivot_root": 41,
                "swapon": 224,
                "syslog": 116,
                "setuid": 146,
                "userfaultfd": 282,
                "perf_event_open": 241,
            }
        ),
    }
)
"""System calls by architecture; those from 424 up have the same number everywhere."""

EVERYWHERE: Mapping[str, int] = MappingProxyType(
    {
        "open_tree": 428,
        "move_mount": 429,
        "fsopen": 430,
        "clone3": 435,
        "pidfd_getfd": 438,
        "mount_setattr": 442,
        "io_uring_setup": 425,
    }
)


def number(name: str) -> int:
    """Return the number of a system call on this machine."""
    return {**NUMBERS[platform.machine()], **EVERYWHERE}[name]


def image(path: Path, change: Callable[[Path], None] = lambda _: None) -> Path:
    """Make ``path``, an ext4 filesystem with a root that has perl; ``change`` is called with its tree."""
    tree = path.with_suffix(".tree")
    for folder in ("etc", "dev", "proc", "tmp", "run", "mnt", "usr/bin", "usr/lib", "usr/lib64"):
        (tree / folder).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (tree / name).symlink_to(f"usr/{name}")
    (tree / "etc/os-release").write_text("ID=hostile\n")
    for program in PROGRAMS:
        copy_program(Path(program), tree)
    for modules in Path("/usr/lib").glob("*/perl-base"):
        shutil.copytree(modules, tree / modules.relative_to("/"), dirs_exist_ok=True)
    change(tree)
    process.run(["mkfs.ext4", "-q", "-d", str(tree), str(path), "48M"])
    shutil.rmtree(tree)
    return path


def copy_program(program: Path, tree: Path) -> None:
    """Copy a program of this machine, and the libraries that it is linked to, into a tree."""
    shutil.copy(program, tree / "usr/bin" / program.name)
    for word in process.run(["ldd", str(program)]).output.split():
        library = Path(word)
        if library.is_absolute() and library.is_file():
            target = tree / library.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
