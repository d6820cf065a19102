"""System calls of Linux that Python 3.11 has no function for; each raises OSError.

Their numbers are the same on every architecture but alpha.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

_OPEN_TREE: Final = 428
_MOVE_MOUNT: Final = 429
_OPENAT2: Final = 437
_MOUNT_SETATTR: Final = 442

_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_MOUNT_ATTR_RDONLY: Final = 0x1
_MOUNT_ATTR_IDMAP: Final = 0x00100000
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_IN_ROOT: Final = 0x10


def open_in_root(root: int, path: str, flags: int) -> int:
    """Open ``path`` as a process would whose root directory is ``root``; return a descriptor.

    Absolute links and ``..`` cannot lead out of ``root``, and links of /proc are not followed (openat2).
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    return _call(_OPENAT2, root, os.fsencode(path), how, len(how))


def clone_mount(path: str) -> int:
    """Return a detached copy of the mount that ``path`` is on, as it is seen from there down.

    The caller owns the descriptor.
    """
    return _call(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), _OPEN_TREE_CLONE | os.O_CLOEXEC)


def map_owners(mount: int, user_namespace: int) -> None:
    """Have a detached mount show its files' owners as those that a user namespace maps them to."""
    attributes = struct.pack("=QQQQ", _MOUNT_ATTR_IDMAP, 0, 0, user_namespace)
    _call(_MOUNT_SETATTR, mount, b"", _AT_EMPTY_PATH, attributes, len(attributes))


def set_read_only(path: str, *, read_only: bool = True, recursive: bool = False) -> None:
    """Have the mount at ``path`` refuse or allow writing, with ``recursive`` also the mounts below it."""
    given = (_MOUNT_ATTR_RDONLY, 0) if read_only else (0, _MOUNT_ATTR_RDONLY)
    attributes = struct.pack("=QQQQ", *given, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    _call(_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), flags, attributes, len(attributes))


def write_filesystem(directory: int) -> None:
    """Have all that was written to the filesystem of an open directory be on its device (syncfs)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(directory) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def attach_mount(mount: int, path: str) -> None:
    """Mount a detached mount at ``path``."""
    _call(_MOVE_MOUNT, mount, b"", _AT_FDCWD, os.fsencode(path), _MOVE_MOUNT_F_EMPTY_PATH)


def _call(number: int, *arguments: int | bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    passed = [
        ctypes.c_long(argument) if isinstance(argument, int) else ctypes.c_char_p(argument)
        for argument in arguments
    ]
    result = int(libc.syscall(ctypes.c_long(number), *passed))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
