"""Files that readers see whole, and the directory of a user's cached files."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


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


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def user_cache() -> Path:
    """Return the directory for what can be computed again, ``$XDG_CACHE_HOME`` or ``~/.cache``.

    It may not exist yet.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
