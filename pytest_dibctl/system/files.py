"""Files that readers see whole, and the directory of a user's cached files."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from pathlib import Path
from typing import Final

import platformdirs

_FICLONE: Final = 0x40049409
"""The ioctl with which two files share their blocks until one of them is written to."""


def write_atomically(
    path: Path, content: str | bytes, *, mode: int | None = None, durable: bool = False
) -> None:
    """Replace ``path`` so that a reader sees the old content or the new one; raises OSError.

    The new content is written to a draft beside ``path``, whose name begins with a dot, and renamed. ``mode``
    is the file's permissions, in spite of the umask; None leaves them to the umask, as open() does. With
    ``durable`` the content and the name are on the disk when this returns.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if durable:
        _sync_directory(path.parent)


ROOM_LEFT = 256 << 20
"""Bytes that a copy leaves free: a guest whose disk fills the filesystem halts, and so do its neighbours."""


def copy(source: Path, target: Path) -> int:
    """Copy a file to a new one of mode 0600, sharing its blocks where the filesystem can; return its bytes.

    Raises OSError, before anything is written when there is not enough room.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with source.open("rb") as readable, os.fdopen(os.open(target, flags, 0o600), "wb") as sink:
        size = os.fstat(readable.fileno()).st_size
        try:
            fcntl.ioctl(sink.fileno(), _FICLONE, readable.fileno())
        except OSError:
            needed = size + ROOM_LEFT
            if shutil.disk_usage(target.parent).free < needed:
                raise OSError(errno.ENOSPC, f"{needed >> 20} MiB are needed", str(target)) from None
            done = 0
            while done < size and (sent := os.sendfile(sink.fileno(), readable.fileno(), done, size - done)):
                done += sent
        return size


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex; a file of any size takes no memory. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def user_cache() -> Path:
    """Return the directory for cached files: ``dibctl`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    It may not exist yet.
    """
    return platformdirs.user_cache_path("dibctl")


def former_user_cache() -> Path | None:
    """Return the directory that earlier versions had besides, None where it is gone; nothing reads it."""
    former = platformdirs.user_cache_path("pytest-dibctl")
    return former if former.is_dir() else None
